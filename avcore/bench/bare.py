"""The floor under every table: the same frozen streams with nothing on them but what a gradient needs to reach them.

Shape letters: B clips, T segments, D width.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from avcore.config import Chosen
from avcore.model import AVModel
from avcore.mounting import ListedPart, StreamSet, mount_parts, seeded
from avcore.registry import Registry
from avcore.specs import NoConfig
from avcore.streams import Stream
from avcore.tasks import Batch, Features, Head, Input, Progress, Task

__all__ = ["BARE", "bare_of"]

BARE = "bare backbone"
"""The name of its row."""
PROMPT = "segment_embedding"
"""Vectors added to the embedded tokens: gradients cross every block, and no block does more than its frozen work."""


class _Head(Head):
    """One number from the pooled vectors of all streams, drawn to zero."""

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        super().__init__(None, {}, Task(None))
        self.out = nn.Linear(sum(stream.layout.width for stream in streams.values()), 1)

    @property
    def targets(self) -> Mapping[str, Input]:
        """A number that the loss does not look at; a head without any does not say what it reads."""
        return {"nothing": Input(shape=())}

    def forward(self, features: Features) -> dict[str, Tensor]:
        pooled_BTD = torch.cat([stream.pooled for stream in features.streams.values()], dim=-1)
        return {"out": self.out(pooled_BTD)}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"square": output["out"].square().mean()}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"out": output["out"]}


def bare_of(model: AVModel, registry: Registry) -> AVModel:
    """The frozen streams of a model, shared with it, with a vector for each segment as the only part.

    Args:
        model: on any device, the meta device too.
        registry: where the part is looked up.
    """
    weight = next(model.clips.parameters())
    with torch.device(weight.device), seeded(model.config.seed, BARE):
        clips = {name: model.clips[name] for name in model.clips}
        streams = {name: Stream(name, one.tower, one.front_end, one.segments) for name, one in clips.items()}
        part = ListedPart(PROMPT, registry.prompts[PROMPT], NoConfig())
        towers = {name: stream.tower for name, stream in streams.items()}
        return AVModel(
            config=replace(
                model.config,
                method=None,
                prompts=(PROMPT,),
                fusions=(),
                parts={PROMPT: NoConfig()},
                part_streams={},
                part_scales={},
                head=Chosen(name=BARE),
            ),
            task=Task(None),
            head=_Head(streams),
            streams=streams,
            instances=mount_parts([part], StreamSet(towers, tuple(model.plan)), model.config.seed),
            plan=model.plan,
            segments=model.segments,
            clip_seconds=model.clip_seconds,
            windows=model.windows,
        )
