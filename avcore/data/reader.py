"""Whole batches out of the clip cache, in this process or in a worker, with or without clips that cannot be read.

Shape letters: B clips, T segments, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from avcore.data.broken import BrokenClips, BrokenPolicy, reading_of
from avcore.data.cache import CacheError, ClipCache
from avcore.data.changes import Change
from avcore.data.kept import Wanted, load_segments
from avcore.data.randomness import drawn, generator
from avcore.data.workers import shared
from avcore.errors import AVCoreError, DataError
from avcore.features import Kept
from avcore.specs import STREAMS, AudioGeometry, ImageGeometry
from avcore.tasks import Batch, Clip, Dataset

__all__ = ["PARTNER", "Filled", "Filler", "Reader", "Reading", "Request"]

T = TypeVar("T")

PARTNER = "train.augment.mix"
"""The companion whose sound a clip is mixed with; it has no pictures."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A batch that is wanted.

    Attributes:
        clips: their places in the split.
        valid: how many of them, from the first on, count.
        epoch: derives which clips take the places of broken ones.
    """

    clips: list[int]
    valid: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A batch, and the clips that turned out to be broken meanwhile, by name and cause."""

    batch: Batch
    broken: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Filled:
    """One clip put into the cache: whether it was not there, and if it is broken, its name and the cause."""

    decoded: bool
    broken: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is there of the pictures and the sound of one clip; None for a stream that is off or known.

    Attributes:
        features: by stream, what was found of those that are kept.
        files: by stream, where that is.
    """

    frames: np.ndarray | None = None
    sound: np.ndarray | None = None
    features: Mapping[str, dict[str, Tensor] | None] = field(default_factory=dict)
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What a batch takes of one clip."""

    name: str
    seen: _Seen
    target: dict[str, Tensor]
    inputs: dict[str, Tensor]
    companions: dict[str, _Content]


