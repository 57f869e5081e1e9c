"""Settings of the baselines; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require

__all__ = ["DeepSettings", "LoRASettings", "ShallowSettings", "Target"]

Target = Literal["q", "k", "v", "proj", "fc1", "fc2"]
"""A frozen map of a block: queries, keys, values, output of the attention, both of the MLP."""


@dataclass(frozen=True, kw_only=True)
class LoRASettings:
    """Which maps are adapted, and by how much; the defaults adapt W_q and W_v, as the paper does (section 5)."""

    rank: int = field(default=4, metadata={"help": "r, rank of each increment"})
    alpha: float = field(default=8.0, metadata={"help": "increments are scaled by alpha / rank"})
    targets: tuple[Target, ...] = field(
        default=("q", "v"),
        metadata={"help": "frozen maps: queries, keys, values and output of the attention, both of the MLP"},
    )
    dropout: float = field(default=0.0, metadata={"help": "of the input of each increment, while training"})

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", self.rank, "1 or more")
        names = list(self.targets)
        require(len(names) == len(set(names)) > 0, "targets", names, "one or more different names")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class ShallowSettings:
    """How many rows, and how they begin."""

    length: int = field(default=10, metadata={"help": "p, rows of each set"})
    patch: int = field(default=16, metadata={"help": "side of a patch in px, for the bound of the uniform start"})
    dropout: float = field(default=0.0, metadata={"help": "of the rows, while training"})

    def __post_init__(self) -> None:
        require(self.length >= 1, "length", self.length, "1 or more")
        require(self.patch >= 1, "patch", self.patch, "1 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class DeepSettings(ShallowSettings):
    """Rows of a block leave no other trace than their columns in the attention, which may start quietly."""

    row_bias: float | None = field(
        default=None,
        metadata={"help": "attention bias of the rows; null takes the backbone's neutral value, -4 starts quietly"},
    )
