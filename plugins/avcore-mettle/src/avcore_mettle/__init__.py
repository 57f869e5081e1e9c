"""Mettle, our reading: meta-tokens distilled from frozen blocks (arXiv:2506.23271). This module is light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec, PromptSpec
from avcore_mettle.settings import DistillSettings, InjectSettings

PAPER = "Mettle: Meta-Token Learning for Memory-Efficient Audio-Visual Adaptation, arXiv:2506.23271 (our reading)"


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """The distillation of one stream."""
    return [
        PromptSpec(
            name="mettle.distill",
            build="avcore_mettle.distill:Distill",
            config=DistillSettings,
            finishes=frozenset({"pooled"}),
            paper=PAPER,
            summary="our reading of Mettle: every block's tokens distilled into a few, whose mean is the pooled vector",
        )
    ]


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """The injection into maps."""
    return [
        FusionSpec(
            name="mettle.inject",
            build="avcore_mettle.inject:Inject",
            config=InjectSettings,
            finishes=frozenset({"maps"}),
            paper=PAPER,
            summary="our reading of Mettle: the distilled tokens of both last blocks guide the maps of pictures",
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method, as far as it could be read."""
    return [
        MethodSpec(
            name="mettle",
            prompts=("mettle.distill",),
            recipes="avcore_mettle",
            paper=PAPER,
            summary="our reading of Mettle: tokens distilled from every frozen block, no gradient enters a backbone",
        )
    ]
