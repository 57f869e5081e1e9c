"""LoRA: low-rank increments of frozen linear maps (Hu et al. 2021). This module is light: it imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from avcore import PromptSpec, hookimpl

__all__ = ["LoRASettings", "avcore_prompts"]


@dataclass(frozen=True, kw_only=True)
class LoRASettings:
    """Which maps are adapted, and by how much; the defaults adapt W_q and W_v, as the paper does (section 5)."""

    rank: int = field(default=4, metadata={"help": "r, rank of each increment"})
    alpha: float = field(default=8.0, metadata={"help": "increments are scaled by alpha / rank"})
    targets: tuple[Literal["q", "k", "v", "proj"], ...] = field(
        default=("q", "v"), metadata={"help": "maps of the attention: queries, keys, values, output"}
    )
    dropout: float = field(default=0.0, metadata={"help": "of the input of each increment, while training"})

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be 1 or more, not {self.rank}")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must be one or more different names, not {list(self.targets)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, not {self.dropout}")


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """LoRA in every block."""
    return [
        PromptSpec(
            name="lora",
            build="avcore_lora.modules:LoRALayer",
            config=LoRASettings,
            paper="arXiv:2106.09685",
            summary="low-rank increments of the attention's frozen linear maps",
            identity_at_start=True,
        )
    ]
