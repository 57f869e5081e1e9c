"""Multimodal bottleneck fusion (Nagrani et al., NeurIPS 2021). This module is light: it imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec

__all__ = ["MBTSettings", "avcore_fusions", "avcore_methods"]

PAPER = "arXiv:2107.00135"


@dataclass(frozen=True, kw_only=True)
class MBTSettings:
    """How many bottleneck tokens, and where the streams meet; the defaults are the paper's for 12 blocks."""

    tokens: int = field(default=4, metadata={"help": "B, bottleneck tokens"})
    last: int = field(default=4, metadata={"help": "how many of the last pairs of blocks are fused (L_f = 8 of 12)"})
    std: float = field(default=0.02, metadata={"help": "deviation of the normal initialisation"})

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be 1 or more, not {self.tokens}")
        if self.last < 2:
            raise ValueError(f"last must be 2 or more, not {self.last}: what one pair gathers the next one reads")


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """Bottleneck fusion."""
    return [
        FusionSpec(
            name="mbt",
            build="avcore_mbt.modules:MBT",
            config=MBTSettings,
            as_own=("width",),
            paper=PAPER,
            summary="a few tokens that flow through both streams and are averaged after each pair of blocks",
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method, in which everything trains; the fusion by itself is for frozen streams."""
    return [
        MethodSpec(
            name="mbt",
            prompts=("full",),
            fusions=("mbt",),
            recipes="avcore_mbt",
            paper=PAPER,
            summary="bottleneck fusion of two encoders, all of which train",
        )
    ]
