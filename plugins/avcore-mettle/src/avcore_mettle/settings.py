"""Settings of our reading of Mettle; every choice that the paper leaves open to who has its abstract alone is one."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require

__all__ = ["DistillSettings", "InjectSettings"]


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """Layer-centric distillation; all of it is open but that learnt tokens ask and features answer."""

    tokens: int = field(default=8, metadata={"help": "K, meta-tokens of a block"})
    reduction: int = field(
        default=8,
        metadata={"help": "the attention is the block's width divided by this wide (1, 8 or 16 in our counts)"},
    )
    preserve: Literal["att", "mean", "none"] = field(
        default="att",
        metadata={
            "help": "what keeps pretrained knowledge: attention without weights, the mean of the tokens, or nothing "
            "(none needs residual=true)"
        },
    )
    scale: Literal["sqrt", "one"] = field(
        default="sqrt", metadata={"help": "scores are divided by the root of the width, or not, as LAVISH has it"}
    )
    residual: bool = field(default=False, metadata={"help": "add the learnt tokens to what they collect"})
    layers: Literal["all", "ends", "last"] = field(
        default="all", metadata={"help": "blocks that are distilled: all, the last one of each stage, or the last ones"}
    )
    last: int = field(default=1, metadata={"help": "layers=last: how many"})
    share: Literal["block", "stage"] = field(
        default="block", metadata={"help": "maps of the attention of each block, or one set for each stage"}
    )
    initial: Literal["uniform", "normal"] = field(
        default="uniform", metadata={"help": "initial tokens: uniform from 0 to 1, as LAVISH's, or normal, 0.02"}
    )

    def __post_init__(self) -> None:
        for key in ("tokens", "reduction", "last"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        kept = self.preserve != "none" or self.residual
        require(kept, "preserve", self.preserve, "att or mean, or residual=true: else there is nothing at the start")


@dataclass(frozen=True, kw_only=True)
class InjectSettings:
    """Meta-token injection."""

    reduction: int = field(default=8, metadata={"help": "the bottleneck is the map's width divided by this wide"})

    def __post_init__(self) -> None:
        require(self.reduction >= 1, "reduction", self.reduction, "1 or more")
