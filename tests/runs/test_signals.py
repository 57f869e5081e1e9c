"""SIGTERM, SIGUSR1 and Ctrl-C, whatever the run is doing: it saves, leaves, and goes on later to the same end."""

import json
import multiprocessing
import os
import pty
import signal
import sys
import time
from contextlib import suppress

import pytest

import avcore
from avcore.engine import checkpoint
from avcore.engine.signals import Preempted, Signals

SECONDS_TO_LEAVE = 25.0


def send(number, *, nth=1, then=lambda: None):
    """Signal the run (not its loader processes) the ``nth`` time that it comes here."""
    run, count = os.getpid(), 0

    def act():
        nonlocal count
        count += 1
        if count == nth:
            os.kill(run, number)
            then()

    return act


@pytest.fixture(autouse=True)
def a_terminal_that_may_close():
    """Whoever started the tests may have had SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory, end_of):
    out = tmp_path_factory.mktemp("straight") / "run"
    avcore.run("rowing", task="listen", epochs=2, out=out, quiet=True)
    return end_of(out)


def stuck():
    """A file server that does not answer."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(1)


TERM, USR1, INT, HUP = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP
MOMENTS = [
    # signal, moment, its options, loader processes, steps of which one must be saved then
    pytest.param(TERM, "step", {"nth": 9}, 0, [3], id="in a step"),
    pytest.param(HUP, "step", {"nth": 9}, 0, [3], id="a closed terminal, in a step"),
    pytest.param(INT, "step", {"nth": 9}, 2, [3], id="Ctrl-C in a step, with workers"),
    pytest.param(USR1, "evaluation", {"nth": 3}, 0, [6], id="in an evaluation"),
    pytest.param(TERM, "evaluation", {"nth": 1, "then": stuck}, 2, [3], id="in an evaluation that is stuck"),
    pytest.param(TERM, "data", {"nth": 29, "then": stuck}, 0, [4], id="awaiting data"),
    pytest.param(TERM, "data", {"nth": 16, "then": stuck}, 2, [3, 4, 5], id="awaiting workers that are stuck"),
    pytest.param(USR1, "saving", {"nth": 3}, 0, [6], id="in a save"),
    pytest.param(INT, "picture", {"nth": 15}, 0, [6], id="after training"),
]


@pytest.mark.parametrize(("number", "moment", "options", "workers", "steps"), MOMENTS)
def test_it_saves_and_leaves_and_goes_on(
    start, world, tmp_path, monkeypatch, end_of, straight, number, moment, options, workers, steps
):
    world.MOMENTS[moment] = send(number, **options)
    serialise = checkpoint.serialise
    monkeypatch.setattr(checkpoint, "serialise", lambda tensors: (world.moment("saving"), serialise(tensors))[1])
    before, started = [signal.getsignal(each) for each in (TERM, USR1, INT)], time.monotonic()
    with pytest.raises((Preempted, KeyboardInterrupt)) as caught:
        start(epochs=2, set=[f"data.workers={workers}"], resume=True)
    assert time.monotonic() - started < SECONDS_TO_LEAVE
    assert caught.type is (KeyboardInterrupt if number == INT else Preempted)
    assert getattr(caught.value, "code", 143) == 143
    assert [signal.getsignal(each) for each in (TERM, USR1, INT)] == before
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "interrupted"
    assert f"interrupted by {number.name}; " in (tmp_path / "run" / "log.txt").read_text()
    done = checkpoint.CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").progress
    assert done.step in steps
    world.MOMENTS.clear()
    caught = None
    avcore.run(resume=tmp_path / "run", quiet=True)
    assert end_of(tmp_path / "run") == straight


