"""LAVISH: parallel bottlenecks that read the other stream (Lin et al., CVPR 2023). This module is light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec
from avcore_lavish.settings import LavishSettings

PAPER = "arXiv:2212.07983"


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """The bottlenecks of both streams."""
    return [
        FusionSpec(
            name="lavish",
            build="avcore_lavish.fusion:Lavish",
            config=LavishSettings,
            as_own=("width",),  # latent tokens attend to the other stream and are attended to by this one
            paper=PAPER,
            summary="bottlenecks beside attention and MLP that read the other stream through latent tokens",
            identity_at_start=True,
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method."""
    return [
        MethodSpec(
            name="lavish",
            fusions=("lavish",),
            recipes="avcore_lavish",
            converter="avcore_lavish.convert:convert",
            paper=PAPER,
            summary="latent audio-visual hybrid adapters in every block of a shared frozen encoder",
        )
    ]
