"""What a loader process does at its start."""

import os
import signal
import threading

import torch

__all__ = ["start_worker"]

STOPS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})


def start_worker(index: int) -> None:
    """Compute on one thread, and leave the signals that stop a run to the run, which still needs its data.

    A terminal and a scheduler signal every process of a job. SIGTERM of the run itself ends the worker, even one that
    is stuck in a file.
    """
    torch.set_num_threads(1)
    # In this thread, and so in all that it starts: the signals then wait for `sigwaitinfo`.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(run: int) -> None:
    while True:
        told = signal.sigwaitinfo(STOPS)
        if told.si_signo == signal.SIGTERM and told.si_pid == run:
            os._exit(0)
