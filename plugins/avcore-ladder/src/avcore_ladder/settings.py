"""Settings of the side networks; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require

__all__ = ["AloneSettings", "LowRankSettings", "LowRankSideSettings", "SideSettings"]


@dataclass(frozen=True, kw_only=True)
class ReaderSettings:
    """What all side networks share: which blocks they read, and what they change."""

    every: int = field(
        default=1, metadata={"help": "reads every n-th block, counted from the last; LST leaves blocks out so too"}
    )
    maps: Literal["last", "visual", "both"] = field(
        default="visual",
        metadata={
            "help": "maps before the last one change in the visual stream, in both, or in none (last); only heads "
            "that read maps, as segmentation does, have a use for them"
        },
    )

    def __post_init__(self) -> None:
        require(self.every >= 1, "every", self.every, "1 or more")


@dataclass(frozen=True, kw_only=True)
class AloneSettings(ReaderSettings):
    """A ladder of one stream."""

    reduction: int = field(
        default=8, metadata={"help": "r: the side network is D / r wide, but no less than 8, where the backbone is D"}
    )
    temperature: float = field(default=0.1, metadata={"help": "T of the gates: mu = sigmoid(alpha / T)"})
    dropout: float = field(default=0.0, metadata={"help": "in the side network, while training"})
    recompute: bool = field(
        default=True,
        metadata={"help": "run each rung again in the backward pass instead of keeping what is within it"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction >= 1, "reduction", self.reduction, "1 or more")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class SideSettings(AloneSettings):
    """Ladders of both streams, which read each other."""

    cells: int = field(
        default=4,
        metadata={
            "help": "a side network reads the other one's tokens as the means of n x n cells of its grid; "
            "0 for no exchange"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cells >= 0, "cells", self.cells, "0 or more")


@dataclass(frozen=True, kw_only=True)
class LowRankSettings(ReaderSettings):
    """DTL's side network of one stream."""

    rank: int = field(default=4, metadata={"help": "r of W_down and W_up; the paper has 2 on ViT and 4 on Swin"})
    beta: float = field(default=100.0, metadata={"help": "beta of the swish: h sigmoid(beta h)"})
    conv: int = field(
        default=0, metadata={"help": "sides of the convolution of DTL+, odd, which has 3 or 5; 0 for DTL, without one"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "1 or more")
        require(self.beta > 0, "beta", self.beta, "above 0")
        require(self.conv == 0 or self.conv % 2 == 1, "conv", self.conv, "0 or an odd number")


@dataclass(frozen=True, kw_only=True)
class LowRankSideSettings(LowRankSettings):
    """DTL's side networks of both streams."""

    exchange: bool = field(default=True, metadata={"help": "each stream's codes hear the mean code of the other"})
