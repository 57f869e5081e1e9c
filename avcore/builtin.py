"""What avcore itself offers under a name, declared as a plugin declares it. Imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, PromptSpec

__all__ = ["AlignSettings", "avcore_fusions", "avcore_prompts"]


@dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """The maps between the streams."""

    bias: bool = field(default=True, metadata={"help": "the maps have a bias"})


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """Parts that several methods list."""
    return [
        PromptSpec(
            name="segment_embedding",
            build="avcore.injection.segments:SegmentEmbedding",
            summary="a trained vector for each segment of a clip, added to all of its tokens",
            identity_at_start=True,
        )
    ]


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """What makes other fusions fit streams that they were not made for."""
    return [
        FusionSpec(
            name="align",
            build="avcore.injection.align:Align",
            config=AlignSettings,
            summary="maps between the widths and grids of both streams, for fusions made for equal ones",
            aligns=True,
        )
    ]
