"""Clips of a split, in batches, in an order that depends on the seed and the epoch alone.

Shape letters: B clips, T segments, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from avcore.data.cache import ClipCache
from avcore.data.randomness import generator
from avcore.errors import AVCoreError, did_you_mean
from avcore.specs import ImageGeometry
from avcore.tasks import Batch, Clip, Dataset

__all__ = ["ClipLoader", "Sound"]

Sound = Literal["own", "swapped", "mute"]

T = TypeVar("T")

Request = tuple[list[int], int]
"""The clips of a batch, by their place in the split, and how many of them count."""


class ClipLoader:
    """Batches of a split, by way of the clip cache.

    The order of epoch e derives from (seed, "order", e), whatever the number of workers. A last batch of fewer clips is
    filled up with others of the split, marked invalid. Workers are processes started as torch does on the platform (by
    fork on Linux, else by spawn), each on one thread; they decode, read masks and stack, and stay for all epochs.

    Args:
        dataset: the reader.
        split: one of its splits.
        image: what the visual backbone takes, None if that stream is off.
        audio_rate: what the audio backbone takes, Hz, None if that stream is off.
        batch_size: B.
        shuffle: whether each epoch has an order of its own.
        seed: of the order and of the pairs of ``sound="swapped"``.
        workers: processes that load; 0 loads in this one.
        cache: root of the clip cache, None for the default.
        drop_last: leave out a last batch of fewer clips, unless it is the only one.
        sound: ``own``; ``swapped``, that of another clip of the split, of another `Clip.group` where clips have groups,
            the same one in every epoch; ``mute``, zeros.

    Raises:
        AVCoreError: no such split, no clips, clips of different lengths, or nobody to swap with.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        image: ImageGeometry | None,
        audio_rate: int | None,
        batch_size: int,
        shuffle: bool,
        seed: int,
        workers: int = 0,
        cache: Path | None = None,
        drop_last: bool = False,
        sound: Sound = "own",
    ) -> None:
        if split not in dataset.splits:
            known = ", ".join(dataset.splits)
            raise AVCoreError(f"There is no split '{split}' here, only {known}.{did_you_mean(split, dataset.splits)}")
        self.clips = list(dataset.clips(split))
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        if not self.clips:
            raise AVCoreError(f"Split '{split}' has 0 clips.")
        if len({clip.seconds for clip in self.clips}) > 1:
            short, long = (pick(self.clips, key=lambda clip: clip.seconds) for pick in (min, max))
            raise AVCoreError(
                f"Clips of split '{split}' must be of one length to be stacked, but {short.name} lasts "
                f"{short.seconds} s and {long.name} {long.seconds} s. Let the reader give all the same `seconds`."
            )
        sounds: list[Clip] | None = self.clips
        if sound == "swapped":
            donors = swap(len(self.clips), [clip.group for clip in self.clips], seed)
            sounds = [self.clips[donor] for donor in donors]
        elif sound == "mute":
            sounds = None
        self._reader = _Reader(
            dataset,
            self.clips,
            sounds,
            ClipCache(cache, segments=dataset.segments),
            None if image is None else image.size,
            audio_rate,
        )
        self._workers = workers
        self._epoch = 0
        self._position = 0
        self._requests: list[Request] = []
        self._loader: DataLoader[Batch | AVCoreError] = _torch_loader(self._reader, self._requests, workers)

    def __len__(self) -> int:
        """Batches of an epoch."""
        full, rest = divmod(len(self.clips), self.batch_size)
        return full + (rest > 0 and not (self.drop_last and full))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self._epoch = epoch

    def set_position(self, batch: int) -> None:
        """Let the next iteration, and that one alone, begin with this batch of the epoch instead of batch 0."""
        self._position = batch

    def __iter__(self) -> Iterator[Batch]:
        first, self._position = self._position, 0
        self._requests[:] = self._schedule(self._epoch)[first:]
        for batch in self._loader:
            yield _checked(batch)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode every clip of the split that the cache does not hold yet; ``progress(done, total)`` after each such.

        Raises:
            AVCoreError: a file is missing or cannot be read.
        """
        filler = _torch_loader(_Filler(self._reader), range(len(self.clips)), self._workers)
        for done, filled in enumerate(filler, start=1):
            if _checked(filled) and progress is not None:
                progress(done, len(self.clips))

    def _schedule(self, epoch: int) -> list[Request]:
        total = len(self.clips)
        order = generator(self.seed, "order", epoch).permutation(total) if self.shuffle else np.arange(total)
        requests: list[Request] = []
        for batch in range(len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            padding = np.resize(order, self.batch_size - len(chosen))
            requests.append(([*chosen.tolist(), *padding.tolist()], len(chosen)))
        return requests


def swap(total: int, groups: Sequence[str], seed: int) -> list[int]:
    """For each of ``total`` clips another one of another group (an empty group counts as a group of its own).

    Every clip is chosen once, unless a group holds more than half of all clips: then some must be chosen again.

    Raises:
        AVCoreError: there is only one group.
    """
    own = [group or index for index, group in enumerate(groups)]
    if len(set(own)) < 2:
        raise AVCoreError(f"The sound of {total} clips cannot be swapped: it takes clips of two groups at least.")
    draws = generator(seed, "swap")
    donors: list[int] = draws.permutation(total).tolist()
    for clip in range(total):
        if own[donors[clip]] != own[clip]:
            continue
        others = draws.permutation(total).tolist()
        free = (other for other in others if own[clip] not in (own[other], own[donors[other]]))
        partner = next(free, None)
        if partner is None:
            donors[clip] = next(other for other in others if own[other] != own[clip])
        else:
            donors[clip], donors[partner] = donors[partner], donors[clip]
    return donors


class _Reader(TorchDataset[Batch | AVCoreError]):
    """Makes whole batches, in this process or in a worker.

    An error is returned, not raised: torch would wrap its message in a traceback of the worker.
    """

    def __init__(
        self,
        dataset: Dataset,
        clips: Sequence[Clip],
        sounds: Sequence[Clip] | None,
        cache: ClipCache,
        size: int | None,
        rate: int | None,
    ) -> None:
        self.dataset = dataset
        self.clips = clips
        self.sounds = sounds
        self.cache = cache
        self.size = size
        self.rate = rate

    def __getitem__(self, request: Request) -> Batch | AVCoreError:
        chosen, valid = request
        try:
            return Batch(
                frames=self._frames(chosen),
                waveform=self._waveform(chosen),
                targets=self._targets([self.clips[index] for index in chosen]),
                names=[self.clips[index].name for index in chosen],
                valid=torch.arange(len(chosen)) < valid,
            )
        except AVCoreError as error:
            return error

    def _frames(self, chosen: Sequence[int]) -> Tensor | None:
        if self.size is None:
            return None
        return torch.from_numpy(np.stack([self.cache.frames(self.clips[index], self.size) for index in chosen]))

    def _waveform(self, chosen: Sequence[int]) -> Tensor | None:
        if self.rate is None:
            return None
        if self.sounds is None:
            return torch.zeros(len(chosen), round(self.clips[0].seconds * self.rate), dtype=torch.int16)
        return torch.from_numpy(np.stack([self.cache.audio(self.sounds[index], self.rate) for index in chosen]))

    def _targets(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        targets = [self.dataset.target(clip) for clip in clips]
        for clip, target in zip(clips, targets, strict=True):
            shapes = {name: tuple(tensor.shape) for name, tensor in target.items()}
            expected = {name: tuple(tensor.shape) for name, tensor in targets[0].items()}
            if shapes != expected:
                raise AVCoreError(
                    f"The targets of clip {clip.name} are {shapes}, those of clip {clips[0].name} {expected}; "
                    "the reader must give all clips of a split the same."
                )
        return {name: torch.stack([target[name] for target in targets]) for name in targets[0]}


class _Filler(TorchDataset[AVCoreError | bool]):
    """Puts single clips into the cache; False where it held them already."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader

    def __getitem__(self, index: int) -> AVCoreError | bool:
        reader, clip = self.reader, self.reader.clips[index]
        before = reader.cache.decoded
        try:
            if reader.size is not None:
                reader.cache.frames(clip, reader.size)
            if reader.rate is not None and reader.sounds is not None:
                reader.cache.audio(clip, reader.rate)
        except AVCoreError as error:
            return error
        return reader.cache.decoded > before


def _checked(made: T | AVCoreError) -> T:
    if isinstance(made, AVCoreError):
        # A new error: one that a local name still held would keep the workers alive in a cycle with its traceback, and
        # torch takes 5 s to end workers that are collected as garbage.
        raise AVCoreError(str(made))
    return made


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _torch_loader(dataset: TorchDataset[T], sampler: Sequence[object], workers: int) -> DataLoader[T]:
    return DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
        # torch draws a seed for its workers at each epoch; from a generator of their own, lest the global one moves.
        generator=torch.Generator().manual_seed(0),
    )
