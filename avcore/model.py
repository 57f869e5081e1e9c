"""The model: two frozen streams, the parts at their sites, a head. Read `AVModel.features` first.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from avcore.config import RunConfig
from avcore.data.kept import kept_or_made
from avcore.errors import DataError, PluginError
from avcore.features import FIELDS, by_segment, of_segments
from avcore.injection import Part, PlanEntry, Step
from avcore.injection.standing import Place, cast_together, standing
from avcore.modules import at_least_single
from avcore.specs import STREAMS, AudioGeometry, ImageGeometry, Windows
from avcore.streams import PartInstance, Stream, Streams, TextEncoder, as_stored
from avcore.tasks import Batch, Encoder, Features, Head, Progress, StreamFeatures, Task

__all__ = ["AVModel", "Output", "PartInstance"]

RAW = {"visual": "frames", "audio": "waveform"}
"""The field of a batch that each stream takes."""


@dataclass(frozen=True)
class Output:
    """What a forward returns: the head's named outputs, and the features that part losses read."""

    values: dict[str, Tensor]
    features: Features

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]


class AVModel(nn.Module):
    """Frozen streams, parts and a head; made by `avcore.assemble`.

    Attributes:
        config: what it was assembled from.
        clips: the streams of pictures and sound, with the parts mounted on them.
        encoders: the streams that the head calls by itself.
        instances: the parts, in the order in which they are listed.
        segments, clip_seconds, windows: how a clip is cut; None for what no data set has said.
        backbone_digest: of the frozen weights as loaded, before any cast.
        notices: what the user must be told (random weights).
        reads: the fields of `StreamFeatures` that the head reads of each stream; all of them until it was followed.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        task: Task,
        head: Head,
        streams: Mapping[str, Stream],
        instances: Sequence[PartInstance],
        plan: Sequence[PlanEntry],
        segments: int,
        clip_seconds: float,
        windows: Windows,
        atomic_audio: bool = False,
        notices: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for name, reads in head.companion_reads.items():
            _check_reads(type(head).__name__, name, reads)
        self.config = config
        self.task = task
        self.head = head
        self.instances = tuple(instances)
        # Module names hold no dot; the names users see do.
        self.part_modules = nn.ModuleDict({part.key.replace(".", "/"): part.module for part in instances})
        self.clips = Streams(
            {name: stream for name, stream in streams.items() if name in STREAMS},
            plan,
            instances,
            atomic_audio=atomic_audio,
            memory=config.train.memory,
        )
        self.encoders = nn.ModuleDict(
            {
                name: TextEncoder(stream, instances, memory=config.train.memory)
                for name, stream in streams.items()
                if name not in STREAMS
            }
        )
        self.segments = segments
        self.clip_seconds = clip_seconds
        self.windows = windows
        self.notices = tuple(notices)
        self.backbone_digest = ""
        self.reads: Mapping[str, Sequence[str]] = dict.fromkeys(self.clips, FIELDS)

    # ---------------------------------------------------------------------------------------------- the forward

    def forward(self, batch: Batch) -> Output:
        """Features of both streams, then the head; what the head returns in half precision becomes float32.

        Where the frozen weights are bfloat16, streams and parts compute in it without autocast, and the head runs under
        autocast, whatever the caller does.
        """
        with self._casts():
            return self._output(self.features(batch))

    def outputs(self, batch: Batch, inputs: Sequence[Mapping[str, Tensor]]) -> Iterator[Output]:
        """What `forward` gives for the same clips with each of several inputs, one after the other.

        The streams run once, unless a part looks at the features behind them (`Part.finish`), and so at inputs.
        """
        features: Features | None = None
        for given in inputs:
            with self._casts():
                if features is None or any(self._overriding(Part, "finish")):
                    features = self.features(replace(batch, inputs=dict(given)))
                output = self._output(replace(features, inputs=given))
            yield output

    def _output(self, features: Features) -> Output:
        with self._head_precision():
            values = self.head(features)
        return Output({name: at_least_single(tensor) for name, tensor in values.items()}, features)

    def features(self, batch: Batch) -> Features:
        """Walk the streams through the plan, and companions as the head wants them.

        Args:
            batch: ``frames`` and ``waveform``, as far as the streams run. With `Batch.kept`, which loaders give where
                no part acts on a stream, what is known is taken from there, and only what the head reads is made.
        """
        if self.clips.replayed:  # what the batch before left in the memory of graphs may be written over
            torch.compiler.cudagraph_mark_step_begin()
        ways = ("plain", "parts")
        wanted = {name: way for name, way in self.head.companions.items() if name in batch.companions}
        for name, way in wanted.items():
            if way not in ways:
                raise PluginError(
                    f"{type(self.head).__name__}.companions wants '{name}' as '{way}': it may say "
                    f"{' or '.join(ways)}. Tell its author."
                )
        with self._casts(), as_stored(self.clips):
            companions = {
                name: self.frozen_features(batch.companions[name], self.head.companion_reads.get(name))
                if way == "plain"
                else self._walk(batch.companions[name])
                for name, way in wanted.items()
            }
            own = self._walk(batch) if batch.kept is None else self.frozen_features(batch, self.reads)
            return replace(own, companions=companions)

    def _walk(self, batch: Batch) -> Features:
        walked = self.clips(self.front_ends(batch))
        left = {name: self.clips[name].leave(x_MND, walked.tapped[name]) for name, x_MND in walked.tokens.items()}
        features = replace(
            self._collect(batch, left), offers=walked.offers, sums=walked.sums, statistics=walked.statistics
        )
        for part in self.clips.instances:
            if part.overrides(Part, "finish"):
                features = part.module.finish(features)
        return features

    def frozen_features(self, batch: Batch, reads: Mapping[str, Sequence[str]] | None = None) -> Features:
        """The features of the frozen streams alone, without any part, nor what parts train of them.

        Args:
            batch: with `Batch.kept` what is known is taken from there, and the rest is kept.
            reads: stream -> the fields of `StreamFeatures` that are wanted; None for everything.
        """
        with torch.no_grad(), as_stored(self.clips):
            if reads is None:
                return self._collect(batch, {name: self.plain(name, batch) for name in self.clips})
            wanted = {name: self._segments(name, batch, reads[name]) for name in self.clips if name in reads}
        return self._collect(batch, {name: of_segments(made, self.segments) for name, made in wanted.items()})

    def _segments(self, stream: str, batch: Batch, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Fields of the features of a frozen stream by segment, from disk as far as they are there."""
        if batch.kept is None or stream not in batch.kept.files:
            return by_segment(self.plain(stream, batch), wanted)

        def make(number: int) -> dict[str, Tensor]:
            return by_segment(self.clips[stream](self._raw(stream, batch)[number : number + 1]), wanted)

        return kept_or_made(batch.kept, stream, make, next(self.clips.parameters()).device)

    def plain(self, stream: str, batch: Batch) -> StreamFeatures:
        """One frozen stream without any part, nor what parts train of it."""
        with as_stored(self.clips):
            features: StreamFeatures = self.clips[stream](self._raw(stream, batch))
        return features

    @contextmanager
    def _casts(self) -> Iterator[None]:
        """Within it, what parts train stands in the type of the frozen weights where that is half precision."""
        dtype = next(self.clips.parameters()).dtype
        places: list[Place] = []
        if torch.finfo(dtype).bits < 32:
            layers = [found for part in self.instances for found in part.module.layers.items()]
            layers.sort(key=lambda found: int(found[0]))
            parts = [layer for _, layer in layers] + [part.module for part in self.instances]
            places = cast_together(dict.fromkeys(module for part in parts for module in part.modules()), dtype)
        with standing(places):
            yield

    def _head_precision(self) -> AbstractContextManager[object]:
        """Autocast where the frozen weights are in half precision, which the head's parameters would not meet."""
        frozen = next(self.clips.parameters())
        # The meta device knows no autocast.
        if torch.finfo(frozen.dtype).bits >= 32 or frozen.is_meta:
            return nullcontext()
        return torch.autocast(frozen.device.type, frozen.dtype)

    def _collect(self, batch: Batch, streams: Mapping[str, StreamFeatures]) -> Features:
        return Features(
            streams=streams,
            clips=len(batch),
            segments=self.segments,
            valid=batch.valid,
            inputs=batch.inputs,
            encoders=cast(Mapping[str, Encoder], dict(self.encoders.items())),
            projections={
                name: self.clips[name].tower.project for name in streams if self.clips[name].layout.shared is not None
            },
        )

    def front_ends(self, batch: Batch) -> dict[str, Tensor]:
        """What towers embed (`Tower.embed`), on the model's device: pictures and log-mel pictures, M = B*T first."""
        return {name: self.clips[name].front_end(self._raw(name, batch)) for name in self.clips}

    def _raw(self, stream: str, batch: Batch) -> Tensor:
        field = RAW[stream]
        raw: Tensor | None = getattr(batch, field)
        if raw is None:
            raise DataError(f"The batch has no {field}, but the {stream} stream runs.")
        return raw

    # ------------------------------------------------------------------------------------- losses and predictions

    def losses(self, out: Output, batch: Batch, progress: Progress | None = None) -> dict[str, Tensor]:
        """Named, weighted loss terms: those of the head, then ``part.term`` of each part.

        Args:
            out: of this batch.
            batch: with its targets.
            progress: how far the training is, for losses that change with it; its beginning when None.
        """
        terms = self.head.loss(out.values, batch, progress or Progress())
        for part in self._overriding(Part, "losses"):
            found = part.module.losses(out.features)
            terms |= {f"{part.key}.{name}": at_least_single(term) for name, term in found.items()}
        return terms

    def loss(self, out: Output, batch: Batch, progress: Progress | None = None) -> Tensor:
        """The sum of `losses`."""
        return torch.stack(list(self.losses(out, batch, progress).values())).sum()

    def statistics(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """What layers tell of themselves, for logs: `Features.statistics`, means over the valid clips too."""
        found = out.features.statistics.items()
        return {name: (value[batch.valid] if value.dim() else value).mean() for name, value in found}

    def predict(self, out: Output) -> dict[str, Tensor]:
        """Named predictions (B, ...) as the task's metrics and drawing take them."""
        return self.head.predict(out.values, out.features)

    # --------------------------------------------------------------------------------------------- what it is made of

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Every stream of the model, by name: those of the clips, then those that the head calls."""
        encoders = {name: cast(TextEncoder, encoder).walk[name] for name, encoder in self.encoders.items()}
        return {**{name: self.clips[name] for name in self.clips}, **encoders}

    @property
    def steps(self) -> Sequence[Step]:
        """The entries of the plan, as modules."""
        return cast(Sequence[Step], self.clips.steps)

    @property
    def plan(self) -> Sequence[PlanEntry]:
        """Which blocks of pictures and sound run together."""
        return self.clips.plan

    @property
    def towers(self) -> nn.ModuleDict:
        """The frozen backbones, as the streams use them, by stream."""
        return nn.ModuleDict({name: stream.tower for name, stream in self.streams.items()})

    @property
    def image(self) -> ImageGeometry | None:
        """What the visual tower takes; None where it is off."""
        geometry = self.clips["visual"].tower.geometry if "visual" in self.clips.streams else None
        return geometry if isinstance(geometry, ImageGeometry) else None

    @property
    def sound(self) -> AudioGeometry | None:
        """What the audio tower takes; None where it is off."""
        geometry = self.clips["audio"].tower.geometry if "audio" in self.clips.streams else None
        return geometry if isinstance(geometry, AudioGeometry) else None

    @property
    def parts(self) -> Mapping[str, Part]:
        """The parts by key: ``copl.rows.visual`` for a prompt, ``copl.coupling`` for a fusion."""
        return {part.key: part.module for part in self.instances}

    def _overriding(self, base: type[Part], name: str) -> Iterator[PartInstance]:
        return (part for part in self.instances if part.overrides(base, name))


def _check_reads(head: str, companion: str, reads: Mapping[str, Sequence[str]]) -> None:
    wrong = [f"stream '{stream}'" for stream in reads if stream not in STREAMS]
    wrong += [f"field '{one}'" for asked in reads.values() for one in asked if one not in FIELDS]
    if wrong:
        raise PluginError(
            f"{head}.companion_reads names the {wrong[0]} of '{companion}': streams are {' and '.join(STREAMS)}, "
            f"fields {', '.join(FIELDS)}. Tell its author."
        )
