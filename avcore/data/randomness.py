"""Random numbers that depend on what they are for and on nothing else.

Every draw derives from (seed, purpose, epoch, sample) through a counter-based generator, so that the number of workers,
the order of calls and a resumed run leave it unchanged.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from avcore.tasks import Clip, Dataset

__all__ = ["drawn", "generator", "torch_generator"]


def _key(seed: int, purpose: str, epoch: int, sample: int) -> int:
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}/{sample}".encode()).digest()
    return int.from_bytes(digest[:16], "little")


def generator(seed: int, purpose: str, epoch: int = 0, sample: int = 0) -> np.random.Generator:
    """A numpy generator (Philox) of its own for one draw, such as ``generator(0, "order", epoch)``."""
    return np.random.Generator(np.random.Philox(key=_key(seed, purpose, epoch, sample)))


def drawn(dataset: Dataset, clip: Clip, index: int, *, seed: int = 0, epoch: int = 0) -> Clip:
    """The clip as an epoch sees it, by default as an evaluation does: what `Dataset.target` and `inputs` are given.

    Args:
        dataset: draws.
        clip: of a split.
        index: its place there.
        seed: of the run.
        epoch: from 0.
    """
    return dataset.draw(clip, generator(seed, "draw", epoch, index))


def torch_generator(seed: int, purpose: str, epoch: int = 0, sample: int = 0, device: str = "cpu") -> torch.Generator:
    """The same for torch; Philox on a GPU, hence other numbers there than on the CPU."""
    import torch

    return torch.Generator(device).manual_seed(_key(seed, purpose, epoch, sample) % 2**63)
