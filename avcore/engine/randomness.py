"""The global random generators: seeded for each purpose, given back as they were.

No generator state is ever saved. Whoever draws seeds first from (seed, purpose, epoch, sample), so a run that is
repeated or continued draws the same.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from avcore.data.randomness import torch_generator

__all__ = ["determinism", "isolated_randomness", "seed_generators"]


def seed_generators(seed: int, purpose: str, epoch: int = 0, sample: int = 0) -> None:
    """Seed the global generators of torch (all devices), numpy and Python, such as for ``(0, "dropout", step)``."""
    derived = torch_generator(seed, purpose, epoch, sample).initial_seed()
    torch.manual_seed(derived)
    np.random.seed(derived % 2**32)
    random.seed(derived)


@contextmanager
def isolated_randomness() -> Iterator[None]:
    """Give the caller's global generators back as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextmanager
def determinism(enabled: bool) -> Iterator[None]:
    """Within it, torch uses deterministic algorithms and raises where there is none.

    cuBLAS reads its setting when CUDA starts, so a program that has used CUDA before must set
    ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` itself.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
