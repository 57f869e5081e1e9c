"""Which of several processes this is, and what they say to each other; nothing else reads their number.

Processes are started by ``torchrun``, or by a program that calls `torch.distributed.init_process_group` itself.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing import errors

__all__ = [
    "PATIENCE",
    "Ranks",
    "any_of",
    "from_all",
    "from_first",
    "in_turn",
    "joined",
    "ranks",
    "share",
    "summed",
    "wait",
]

T = TypeVar("T")

PATIENCE = 50.0
"""s that a process waits in a step or for scores for one that hangs; launchers need some more to end the others."""
LONG = timedelta(days=1)
"""For what one process does alone, such as making files."""


class Ranks(NamedTuple):
    """This process among others.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        local: its number on this machine, which is that of its GPU.
    """

    rank: int
    world: int
    local: int

    @property
    def first(self) -> bool:
        """Whether it is the one that shows, logs and writes."""
        return self.rank == 0


def ranks() -> Ranks:
    """Those of ``torch.distributed`` where it is initialised, else those that torchrun sets, else the first of one."""
    rank, world, local = (int(os.environ.get(name, alone)) for name, alone in _VARIABLES.items())
    if dist.is_available() and dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()
    return Ranks(rank, world, local)


_VARIABLES = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}


@contextmanager
def joined() -> Iterator[None]:
    """Within it the processes that torchrun started are one group; nothing for one alone, or where they are already.

    An error is written where torchrun looks for the traceback of the process that failed first.
    """
    if ranks().world == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks().local)
    # Scores are merged on the CPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=PATIENCE))
    _patient.append(dist.new_group(backend="gloo", timeout=LONG))
    handler = errors.get_error_handler()
    handler.initialize()
    try:
        yield
    except Exception as error:
        handler.record_exception(error)
        raise
    finally:
        _patient.clear()
        dist.destroy_process_group()


_patient: list[dist.ProcessGroup] = []


def share(clips: int) -> int:
    """How many of the clips of a batch are with this process, where they are dealt out in turn."""
    here = ranks()
    return len(range(here.rank, clips, here.world))


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if ranks().world > 1:
        dist.all_reduce(values)
    return values


def wait() -> None:
    """Wait until all processes are here, however long that takes."""
    if ranks().world > 1:
        dist.barrier(_patient[0] if _patient else None)


def any_of(value: bool) -> bool:
    """Whether it is so in any process."""
    return bool(summed(torch.tensor(int(value))))


@contextmanager
def in_turn() -> Iterator[None]:
    """The others begin what stands in it when the first process is done with it, such as making files."""
    if not ranks().first:
        wait()
    yield
    if ranks().first:
        wait()


def from_all(value: T) -> list[T]:
    """What each process gives, for all, in their order."""
    here = ranks()
    shared = [value] * here.world
    if here.world > 1:
        dist.all_gather_object(shared, value)
    return shared


def from_first(value: T) -> T:
    """What the first process gives, for all."""
    if ranks().world == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared)
    return shared[0]
