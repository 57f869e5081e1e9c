"""MoLT, our reading: latent tokens distilled from late frozen blocks. This module is light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec
from avcore_molt.settings import MoLTSettings

PAPER = "MoLT, arXiv:2512.00115 (our reading)"


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """The latent tokens of both streams."""
    return [
        FusionSpec(
            name="molt",
            build="avcore_molt.fusion:MoLT",
            config=MoLTSettings,
            finishes=frozenset({"pooled"}),
            paper=PAPER,
            summary="our reading of MoLT: late blocks of both streams distilled into a few tokens, own and cross-modal",
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method, as far as it could be read."""
    return [
        MethodSpec(
            name="molt",
            fusions=("molt",),
            recipes="avcore_molt",
            paper=PAPER,
            summary="our reading of MoLT: latent tokens of late frozen blocks, no gradient enters a backbone",
        )
    ]
