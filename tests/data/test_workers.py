"""Loader processes that are killed, crash, hang, or find no room: one line that says what to do."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from avcore.data import workers
from avcore.data.workers import Loaded, check_shared_memory, shared, workers_watched
from avcore.errors import AVCoreError, DataError
from avcore.tasks import Batch

MIB = 1 << 20


def batch(value: int) -> Batch:
    frames = torch.full((2, 1, 3, 64, 64), value, dtype=torch.uint8)
    return Batch(
        frames=frames, waveform=None, targets={}, names=["a", "b"], samples=torch.arange(2), valid=torch.ones(2)
    )


class Items(Dataset[Any]):
    """Batches; with the fourth something happens in the process that makes it."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self.happens = happens

    def __getitem__(self, index: int) -> Batch | AVCoreError:
        if index == 3:
            self.happens()
        try:
            return shared(batch(index))
        except AVCoreError as error:
            return error


def read(happens: Callable[[], object], count: int = 2) -> list[int]:
    return [int(each.frames[0, 0, 0, 0, 0]) for each in Loaded(Items(happens), range(8), count)]


@pytest.mark.parametrize("count", [0, 2])
def test_batches_come_in_their_order(count: int) -> None:
    assert read(lambda: None, count) == list(range(8))


def test_a_killed_process_is_out_of_memory() -> None:
    with pytest.raises(DataError) as caught:
        read(lambda: os.kill(os.getpid(), signal.SIGKILL))
    text = str(caught.value)
    assert text.startswith("A loader process was killed: this machine is probably out of memory.")
    assert "--set data.workers=N" in text
    assert "avcore run --resume DIR" in text
    assert "plugin" not in text


def test_a_crash_is_called_a_crash() -> None:
    with pytest.raises(DataError, match=r"A loader process ended by itself: Segmentation fault\. .* data verify"):
        read(lambda: os.kill(os.getpid(), signal.SIGSEGV))


def test_a_process_that_is_killed_while_the_run_computes() -> None:
    def compute() -> None:
        loaded = iter(Loaded(Items(lambda: None), range(8), 1))
        next(loaded)
        os.kill(torch.multiprocessing.active_children()[-1].pid or 0, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # torch raises here, from its handler of SIGCHLD
            time.sleep(0.01)

    with pytest.raises(DataError, match=r"A loader process was killed: .* out of memory"), workers_watched():
        compute()


NEVER = r"No batch came from the loader processes for 0\.01 min: .*--resume"


def test_a_batch_that_never_comes_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.6)
    with pytest.raises(DataError, match=NEVER):
        read(lambda: time.sleep(30))


def test_a_batch_that_is_not_handed_over_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.6)
    items = iter(Loaded(Items(lambda: None), range(8), 1))
    next(items)
    time.sleep(0.5)  # the next ones are ready and wait for the process to hand them over
    stopped = multiprocessing.active_children()
    for process in stopped:
        os.kill(process.pid or 0, signal.SIGSTOP)
    with pytest.raises(DataError, match=NEVER):
        list(items)
    assert [process.exitcode for process in stopped] == [-signal.SIGKILL]


def test_errors_of_others_pass() -> None:
    def fail() -> None:
        raise RuntimeError("a plugin's own")

    with pytest.raises(RuntimeError, match="a plugin's own"):
        read(fail)
    with pytest.raises(RuntimeError, match="another"), workers_watched():
        raise RuntimeError("another")


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many MiB are free in /dev/shm."""

    def leave(free: int) -> None:
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free, f_frsize=MIB))

    return leave


def test_too_little_shared_memory_is_refused_before(room: Callable[[int], None]) -> None:
    room(64)
    check_shared_memory(4, 100, 8 * MIB)
    with pytest.raises(DataError, match=r"8 loader .* 128\.0 MiB .* where 64\.0 MiB .*data\.workers=4.*--shm-size"):
        check_shared_memory(8, 100, 8 * MIB)
    check_shared_memory(8, 3, 8 * MIB)  # an epoch of three batches never holds more


def test_a_system_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "nowhere")
    check_shared_memory(8, 100, 1 << 50)


def test_memory_that_fills_up_later_ends_the_run_and_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    made = next(iter(Loaded(Items(lambda: None), range(8), 2)))
    assert isinstance(made, DataError)
    assert "/dev/shm is full: 2 loader processes hold more batches than it takes. Load with fewer (--set " in str(made)


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    yield
    for child in torch.multiprocessing.active_children():
        child.terminate()
        child.join()
