"""CoLA: low-rank increments whose core is made from the other stream (ICML 2026). This module is light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec, PromptSpec
from avcore_cola.settings import CrossSettings, OwnSettings

PAPER = "arXiv:2604.03314"


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """The increments that each stream has of its own: LoRA."""
    return [
        PromptSpec(
            name="cola.own",
            build="avcore_baselines.lowrank:LoRALayer",
            config=OwnSettings,
            paper=PAPER,
            summary="low-rank increments of all maps of every block: LoRA, which CoLA adds its cross-modal path to",
            identity_at_start=True,
        )
    ]


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """The increments that each stream makes after the other one."""
    return [
        FusionSpec(
            name="cola.cross",
            build="avcore_cola.cross:CrossLayer",
            config=CrossSettings,
            paper=PAPER,
            summary="low-rank increments of all maps, their cores made from the other stream at the same map",
            identity_at_start=True,
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method."""
    return [
        MethodSpec(
            name="cola",
            prompts=("cola.own",),
            fusions=("cola.cross",),
            recipes="avcore_cola",
            paper=PAPER,
            summary="cross-modal low-rank adaptation of both encoders",
        )
    ]