class Reader(TorchDataset[Reading | AVCoreError]):
    """Makes batches.

    An error is returned, not raised: torch would wrap its message in a traceback of the worker.

    Args:
        dataset: gives the targets.
        clips: the split.
        sounds: for each clip the one that it is heard with.
        change: what else clips are given in place of their own pictures and sound.
        cache: of decoded clips.
        image: the pictures that are wanted; None leaves them out.
        audio: the sound that is wanted; None leaves it out.
        seed: of noise, and of the clips that take the places of broken ones.
        policy: what is done about a broken clip.
        broken: those that this process knows.
        kept: the streams whose features of clips themselves are kept, each with where.
        partners: every clip comes with the sound of another one, drawn from (seed, "partner", epoch, clip).
        companions: of those whose head says so, the streams that are read, each with where its features are kept.
    """

    def __init__(
        self,
        dataset: Dataset,
        clips: Sequence[Clip],
        sounds: Sequence[Clip],
        change: Change,
        cache: ClipCache,
        *,
        image: ImageGeometry | None,
        audio: AudioGeometry | None,
        seed: int,
        policy: BrokenPolicy,
        broken: BrokenClips,
        kept: Mapping[str, Wanted] | None = None,
        partners: bool = False,
        companions: Mapping[str, Mapping[str, Wanted | None]] | None = None,
    ) -> None:
        self.dataset = dataset
        self.clips = clips
        self.sounds = sounds
        self.change = change
        self.cache = cache
        self.image = image
        self.audio = audio
        self.seed = seed
        self.policy = policy
        self.broken = broken
        self.kept = kept or {}
        self.partners = partners
        self.companions = companions or {}

    def __getitem__(self, request: Request) -> Reading | AVCoreError:
        found: dict[str, str] = {}
        try:
            read = [self._readable(index, request.epoch, found) for index in request.clips]
            chosen = [index for index, _ in read]
            if self.partners:
                read = [(index, self._with_partner(content, index, request.epoch, found)) for index, content in read]
            valid = torch.arange(len(chosen)) < request.valid
            if self.policy == "leave_out":
                valid &= torch.tensor(chosen) == torch.tensor(request.clips)
            batch = shared(self._batch([content for _, content in read], torch.tensor(chosen), valid))
        except AVCoreError as error:
            return error
        return Reading(batch=batch, broken=found)

    def media(self, index: int, gone: Collection[str] = ()) -> _Seen:
        """Pictures and sound of a clip, or what frozen streams have made of them before.

        Args:
            index: the clip's place in the split.
            gone: streams of which there is nothing.

        Raises:
            CacheError: the cache cannot be used.
            AVCoreError: the clip is broken.
        """
        return self._seen({**dict.fromkeys(STREAMS), **self.kept}, self.clips[index], self.sounds[index], gone)

    def pictures(self, index: int) -> Tensor | None:
        """The pictures of a clip as a batch would have them, whatever is kept of it: (T, [K,] 3, Y, X) uint8."""
        found = _stacked([self._frames(self.clips[index], self.change.muted)])
        return None if found is None else found[0]

    def _frames(self, clip: Clip, gone: Collection[str]) -> np.ndarray | None:
        if self.image is None:
            return None
        if "visual" in gone:
            grey_311 = (255 * np.array(self.image.mean)).round().astype(np.uint8)[:, None, None]
            return np.broadcast_to(grey_311, (self.dataset.segments, *self.image.shape)).copy()
        if clip.shots:
            return np.stack([self.cache.frames(one, self.image.size, self.image.frames)[at] for one, at in clip.shots])
        return self.cache.frames(clip, self.image.size, self.image.frames)

    def _sound(self, clip: Clip, gone: Collection[str]) -> np.ndarray | None:
        if self.audio is None:
            return None
        if "audio" in gone:
            return np.zeros(self.audio.shape(clip.seconds), dtype=np.int16)
        sound = self.cache.audio(clip, self.audio.rate, self.audio.channels)
        return self._noise_like(sound, clip) if self.change.sound == "noise" else sound

    def _noise_like(self, sound: np.ndarray, clip: Clip) -> np.ndarray:
        """White noise in place of a clip's sound, of the level that the change asks for."""
        scale = np.sqrt(np.square(sound, dtype=np.float32).mean()) * 10 ** (self.change.noise_db / 20)
        noise = scale * generator(self.seed, f"noise/{clip.name}").standard_normal(sound.shape, np.float32)
        whole: np.ndarray = noise.round().clip(-32768, 32767).astype(np.int16)
        return whole

    def judge(self, index: int, error: AVCoreError) -> dict[str, str]:
        """The broken clip's name and cause, for a policy that goes on without it.

        Raises:
            CacheError: ``error`` itself, where the clip is not to blame.
            AVCoreError: no clip may be broken, or fewer.
        """
        if isinstance(error, CacheError):
            raise error
        name = self.clips[index].name
        if self.policy == "stop":
            raise DataError(
                f"{error} (Clip {name} of split '{self.broken.split}'. 'avcore data verify' lists all that cannot be "
                "read; data.broken=skip goes on without them.)"
            ) from error
        found = {name: str(error)}
        self.broken.add(found)
        return found

    def _readable(self, index: int, epoch: int, found: dict[str, str]) -> tuple[int, _Content]:
        """A clip, or the first readable one in an order that derives from (seed, "replacement", epoch, clip)."""
        for candidate in self._candidates(index, epoch):
            name = self.clips[candidate].name
            if name in self.broken.causes:
                found[name] = self.broken.causes[name]
                continue
            try:
                content = self._content(candidate, epoch)
            except AVCoreError as error:
                found |= self.judge(candidate, error)
                continue
            return candidate, content
        raise DataError(f"No clip of split '{self.broken.split}' can be read.")

    def _with_partner(self, content: _Content, index: int, epoch: int, found: dict[str, str]) -> _Content:
        """The clip with the first sound that can be read of another one, with its own where there is no other."""
        others = generator(self.seed, "partner", epoch, index).permutation(len(self.clips)).tolist()
        for candidate in sorted(others, key=lambda other: other == index):
            # Whether its pictures are broken is nothing to it, and not known alike by all workers.
            try:
                sound = self._sound(self.sounds[candidate], self.change.muted)
            except AVCoreError as error:
                found |= self.judge(candidate, error)
                continue
            name = self.clips[candidate].name
            heard = _Content(name=name, seen=_Seen(sound=sound), target={}, inputs={}, companions={})
            return replace(content, companions={**content.companions, PARTNER: heard})
        raise DataError(f"No sound of split '{self.broken.split}' can be read.")

    def _content(self, index: int, epoch: int) -> _Content:
        with reading_of(self.clips[index]):
            clip = drawn(self.dataset, self.clips[index], index, seed=self.seed, epoch=epoch)
        companions = {name: self._companion(name, other, epoch) for name, other in clip.companions.items()}
        return self._read(clip, epoch, self.media(index, self.change.gone(self.seed, epoch, index)), companions)

    def _companion(self, name: str, clip: Clip, epoch: int) -> _Content:
        """A companion with the streams that are read of it, or with what frozen streams have made of it before."""
        asked = self.companions.get(name, dict.fromkeys(STREAMS))
        return self._read(clip, epoch, self._seen(asked, clip, clip, self.change.muted), {})

    def _seen(self, asked: Mapping[str, Wanted | None], shown: Clip, heard: Clip, gone: Collection[str]) -> _Seen:
        """The pictures of one clip and the sound of another, as far as the features of a stream are not there."""
        source = {"visual": shown, "audio": heard}
        files = {s: wanted.files(self._shown(s, source[s])) for s, wanted in asked.items() if wanted}
        features = {stream: load_segments(of) for stream, of in files.items()}
        unknown = [stream for stream in asked if not features.get(stream)]
        return _Seen(
            frames=self._frames(shown, gone) if "visual" in unknown else None,
            sound=self._sound(heard, gone) if "audio" in unknown else None,
            features=features,
            files=files,
        )

    def _shown(self, stream: str, clip: Clip) -> list[tuple[str, int]]:
        """What stands for the pictures or the sound of each segment: the name of a clip's entry, the place in it."""
        own = [(clip, place) for place in range(self.dataset.segments)]
        if stream == "audio":
            assert self.audio is not None
            return [(self.cache.named_audio(one, self.audio.rate, self.audio.channels), place) for one, place in own]
        assert self.image is not None
        return [
            (self.cache.named_frames(one, self.image.size, self.image.frames), place)
            for one, place in clip.shots or own
        ]

    def _read(self, clip: Clip, epoch: int, seen: _Seen, companions: dict[str, _Content]) -> _Content:
        with reading_of(clip):
            target, inputs = self.dataset.target(clip), self.dataset.inputs(clip, epoch)
        return _Content(name=clip.name, seen=seen, target=target, inputs=inputs, companions=companions)

    def _candidates(self, index: int, epoch: int) -> Iterator[int]:
        yield index
        yield from generator(self.seed, "replacement", epoch, index).permutation(len(self.clips)).tolist()

    def _batch(self, contents: Sequence[_Content], samples: Tensor, valid: Tensor) -> Batch:
        names = [content.name for content in contents]
        asked = [content.companions for content in contents]
        for name, others in zip(names, asked, strict=True):
            if others.keys() != asked[0].keys():
                raise DataError(
                    f"Clip {name} asks for the companions {sorted(others)}, clip {names[0]} for {sorted(asked[0])}; "
                    "the reader must give all clips of a split the same."
                )
        return Batch(
            frames=_stacked([content.seen.frames for content in contents]),
            waveform=_stacked([content.seen.sound for content in contents]),
            targets=_alike("targets", names, [content.target for content in contents]),
            names=names,
            samples=samples,
            valid=valid,
            inputs=_alike("inputs", names, [content.inputs for content in contents]),
            companions={key: self._batch([others[key] for others in asked], samples, valid) for key in asked[0]},
            kept=_kept([content.seen for content in contents]),
        )


