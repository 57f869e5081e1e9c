"""What tasks, heads and data sets are made of, and the records that travel between them.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from avcore.backbones import TextTower
from avcore.features import Kept, StreamFeatures, TextFeatures
from avcore.specs import StreamLayout, Windows

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = [
    "Batch",
    "Clip",
    "Dataset",
    "Encoder",
    "Event",
    "Features",
    "Head",
    "Input",
    "Progress",
    "StreamFeatures",
    "Task",
    "TextFeatures",
]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip on disk.

    Attributes:
        name: unique within its split.
        frames: one picture file for each segment, K for a backbone that takes K (`ImageGeometry.frames`), or one video
            file to take frames from.
        audio: the sound file; None takes the sound of the video.
        seconds: how much of it is used, s; sound is trimmed or zero-padded to it.
        start: where the clip begins in its files, s.
        group: clips of one group count as sounding alike; swapped-sound evaluation pairs different groups.
        info: whatever `Dataset.target` and `Dataset.inputs` need.
        files: what these read of the clip and cannot do without, such as masks. A clip is broken where one is missing.
        shots: of a companion, its pictures in place of those of ``frames``: for each segment a clip, and which of that
            clip's segments, counted from 0.
        companions: other clips that are read beside this one, by what they are to it (``negative``, ``partner``);
            usually drawn by `Dataset.draw`. Theirs are not followed.
    """

    name: str
    frames: Path | tuple[Path, ...]
    audio: Path | None
    seconds: float
    start: float = 0.0
    group: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    shots: tuple[tuple[Clip, int], ...] = ()
    companions: Mapping[str, Clip] = field(default_factory=dict)


