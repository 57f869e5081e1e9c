"""Settings of AV-STFP's parts; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require
from avcore.specs import Need, NoConfig

__all__ = [
    "BaseSettings",
    "JointSettings",
    "SpatialSettings",
    "TemporalSettings",
    "base_needs",
    "class_token_needs",
]


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """What trains besides prompts and head."""

    class_token: Literal["auto", "audio", "none"] = field(
        default="auto",
        metadata={
            "help": "auto: sound has a trained class token of its own where its backbone has class tokens; audio: the "
            "same, and other backbones are refused; none: sound keeps the frozen one"
        },
    )
    final_norm: bool = field(
        default=True, metadata={"help": "train the final norm; streams that share a trunk share it"}
    )


@dataclass(frozen=True, kw_only=True)
class TemporalSettings:
    """Temporal-aware prompts: in each block the frozen attention runs once more, over time."""

    vectors: int = field(default=4, metadata={"help": "trained vectors of each block and stream"})
    form: Literal["projected", "unprojected", "tokens"] = field(
        default="projected",
        metadata={
            "help": "half of the vectors are keys, half values, after the frozen projection or before it; or all of "
            "them are tokens, which give a key and a value each"
        },
    )
    own_pass: bool = field(
        default=True,
        metadata={
            "help": "a residual pass over time before the frozen attention; false merges it with that one, in which "
            "each frame then sees all frames of its clip"
        },
    )
    gate: Literal["zero", "none", "heads"] = field(
        default="zero",
        metadata={
            "help": "a factor of the pass that starts at zero, or none; heads: none, but one for each attention head "
            "on the trained values"
        },
    )
    std: float = field(default=0.02, metadata={"help": "deviation of the normal initialisation of keys and tokens"})
    value_std: float = field(default=0.02, metadata={"help": "the same of values; 0 starts them at zero"})

    def __post_init__(self) -> None:
        halved = self.form != "tokens"
        counts = self.vectors >= 1 and not (halved and self.vectors % 2)
        require(counts, "vectors", self.vectors, "1 or more, and even unless form=tokens")
        require(self.own_pass or self.gate != "zero", "gate", self.gate, "'none' or 'heads' with own_pass=false")
        require(halved or self.gate != "heads", "gate", self.gate, "'zero' or 'none' with form=tokens")
        for key in ("std", "value_std"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")


@dataclass(frozen=True, kw_only=True)
class SpatialSettings:
    """Spatial-aware prompts: rows of each block beside the frozen attention."""

    length: int = field(default=10, metadata={"help": "rows of each block and stream"})
    normed: bool = field(
        default=True, metadata={"help": "the rows pass the block's norm as tokens do; false puts them behind it"}
    )
    row_bias: float | None = field(
        default=None,
        metadata={
            "help": "attention bias of the rows; none takes the backbone's neutral value, less lets them start quietly"
        },
    )
    std: float = field(default=0.02, metadata={"help": "deviation of the normal initialisation"})

    def __post_init__(self) -> None:
        require(self.length >= 1, "length", self.length, "1 or more")
        require(self.normed or self.row_bias is None, "row_bias", self.row_bias, "null with normed=false")
        require(self.std >= 0, "std", self.std, "0 or more")


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """Multimodal fusion prompts: in each pair of blocks the frozen attention runs once more, over both streams.

    Blocks that attend in windows are left out, but for ``form=latents``.
    """

    form: Literal["joint", "merged", "tokens", "latents"] = field(
        default="joint",
        metadata={
            "help": "joint: all tokens of both streams attend to each other and to the prompts; merged: the same in "
            "the blocks' own attention; tokens: each stream sees a prompt that has attended to the other stream; "
            "latents: each stream reads the other through the prompts, as in LAVISH"
        },
    )
    vectors: int = field(
        default=2,
        metadata={"help": "prompts of each pair of blocks, for both streams together; 0 keeps joint or merged alone"},
    )
    gate: Literal["zero", "none"] = field(
        default="zero", metadata={"help": "a factor for each stream that starts at zero, or none"}
    )
    std: float = field(default=0.02, metadata={"help": "deviation of the normal initialisation"})

    def __post_init__(self) -> None:
        least = {"joint": 0, "merged": 0, "tokens": 2, "latents": 1}[self.form]
        counts = self.vectors >= least and not (self.form == "tokens" and self.vectors % 2)
        require(counts, "vectors", self.vectors, f"{least} or more with form={self.form}, and even with form=tokens")
        merged = self.form == "merged"
        require(not merged or self.gate == "none", "gate", self.gate, "'none' with form=merged: no pass is its own")
        require(self.std >= 0, "std", self.std, "0 or more")


def base_needs(settings: BaseSettings) -> frozenset[Need]:
    """A class token of its own stands for the frozen one, which ``auto`` does not insist on."""
    return frozenset({Need.CLASS_TOKEN} if settings.class_token == "audio" else ())


def class_token_needs(settings: NoConfig) -> frozenset[Need]:
    """Both streams, with class tokens of one width."""
    return frozenset({Need.BOTH_STREAMS, Need.EQUAL_WIDTHS, Need.CLASS_TOKEN})
