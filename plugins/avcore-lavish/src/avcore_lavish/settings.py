"""Settings of LAVISH's bottlenecks; the defaults are those of its event localisation (AVE)."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require

__all__ = ["LavishSettings"]


@dataclass(frozen=True, kw_only=True)
class LavishSettings:
    """The bottlenecks; every pair of blocks has four, two for each stream."""

    reduction: int = field(default=8, metadata={"help": "r, the hidden width is the block's width divided by this"})
    groups: int = field(default=2, metadata={"help": "g, groups of the two maps of the bottleneck"})
    tokens: int = field(default=2, metadata={"help": "n, latent tokens through which the other stream is read"})
    latents: Literal["uniform", "zeros"] = field(
        default="uniform", metadata={"help": "initial values of the latent tokens: uniform from 0 to 1 (AVE), or zero"}
    )
    batch_norm: bool = field(default=True, metadata={"help": "batch normalisation after each map of the bottleneck"})
    audio_gate: bool = field(
        default=True, metadata={"help": "a gate, zero at first, on audio's bottlenecks too; visual ones always have it"}
    )
    before_norm: bool = field(
        default=True, metadata={"help": "LN_pre, before the bottleneck; order=avs counts it as unused"}
    )
    post_norm: bool = field(default=True, metadata={"help": "LN_post, after the bottleneck"})
    order: Literal["ave", "avs"] = field(
        default="ave",
        metadata={"help": "ave (AVE and AVQA code): LN_pre; LN_post, then gate. avs (AVS code): gate, then LN_post"},
    )
    norms: bool = field(
        default=False, metadata={"help": "train the norms of the encoders too, within blocks and without (AVQA code)"}
    )

    def __post_init__(self) -> None:
        for key in ("reduction", "groups", "tokens"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
