"""Parts that read beside a toy's towers, and what stands there to be read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from avcore.states import parameter_groups
from avcore.testing import ToyBackbones, make_model

__all__ = ["beside", "counted_bytes", "walked"]


def beside(toy: str, listed: Sequence[str], others: Mapping[str, Any], *, moved: bool = True, **options: Any) -> Any:
    """A model of these parts, of which nothing is zero any longer unless ``moved`` is false.

    Args:
        toy: name of the backbone.
        listed: the parts.
        others: distribution to light module of the plugin that offers them.
        moved: add something to every parameter of the parts.
        options: further ones of `make_model`.
    """
    model = make_model(ToyBackbones(), toy, listed=listed, others=others, on_meta_first=False, **options)
    torch.manual_seed(0)
    for _, parameter in parameter_groups(model)["parts"]:
        parameter.data += torch.randn_like(parameter) * 0.1 * moved
    return model


def walked(model: Any, stream: str, batch: Any) -> list[Tensor]:
    """The tokens behind every block of a frozen stream."""
    tower = model.towers[stream]
    x = tower.enter(tower.embed(model.front_ends(batch)[stream]))
    seen = []
    for block in tower.layout.blocks:
        if block.index and block.stage != tower.layout.blocks[block.index - 1].stage:
            x = tower.merge(x, block.stage)
        x = tower.block(block.index)(x)
        seen.append(x)
    return seen


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """What is kept for a backward pass within it, in bytes."""
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield kept
