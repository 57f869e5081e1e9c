"""Clips of a split, in batches, in an order that depends on the seed and the epoch alone.

Shape letters: B clips, T segments, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from torch import Tensor

from avcore.data.balance import balanced_chances
from avcore.data.broken import BrokenClips, BrokenPolicy, refuse_missing
from avcore.data.cache import ClipCache
from avcore.data.changes import OWN, Change
from avcore.data.kept import Wanted
from avcore.data.randomness import generator
from avcore.data.reader import Filler, Reader, Reading, Request
from avcore.data.workers import Loaded, check_shared_memory
from avcore.errors import AVCoreError, DataError, did_you_mean
from avcore.specs import AudioGeometry, ImageGeometry
from avcore.tasks import Batch, Dataset

__all__ = ["ClipLoader"]

T = TypeVar("T")


class ClipLoader:
    """Batches of a split, by way of the clip cache.

    The order of epoch e derives from (seed, "order", e), whatever the number of workers. A last batch of fewer clips is
    filled up with others of the split, marked invalid, or as ``last`` says; the only one is as small as the clips of a
    process let it be. Workers are processes started as torch does on the platform (by fork on Linux, else by spawn),
    each on one thread; they decode, read masks and stack, and stay for all epochs, until `close`.

    Among several processes the batches are the same, and the clips of each are dealt out in turn: each is with one of
    them, and all have as many batches. Who gets none of the last one is given a clip marked invalid.

    A clip is broken when its pictures, its sound, its target or its inputs are missing or cannot be read. Where
    ``broken`` is not ``stop``, another clip of the split takes its place in the batch, drawn from (seed, "replacement",
    e, clip), whatever the number of workers: it counts in training (``replace``) and is marked invalid where scores are
    taken (``leave_out``).

    Args:
        dataset: the reader.
        split: one of its splits.
        image: what the visual backbone takes, None if that stream is off.
        audio: what the audio backbone takes, None if that stream is off.
        batch_size: B, of all processes together.
        shuffle: whether each epoch has an order of its own.
        seed: of the order, of whose sound a clip is given, and of noise.
        rank, world: which of how many processes that share the split this loader is for.
        workers: processes that load; 0 loads in this one.
        cache: root of the clip cache, None for the default.
        last: what becomes of a last batch of fewer clips: ``fill`` it up; ``keep`` it as small as it is; ``drop`` it,
            unless it is the only one, which is kept.
        balance: a target of the data set: each epoch draws as many clips as there are, with repetition, by the chances
            of `balanced_chances`; None draws each clip once. With ``shuffle`` only.
        partners: whether clips come with the sound of another one of the split, as the companion `PARTNER`; drawn from
            (seed, "partner", epoch, clip).
        kept: the streams whose features of the clips themselves are kept, each with where: of what is found nothing is
            read. Not of a stream that ``change`` mutes or gives noise.
        companions: what is read of companions, by name: streams, each with where its features are kept, or None; both
            streams of one that is not named.
        change: what clips are given in place of their own; what is muted is not read.
        broken: what is done about a broken clip.
        broken_limit: the share of the split's clips, 0 to 1, that may be broken.
        on_broken: called once for each broken clip, with its name and what is wrong.

    Raises:
        AVCoreError: no such split, no clips, clips of different lengths, nobody to swap with, batches of fewer clips
            than there are processes, or too little shared memory for the workers.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        *,
        image: ImageGeometry | None,
        audio: AudioGeometry | None,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        cache: Path | None = None,
        last: Literal["fill", "keep", "drop"] = "fill",
        balance: str | None = None,
        partners: bool = False,
        kept: Mapping[str, Wanted] | None = None,
        companions: Mapping[str, Mapping[str, Wanted | None]] | None = None,
        change: Change = OWN,
        broken: BrokenPolicy = "stop",
        broken_limit: float = 0.01,
        on_broken: Callable[[str, str], None] | None = None,
    ) -> None:
        if split not in dataset.splits:
            known = ", ".join(dataset.splits)
            raise DataError(f"There is no split '{split}' here, only {known}.{did_you_mean(split, dataset.splits)}")
        self.clips = list(dataset.clips(split))
        if batch_size < world and last != "fill":
            raise DataError(
                f"train.batch_size={batch_size} is less than a clip for each of {world} processes: raise it, or start "
                f"{batch_size}."
            )
        self.batch_size, self.shuffle, self.seed, self.last = batch_size, shuffle, seed, last
        self.rank, self.world = rank, world
        if not self.clips:
            raise DataError(f"Split '{split}' has 0 clips.")
        if last == "fill":
            # What fills a batch up takes as long as a clip does.
            self.batch_size = min(batch_size, len(self.clips))
        if broken == "stop":
            read = [stream for stream, wanted in (("visual", image), ("audio", audio)) if wanted is not None]
            visual, heard = (stream in read and stream not in change.muted for stream in ("visual", "audio"))
            refuse_missing(split, self.clips, visual=visual, audio=heard)
        if len({clip.seconds for clip in self.clips}) > 1:
            short, long = (pick(self.clips, key=lambda clip: clip.seconds) for pick in (min, max))
            raise DataError(
                f"Clips of split '{split}' must be of one length to be stacked, but {short.name} lasts "
                f"{short.seconds} s and {long.name} {long.seconds} s. Let the reader give all the same `seconds`."
            )
        self._chances: np.ndarray | None = None
        if balance is not None:
            self._chances = balanced_chances(dataset, self.clips, balance, skip=broken != "stop")
        sounds = self.clips
        if change.sound == "swapped":
            donors = swap(len(self.clips), [clip.group for clip in self.clips], seed)
            sounds = [self.clips[donor] for donor in donors]
        # The reader's own list is that of one process among several; this one has all.
        self._broken = BrokenClips(split, len(self.clips), broken_limit)
        self._on_broken = on_broken
        self._reader = Reader(
            dataset,
            self.clips,
            sounds,
            change,
            ClipCache(cache, segments=dataset.segments),
            image=image,
            audio=audio,
            seed=seed,
            policy=broken,
            broken=BrokenClips(split, len(self.clips), broken_limit),
            kept=kept,
            partners=partners and audio is not None,
            companions=companions,
        )
        self._workers = workers
        self._epoch = 0
        self._position = 0
        self._requests: list[Request] = []
        if workers:
            check_shared_memory(workers, len(self), self._batch_bytes())
        self._loader: Loaded[Reading | AVCoreError] = Loaded(self._reader, self._requests, workers, stay=True)

    def _batch_bytes(self) -> int:
        """Of pictures and sound; what a task adds is the reader's to know."""
        image, audio = self._reader.image, self._reader.audio
        pictures = 0 if image is None else self._reader.dataset.segments * math.prod(image.shape)
        sounds = 2 if self._reader.partners else 1
        sound = 0 if audio is None else sounds * 2 * math.prod(audio.shape(self.clips[0].seconds))
        return math.ceil(self.batch_size / self.world) * (pictures + sound)

    @property
    def broken(self) -> Mapping[str, str]:
        """The broken clips found so far: name and what is wrong."""
        return self._broken.causes

    def __len__(self) -> int:
        """Batches of an epoch."""
        full, rest = divmod(len(self.clips), self.batch_size)
        return full + (rest > 0 and not (self.last == "drop" and full))

    @property
    def left_out(self) -> int:
        """Clips that an epoch leaves out since they do not fill a batch."""
        return max(0, len(self.clips) - len(self) * self.batch_size)

    def close(self) -> None:
        """End the workers, which stay between epochs; another iteration starts new ones.

        Where the garbage collector ends them, it waits 5 s for each, in whatever runs then.
        """
        self._loader.close()

    def pictures(self, sample: int) -> Tensor | None:
        """The pictures of the clip at that place in the split, where a batch left them out because they are known.

        (T, [K,] 3, Y, X) uint8; None where that stream is off.
        """
        return self._reader.pictures(sample)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self._epoch = epoch

    def set_position(self, batch: int) -> None:
        """Let the next iteration, and that one alone, begin with this batch of the epoch instead of batch 0."""
        self._position = batch

    def __iter__(self) -> Iterator[Batch]:
        first, self._position = self._position, 0
        self._requests[:] = self._schedule(self._epoch)[first:]
        for made in self._loader:
            reading = _checked(made)
            self._report(reading.broken)
            yield reading.batch

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode every clip of the split that the cache does not hold yet; ``progress(done, total)`` after each such.

        Each of several processes takes its share.

        Raises:
            AVCoreError: a file is missing or cannot be read, or, where broken clips are not to stop, too many are.
        """
        filler = Loaded(Filler(self._reader), range(self.rank, len(self.clips), self.world), self._workers)
        for done, made in enumerate(filler, start=1):
            filled = _checked(made)
            self._report(filled.broken)
            if filled.decoded and progress is not None:
                progress(min(done * self.world, len(self.clips)), len(self.clips))

    def _report(self, broken: Mapping[str, str]) -> None:
        for name, cause in self._broken.add(broken).items():
            if self._on_broken is not None:
                self._on_broken(name, cause)

    def _order(self, epoch: int) -> np.ndarray:
        total = len(self.clips)
        if not self.shuffle:
            return np.arange(total)
        draws = generator(self.seed, "order", epoch)
        return draws.permutation(total) if self._chances is None else draws.choice(total, total, p=self._chances)

    def _schedule(self, epoch: int) -> list[Request]:
        order, whole = self._order(epoch), self.batch_size
        requests: list[Request] = []
        for batch in range(len(self)):
            chosen = order[batch * whole : (batch + 1) * whole][self.rank :: self.world]
            wanted = math.ceil(whole / self.world) if self.last == "fill" else max(1, len(chosen))
            padding = np.resize(order, wanted - len(chosen))
            clips = [*chosen.tolist(), *padding.tolist()]
            requests.append(Request(clips=clips, valid=len(chosen), epoch=epoch))
        return requests


def swap(total: int, groups: Sequence[str], seed: int) -> list[int]:
    """For each of ``total`` clips another one of another group (an empty group counts as a group of its own).

    Every clip is chosen once, unless a group holds more than half of all clips: then some must be chosen again.

    Raises:
        AVCoreError: there is only one group.
    """
    own = [group or index for index, group in enumerate(groups)]
    if len(set(own)) < 2:
        raise DataError(f"The sound of {total} clips cannot be swapped: it takes clips of two groups at least.")
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


def _checked(made: T | AVCoreError) -> T:
    if isinstance(made, AVCoreError):
        # A new error: one that a local name still held would keep the workers alive in a cycle with its traceback, and
        # torch takes 5 s to end workers that are collected as garbage.
        raise DataError(str(made))
    return made
