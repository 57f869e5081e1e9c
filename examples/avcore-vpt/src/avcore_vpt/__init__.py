"""Visual prompt tuning (Jia et al., ECCV 2022). This module is light: it imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from avcore import MethodSpec, PromptSpec, hookimpl

__all__ = ["DeepSettings", "ShallowSettings", "avcore_methods", "avcore_prompts"]

PAPER = "arXiv:2203.12119"


@dataclass(frozen=True, kw_only=True)
class ShallowSettings:
    """How many rows, and how they begin."""

    length: int = field(default=10, metadata={"help": "p, rows of each set"})
    patch: int = field(default=16, metadata={"help": "side of a patch in px, for the bound of the uniform start"})
    dropout: float = field(default=0.0, metadata={"help": "of the rows, while training"})

    def __post_init__(self) -> None:
        for key in ("length", "patch"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be 1 or more, not {getattr(self, key)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, not {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class DeepSettings(ShallowSettings):
    """Rows of a block leave no other trace than their columns in the attention, which may start quietly."""

    row_bias: float | None = field(
        default=None,
        metadata={"help": "attention bias of the rows; null takes the backbone's neutral value, -4 starts quietly"},
    )


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """VPT-shallow and VPT-deep."""
    modules = "avcore_vpt.modules"
    return [
        PromptSpec(
            name="vpt.shallow",
            build=f"{modules}:Shallow",
            config=ShallowSettings,
            paper=PAPER,
            summary="one set of rows that flows through all blocks beside the tokens",
        ),
        PromptSpec(
            name="vpt.deep",
            build=f"{modules}:DeepLayer",
            config=DeepSettings,
            paper=PAPER,
            summary="fresh rows in every block, read by its attention and dropped",
        ),
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """VPT-deep, the paper's better variant, in both streams."""
    return [
        MethodSpec(
            name="vpt",
            prompts=("vpt.deep",),
            recipes="avcore_vpt",
            paper=PAPER,
            summary="visual prompt tuning of both streams, deep",
        )
    ]