def test_before_the_first_step_there_is_nothing_to_save(start, world, tmp_path, monkeypatch, end_of, straight):
    monkeypatch.setenv("AVCORE_CACHE", str(tmp_path / "fresh"))
    read = avcore.runs.data.ClipLoader.prepare

    def prepare(*arguments):
        world.moment("decoding")
        read(*arguments)

    monkeypatch.setattr(avcore.runs.data.ClipLoader, "prepare", prepare)
    world.MOMENTS["decoding"] = send(TERM)
    directory = tmp_path / "run #1"
    with pytest.raises(Preempted):
        start(epochs=2, out=directory)
    log = (directory / "log.txt").read_text()
    assert f"nothing was saved yet; to go on: avcore run --resume '{directory}'\n" in log
    avcore.run(resume=directory, quiet=True)
    assert end_of(directory) == straight


def test_a_second_ctrl_c_stops_without_saving(start, world, tmp_path):
    def press_again():
        time.sleep(1.1)
        os.kill(os.getpid(), INT)
        stuck()

    world.MOMENTS["step"] = send(INT, nth=14, then=press_again)
    with pytest.raises(KeyboardInterrupt):
        start(epochs=2)
    assert checkpoint.CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").progress.step == 3


def test_a_signal_sent_twice_at_once_counts_once(start, world, tmp_path):
    world.MOMENTS["step"] = send(INT, nth=6, then=send(INT))
    with pytest.raises(KeyboardInterrupt):
        start(epochs=2)
    assert checkpoint.CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").progress.step == 2


# --------------------------------------------------------------------------------------------------------------------
# The mechanism itself


def test_a_signal_waits_for_the_end_of_what_must_not_be_torn():
    done = []

    def work(signals):
        with signals.deferred():
            os.kill(os.getpid(), TERM)
            done.append(signals.received)

    with Signals() as signals, pytest.raises(Preempted):
        work(signals)
    assert done == [TERM]


def test_a_signal_that_was_noted_raises_when_data_are_awaited_next():
    taken = []

    def take(signals):
        with signals.deferred():
            for item in signals.waiting(range(5)):
                taken.append(item)
                if item == 2:
                    os.kill(os.getpid(), INT)

    with Signals() as signals, pytest.raises(KeyboardInterrupt):
        take(signals)
    assert taken == [0, 1, 2]


def test_a_run_that_nohup_started_outlives_its_terminal():
    signal.signal(HUP, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), HUP)
        assert signals.received is None
    assert signal.getsignal(HUP) == signal.SIG_IGN


LAST_WORDS = """
import sys, time
from pathlib import Path
from avcore.engine.signals import Preempted, Signals
with Signals():
    try:
        print("begun", flush=True)
        time.sleep(60)
    except Preempted:
        print("saving", flush=True)
        Path(sys.argv[1]).write_text("saved")
        raise
"""


def test_a_terminal_that_is_closed_does_not_keep_a_run_from_saving(tmp_path):
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", LAST_WORDS, str(tmp_path / "saved")])
    assert b"begun" in os.read(terminal, 100)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.parametrize(("number", "expected"), [(TERM, Preempted), (INT, KeyboardInterrupt)])
def test_a_signal_in_a_finaliser_is_not_lost(number, expected, capsys):
    class Loader:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(1)

    def work():
        loader = Loader()
        del loader
        time.sleep(5)

    hook = sys.unraisablehook
    with Signals() as signals, pytest.raises(expected):
        work()
    assert signals.received == number
    assert sys.unraisablehook == hook
    assert "ignored" not in capsys.readouterr().err


def test_only_loaders_of_the_run_are_ended():
    context = multiprocessing.get_context("fork")
    mine = context.Process(target=time.sleep, args=(60,))
    mine.start()
    try:
        with suppress(Preempted), Signals():
            ready = context.Event()
            loader = context.Process(target=lambda: (ready.set(), time.sleep(60)))
            loader.start()
            assert ready.wait(10)
            raise Preempted
        assert loader.exitcode == -TERM  # it is waited for: nothing of a run outlives it
        assert mine.is_alive()
    finally:
        mine.kill()
        mine.join()


def test_no_handler_can_be_set_in_a_thread_and_nothing_breaks(start):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(start, epochs=1).result()
    assert run.results.status == "finished"
