"""Settings of AVMoE's mixtures; the defaults are those of event localisation (AVE)."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require

__all__ = ["AVMoESettings"]


@dataclass(frozen=True, kw_only=True)
class AVMoESettings:
    """The mixtures; every pair of blocks that is not skipped has four, two for each stream.

    ``uniform=one``, ``self_weights=columns`` and ``self_axis=frames`` are what the published code does where it is
    at odds with its paper; none of them is on by default.
    """

    cross_experts: int = field(default=1, metadata={"help": "experts that read the other stream"})
    unimodal_experts: int = field(default=1, metadata={"help": "experts that read their own stream alone"})
    skip: int = field(
        default=0,
        metadata={"help": "stages whose number from 1 is a multiple of this have none; 0: all have them"},
    )
    reduction: int = field(default=8, metadata={"help": "r, the hidden width is the block's width divided by this"})
    groups: int = field(default=2, metadata={"help": "g, groups of the two maps of an expert"})
    tokens: int = field(default=32, metadata={"help": "n, latent tokens through which a stream is read"})
    batch_norm: bool = field(default=True, metadata={"help": "batch normalisation after each map of an expert"})
    audio_gate: bool = field(
        default=True, metadata={"help": "a gate, zero at first, on audio's experts too; visual ones always have it"}
    )
    self_attention: Literal["none", "latents", "tokens", "heads"] = field(
        default="none",
        metadata={
            "help": "how unimodal experts read their own stream: none (AVE, AVQA code), through latent tokens (MS3), "
            "from all tokens without parameters (AVVP), or by attention with four heads (S4)"
        },
    )
    self_dropout: float = field(default=0.2, metadata={"help": "share of the attention's weights dropped; heads alone"})
    self_weights: Literal["rows", "columns"] = field(
        default="rows",
        metadata={
            "help": "self_attention=tokens: weights of what a token reads add up to one (rows), or those with which it "
            "is read (columns, as the code has it)"
        },
    )
    self_axis: Literal["tokens", "frames"] = field(
        default="tokens",
        metadata={
            "help": "self_attention=heads: over the tokens of a frame, or at each place over the frames of all clips "
            "of the batch (frames, as the code has it: what a clip gives depends on the others)"
        },
    )
    noise: float = field(default=0.0, metadata={"help": "normal noise on the router's logits in training (AVS: 0.01)"})
    balance: float = field(default=0.0, metadata={"help": "weight of the loss that keeps all experts in use"})
    uniform: Literal["experts", "one"] = field(
        default="experts",
        metadata={
            "help": "the balance loss compares with 1 / E for each of E experts, or with 1 (as the code has it: "
            "E times the gradient)"
        },
    )
    pool: Literal["audio", "none"] = field(
        default="audio",
        metadata={"help": "audio: sound is pooled before its encoder's final norm (code); none: as encoders do"},
    )

    def __post_init__(self) -> None:
        for key in ("reduction", "groups", "tokens"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        for key in ("cross_experts", "unimodal_experts", "skip", "noise", "balance"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(
            self.cross_experts + self.unimodal_experts >= 1,
            "unimodal_experts",
            self.unimodal_experts,
            "1 or more, or cross_experts",
        )
        require(
            self.cross_experts >= 1 or self.unimodal_experts >= 2,
            "cross_experts",
            self.cross_experts,
            "1 or more with a single unimodal expert, which would leave the streams apart",
        )
        require(0 <= self.self_dropout < 1, "self_dropout", self.self_dropout, "from 0 to below 1")