class Dataset:
    """A reader: files under a root become clips, targets and inputs. Subclass it.

    Made as ``build(config, root, task)``, with the `Task`.

    Attributes:
        segments: T, segments of every clip.
        windows: the pieces of sound that go with them.
        splits: names of the splits.
    """

    segments: int
    windows: Windows
    splits: tuple[str, ...]

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of a split in file order, whether or not their files are there.

        A clip is broken where its pictures, its sound or one of its `Clip.files` is missing or cannot be read: avcore
        looks, before a run and when it reads, and stops or goes on without it as ``data.broken`` says.

        Raises:
            AVCoreError: the list of clips itself is missing or malformed; names the file and what to do.
        """
        raise NotImplementedError

    def counts(self, split: str) -> dict[str, int]:
        """What else is to be counted in a split beside its clips, by name, such as ``{"padded": 3}``: for a person."""
        return {}

    def notes(self) -> Sequence[str]:
        """What a person should know of how the files were taken, a sentence each: told before a run."""
        return ()

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """Load the truth of a clip: equal shapes for every clip of a split, so that clips stack to a batch.

        A file that is missing or cannot be opened (`OSError`) makes a broken clip.
        """
        raise NotImplementedError

    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        """Load what the model sees of a clip beside pictures and sound: a question's ids, features from a file, tags.

        Equal shapes for every clip of a split. `Batch.inputs` and `Features.inputs` carry them.

        Args:
            clip: one of the split.
            epoch: counts from 0; 0 in evaluation.
        """
        return {}

    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        """The clip as this epoch sees it, with the companions that it asks for: ``replace(clip, companions={...})``.

        Args:
            clip: one of the split.
            random: derives from (seed, epoch, clip), whatever the number of workers or processes; always that of epoch
                0 in evaluation.
        """
        return clip


@dataclass(kw_only=True)
class Batch:
    """B clips, ready for the front ends of a model.

    Attributes:
        frames: (B, T, 3, Y, X) uint8 at the visual backbone's size, or None when that stream is off; (B, T, K, 3, Y, X)
            for a backbone that takes K > 1 pictures of a segment.
        waveform: (B, S) int16 at the audio backbone's rate, whole clips, or None when that stream is off; (B, 2, S) for
            a backbone that hears two channels (`AudioGeometry.channels`).
        targets: name -> (B, ...).
        inputs: name -> (B, ...), what the model sees beside pictures and sound; see `Dataset.inputs`.
        companions: name -> the companions of these clips, a batch of B clips in the same order; see `Clip.companions`.
        names: B clip names.
        samples: (B,) int64, each clip's place in its split, counted from 0 in file order; of companions, the place of
            the clip that asked for them.
        valid: (B,) bool; False marks clips that only pad the last batch and count nowhere.
        kept: what frozen streams have made of the clips before, where a run keeps that (``data.cache_features``).
            Pictures and sound of clips whose features are known are zeros, or None where those of all are.
    """

    frames: Tensor | None
    waveform: Tensor | None
    targets: dict[str, Tensor]
    names: list[str]
    samples: Tensor
    valid: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    companions: dict[str, Batch] = field(default_factory=dict)
    kept: Kept | None = None

    def __len__(self) -> int:
        return len(self.names)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with ``function`` of every tensor, those of companions too; names stay."""

        def of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: function(tensor) for name, tensor in tensors.items()}

        return replace(
            self,
            frames=None if self.frames is None else function(self.frames),
            waveform=None if self.waveform is None else function(self.waveform),
            targets=of(self.targets),
            inputs=of(self.inputs),
            companions={name: batch.map(function) for name, batch in self.companions.items()},
            kept=self.kept and self.kept.map(function),
            samples=function(self.samples),
            valid=function(self.valid),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on ``device``."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))


class Encoder(Protocol):
    """A stream that a head calls by itself (`HeadSpec.encoders`)."""

    @property
    def tower(self) -> TextTower:
        """The frozen tower; its ``geometry`` names the tokenizer."""
        ...

    def __call__(self, ids_KL: Tensor, *, keep: bool = False) -> TextFeatures:
        """K sentences to features; with ``keep`` once for this very tensor, as long as nothing on the way trains."""
        ...

    def project(self, pooled_KD: Tensor) -> Tensor:
        """`Tower.project`: vectors in the space that is shared with pictures or sound."""
        ...


@dataclass(frozen=True, kw_only=True)
class Features:
    """What leaves the streams and their parts, handed to ``finish``, part losses and the head.

    Attributes:
        streams: those that run, by name.
        offers: what parts offered, in the order of the blocks: ``"part.name"`` for a fusion,
            ``"part.stream.name"`` for a prompt.
        sums: what layers gave as `Edit.sums`, added up, under such names: () or (B, ...).
        statistics: the mean of what layers gave as `Edit.statistics`: () or (B, ...).
        inputs: those of the batch.
        companions: the features of the companions that the head asks for (`Head.companions`), by name; none where the
            batch has none, as when a person's own video is predicted.
        valid: (B,) bool; False marks clips that count nowhere, for losses of parts as for heads.
        encoders: the further streams that the head asks for (`HeadSpec.encoders`), by name; it calls them.
        projections: the maps of towers into the space that they share with others, by stream; see `project`.
        clips, segments: B and T.
    """

    streams: Mapping[str, StreamFeatures]
    clips: int
    segments: int
    valid: Tensor
    offers: Mapping[str, list[Tensor]] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    companions: Mapping[str, Features] = field(default_factory=dict)
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    projections: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @property
    def visual(self) -> StreamFeatures | None:
        """The features of the pictures; None in a run with ``streams=audio``."""
        return self.streams.get("visual")

    @property
    def audio(self) -> StreamFeatures | None:
        """The features of the sound; None in a run with ``streams=visual``."""
        return self.streams.get("audio")

    def stream(self, name: str) -> StreamFeatures:
        """The features of stream ``visual`` or ``audio``; raises ValueError when that stream is off."""
        if name not in self.streams:
            raise ValueError(f"The {name} stream is switched off in this model.")
        return self.streams[name]

    def project(self, name: str) -> Tensor:
        """The pooled vectors of a stream in the space that its tower shares with others: (B, T, ``layout.shared``).

        Cosines with the projected vectors of other modalities, such as sentences, mean something there.
        """
        return self.projections[name](self.stream(name).pooled)

    def with_streams(self, **changed: StreamFeatures) -> Features:
        """The same features with other streams in place of those named: ``features.with_streams(visual=...)``."""
        return replace(self, streams={**self.streams, **changed})


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is, for losses that change with it.

    Attributes:
        epoch: of this step, from 0.
        epochs: in all.
        step: optimiser steps done.
        steps: in all.
    """

    epoch: int = 0
    epochs: int = 1
    step: int = 0
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Input:
    """A tensor of one clip beside pictures and sound: what heads see of it, or what their loss reads of the truth.

    Attributes:
        shape: of one clip, without the axis B.
        dtype: ``int64`` for ids and labels, ``float32`` for features, ``bool``.
        help: what a person writes for it, such as ``a question in English``.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    help: str = ""

    def zeros(self, clips: int) -> Tensor:
        """Zeros for so many clips, (B, *shape): what a model is tried with before there are files."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return torch.zeros(clips, *self.shape, dtype=dtype)


class Head(nn.Module):
    """Features to output, loss and prediction. Subclass it, and name the class in a `HeadSpec`.

    Made as ``build(config, layouts, task)`` with the layouts of the streams that run, by name, and the `Task`.

    Attributes:
        companions: the companions whose features it wants: name -> ``plain``, from the frozen streams alone, or
            ``parts``, through the parts as its own clip.
        companion_reads: what it reads of the features of a ``plain`` one: name -> stream -> fields of `StreamFeatures`.
            Nothing else is made then, and a run may keep it on disk (``data.cache_features``). Everything, where a
            companion is not named.
        unused_in_reference: parameters that a reference implementation creates and never uses: not allocated, but
            counted, so that published counts still add up.
    """

    companions: Mapping[str, str] = MappingProxyType({})
    companion_reads: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({})
    unused_in_reference: int = 0

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__()

    @property
    def targets(self) -> Mapping[str, Input]:
        """What its `loss` reads of the truth of one clip, by name in `Batch.targets`.

        With it a run is told, before it starts, which parameters no loss depends on, and those stay as they are. The
        loss must then run on shapes alone: it weighs by `Batch.valid` and asks no tensor for its value.
        """
        return {}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Named outputs; `loss` and `predict` take them."""
        raise NotImplementedError

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Named scalar loss terms, already weighted; their sum is what is minimised."""
        raise NotImplementedError

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """Named predictions (B, ...) as the task's metrics and drawing take them; the task declares their axes."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that goes on for a while in a video, as it was predicted.

    Attributes:
        label: what it is, such as a class.
        modality: ``audio`` or ``visual``, where a task tells what is heard from what is seen.
        start_s, stop_s: s from the beginning of the video.
        probability: how sure the prediction is, 0 to 1; None where it does not say.
    """

    label: str
    modality: str = ""
    start_s: float
    stop_s: float
    probability: float | None = None


class Task:
    """Targets, metrics, inputs and drawing. Subclass it, and name the class in a `TaskSpec`."""

    score: ClassVar[str]
    """Name of the metric that selects the best checkpoint; larger is better."""

    prediction: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The axes of every prediction of its heads behind B: ``clip`` (any axes, none over time), ``segment`` (T, ...) or
    ``pixel`` (T, Y, X). The first one is the answer, which the truth has too: of a ``clip`` it is told once
    for each. A prediction that is not named here is refused when a video is predicted."""

    pixel_targets: ClassVar[Mapping[str, float]] = MappingProxyType({})
    """The targets that lie on the pictures, (B, ..., Y, X) of any size, each with the value of a pixel that was outside
    (background, or what its loss ignores): ``train.augment`` moves them with the pictures."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what a class index stands for, that of background included; empty where there are no classes."""
        return ()

    @property
    def background(self) -> int | None:
        """The index of background among `classes`; None where there is none."""
        return None

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What its heads see beside pictures and sound, by name in `Batch.inputs`."""
        return {}

    def read_input(self, name: str, text: str) -> Tensor:
        """What a person gave for one clip as ``avcore predict --input NAME=TEXT``, without the axis B.

        Raises:
            AVCoreError: the text is no such input; says what it must be.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how '{name}' is read.")

    def metrics(self, protocol: str) -> Metric:
        """Fresh metrics for ``protocol`` ``clean`` or ``paper``.

        ``update(prediction, batch)`` takes in the clips of a batch that are ``valid``, everything on the CPU;
        ``compute()`` gives named scores, ``dict[str, float]``. What is remembered in between is declared by
        ``add_state`` with its reduction, so that any number of processes gives the scores of one. Where the order of
        clips matters, ``batch.samples`` is remembered too and sorted by.
        """
        raise NotImplementedError

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """Paint the prediction of one clip (no B axis) over its frames: (T, Y, X, 3) uint8 in and out."""
        raise NotImplementedError

    def is_empty(self, targets: Mapping[str, Tensor]) -> bool:
        """Whether the truth of one clip (no B axis) has nothing in it: no foreground, no event.

        A split whose clips are all empty is named by ``avcore data verify`` and by a run: a score on it says nothing.
        """
        return False

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        """The answer that who neither looks nor listens gives to every clip: the most frequent one of training.

        ``avcore run --trivial`` scores it. It must not depend on the order of the clips.

        Args:
            truths: the targets of the training clips, one after the other (no B axis).
            segments: T.

        Returns:
            Of one clip (no B axis), what the metrics read of a prediction; None if the task has no such answer.
        """
        return None

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The target of one clip in the form of a prediction, to be drawn beside it; None if there is no such thing."""
        return None

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """One line that says what was predicted for one clip; empty if a picture says it all."""
        return ""

    def details(self, times: Sequence[tuple[float, float]], prediction: Mapping[str, Tensor]) -> dict[str, Any]:
        """What `describe` says as plain data for JSON, by name; ``avcore predict`` writes a column for each.

        Args:
            times: begin and end of each segment of the clip that is within the video, s.
            prediction: of one clip (no B axis); of a segment, as a clip with T = 1, where the answer is one for each.
        """
        return {}

    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        """What was predicted over a whole video as events, which ``avcore predict`` writes as JSON and CSV.

        Args:
            times: begin and end of each segment of the video, s, one after the other.
            predictions: of each segment, as a clip with T = 1.

        Returns:
            In any order; None if the task predicts nothing of the kind.
        """
        return None
