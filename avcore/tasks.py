"""What tasks, heads and data sets are made of, and the records that travel between them.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from avcore.specs import StreamLayout

__all__ = ["Batch", "Clip", "Dataset", "Features", "Head", "Metrics", "StreamFeatures", "Task", "Windows"]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The pieces of sound that go with the T segments of a clip, in seconds.

    T windows of ``length`` s start at equal spacing from 0 to (duration - ``margin``). ``margin`` is at least
    ``length``; the reference code leaves 0.1 s more (1.1 for 1.0, 2.05 for 1.95).
    """

    length: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip on disk.

    Attributes:
        name: unique within its split.
        frames: one picture file for each segment, or one video file to take T frames from.
        audio: the sound file; None takes the sound of the video.
        seconds: how much of it is used, s; sound is trimmed or zero-padded to it.
        start: where the clip begins in its files, s.
        group: clips of one group count as sounding alike; swapped-sound evaluation pairs different groups.
        info: whatever `Dataset.target` needs.
    """

    name: str
    frames: Path | tuple[Path, ...]
    audio: Path | None
    seconds: float
    start: float = 0.0
    group: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


class Dataset(Protocol):
    """A reader: files under a root become clips and targets. Made as ``build(config, root, task)``."""

    segments: int
    """T, segments of every clip."""
    windows: Windows
    splits: tuple[str, ...]

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of a split in file order.

        Raises:
            AVCoreError: files are missing or malformed; names the file and what to do.
        """
        ...

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """Load the truth of a clip: equal shapes for every clip of a split, so that clips stack to a batch."""
        ...


@dataclass(kw_only=True)
class Batch:
    """B clips, ready for the front ends of a model.

    Attributes:
        frames: (B, T, 3, Y, X) uint8 at the visual backbone's size, or None when that stream is off.
        waveform: (B, S) int16 at the audio backbone's rate, whole clips, or None when that stream is off.
        targets: name -> (B, ...).
        names: B clip names.
        samples: (B,) int64, each clip's place in its split, counted from 0 in file order.
        valid: (B,) bool; False marks clips that only pad the last batch and count nowhere.
        extras: reserved; nothing is written there yet.
    """

    frames: Tensor | None
    waveform: Tensor | None
    targets: dict[str, Tensor]
    names: list[str]
    samples: Tensor
    valid: Tensor
    extras: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on ``device``."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            frames=move(self.frames),
            waveform=move(self.waveform),
            targets={key: value.to(device, non_blocking=non_blocking) for key, value in self.targets.items()},
            samples=self.samples.to(device, non_blocking=non_blocking),
            valid=self.valid.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, kw_only=True)
class StreamFeatures:
    """What leaves one stream.

    Attributes:
        pooled: (B, T, D), class token or mean of ``tokens``, as the layout says.
        tokens: (M, N, D) after the final norm.
        raw_tokens: (M, N, D) before the final norm.
        maps: one (M, D, Y, X) for each tap of the layout; the last one is normed.
    """

    pooled: Tensor
    tokens: Tensor
    raw_tokens: Tensor
    maps: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Features:
    """What leaves the two streams and their parts, handed to ``finish``, part losses and the head.

    Attributes:
        visual, audio: one of them None in a run with ``streams=visual`` or ``audio``.
        offers: what parts offered, in the order of the blocks: ``"part.name"`` for a fusion,
            ``"part.stream.name"`` for a prompt.
        clips, segments: B and T.
    """

    visual: StreamFeatures | None
    audio: StreamFeatures | None
    offers: Mapping[str, list[Tensor]]
    clips: int
    segments: int

    def stream(self, name: str) -> StreamFeatures:
        """The features of stream ``visual`` or ``audio``; raises ValueError when that stream is off."""
        found: StreamFeatures | None = getattr(self, name)
        if found is None:
            raise ValueError(f"The {name} stream is switched off in this model.")
        return found


class Head(nn.Module):
    """Features to output, loss and prediction. Subclass it, and name the class in a `HeadSpec`.

    Made as ``build(config, visual, audio, task)`` with the layouts of the streams (None for a stream that is off) and
    the `Task`. Parameters that a reference implementation creates and never uses are not allocated but counted in
    ``unused_in_reference``, so that published counts still add up.
    """

    unused_in_reference: int = 0

    def __init__(self, config: Any, visual: StreamLayout | None, audio: StreamLayout | None, task: Task) -> None:
        super().__init__()

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Named outputs; `loss` and `predict` take them."""
        raise NotImplementedError

    def loss(self, output: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Named scalar loss terms, already weighted; their sum is what is minimised."""
        raise NotImplementedError

    def predict(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named predictions (B, ...) as the task's metrics and drawing take them."""
        raise NotImplementedError


@runtime_checkable
class Metrics(Protocol):
    """Running scores of one split."""

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        """Take in the clips of a batch that are ``valid``."""
        ...

    def compute(self) -> dict[str, float]:
        """Named scores of all that was taken in."""
        ...


class Task:
    """Targets, metrics and drawing. Subclass it, and name the class in a `TaskSpec`."""

    score: ClassVar[str]
    """Name of the metric that selects the best checkpoint; larger is better."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def metrics(self, protocol: str) -> Metrics:
        """Fresh metrics for ``protocol`` ``clean`` or ``paper``."""
        raise NotImplementedError

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """Paint the prediction of one clip (no B axis) over its frames: (T, Y, X, 3) uint8 in and out."""
        raise NotImplementedError

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The target of one clip in the form of a prediction, to be drawn beside it; None if there is no such thing."""
        return None

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """One line that says what was predicted for one clip; empty if a picture says it all."""
        return ""
