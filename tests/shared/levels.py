"""A data set of eleven clips that are known by their numbers, and what is asked of their batches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from avcore.data.loader import ClipLoader
from avcore.specs import Windows
from avcore.tasks import Batch, Clip, Dataset


class Levels(Dataset):
    """Eleven clips of two pictures and one second of sound, all of them the number of the clip."""

    segments = 2
    windows = Windows(length=0.5, margin=0.5)
    splits = ("train", "test")

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = clips

    def clips(self, split: str) -> Sequence[Clip]:
        return self._clips if split == "train" else []

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {"number": torch.tensor(clip.info["number"]), "mask": torch.full((2, 4), float(clip.info["number"]))}


def numbers(loader: ClipLoader) -> list[list[int]]:
    return [batch.targets["number"].tolist() for batch in loader]


def joined(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def assert_same(left: Batch, right: Batch) -> None:
    assert left.names == right.names
    assert left.frames is not None
    assert right.frames is not None
    assert left.waveform is not None
    assert right.waveform is not None
    assert torch.equal(left.frames, right.frames)
    assert torch.equal(left.waveform, right.waveform)
    assert torch.equal(left.valid, right.valid)
    assert torch.equal(left.targets["mask"], right.targets["mask"])
