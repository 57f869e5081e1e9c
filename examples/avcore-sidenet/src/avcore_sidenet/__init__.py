"""A side network that reads both frozen streams (after Sung et al., NeurIPS 2022). This module is light: no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from avcore import FusionSpec, hookimpl

__all__ = ["SideSettings", "avcore_fusions"]


@dataclass(frozen=True, kw_only=True)
class SideSettings:
    """The size of the side network; the defaults are an eighth of ViT-B, as in the paper."""

    width: int = field(default=96, metadata={"help": "width of the side network"})
    heads: int = field(default=4, metadata={"help": "attention heads of its blocks"})
    mlp_ratio: int = field(default=4, metadata={"help": "hidden width of its MLPs over its width"})
    every: int = field(default=1, metadata={"help": "a side block at the last and at every so many pairs before it"})

    def __post_init__(self) -> None:
        for key in ("width", "heads", "mlp_ratio", "every"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be 1 or more, not {getattr(self, key)}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width of {self.width}, not be {self.heads}")


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """The ladder and its side network."""
    return [
        FusionSpec(
            name="sidenet",
            build="avcore_sidenet.modules:SideNetwork",
            config=SideSettings,
            paper="arXiv:2206.06522",
            summary="a small transformer that only reads both frozen streams: no graph through the backbones",
            finishes=frozenset({"pooled", "tokens", "maps"}),
            identity_at_start=True,
        )
    ]