def _kept(clips: Sequence[_Seen]) -> Kept | None:
    """What was found on disk for the clips of a batch; None where nothing is kept."""
    streams = tuple(clips[0].files)
    if not streams:
        return None
    found = {stream: [one for clip in clips if (one := clip.features[stream]) is not None] for stream in streams}
    return Kept(
        known={stream: tuple(clip.features[stream] is not None for clip in clips) for stream in streams},
        features={
            f"{stream}.{key}": torch.cat([one[key] for one in ones])
            for stream, ones in found.items()
            for key in (ones[0] if ones else ())
        },
        files={stream: [clip.files[stream] for clip in clips] for stream in streams},
    )


def _alike(what: str, names: Sequence[str], given: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several clips, stacked."""
    expected = {key: tuple(tensor.shape) for key, tensor in given[0].items()}
    for name, tensors in zip(names, given, strict=True):
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if shapes != expected:
            raise DataError(
                f"The {what} of clip {name} are {shapes}, those of clip {names[0]} {expected}; the reader must give "
                "all clips of a split the same."
            )
    return {key: torch.stack([tensors[key] for tensors in given]) for key in expected}


def _stacked(arrays: Sequence[np.ndarray | None]) -> Tensor | None:
    """Zeros where only some have none: those of clips whose features are known."""
    present = [array for array in arrays if array is not None]
    if not present:
        return None
    return torch.from_numpy(np.stack([np.zeros_like(present[0]) if one is None else one for one in arrays]))


class Filler(TorchDataset[Filled | AVCoreError]):
    """Puts single clips into the cache."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __getitem__(self, index: int) -> Filled | AVCoreError:
        before = self.reader.cache.decoded
        broken: dict[str, str] = {}
        try:
            try:
                self.reader.media(index, self.reader.change.muted)
                with reading_of(self.reader.clips[index]):
                    pass
            except AVCoreError as error:
                broken = self.reader.judge(index, error)
        except AVCoreError as error:
            return error
        return Filled(decoded=self.reader.cache.decoded > before, broken=broken)
