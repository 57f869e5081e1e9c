"""Sentences through a frozen tower with prompts of the head's own, which prompts on the stream cannot be.

Shape letters: K sentences, L ids of each, N tokens, W width, n prompts, S width of the common space.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.backbones import Block, TextTower

__all__ = ["read"]


def read(tower: TextTower, ids_KL: Tensor, context: Tensor, deep: Sequence[Tensor] = ()) -> Tensor:
    """Sentences to vectors of the common space, (K, S).

    Args:
        tower: frozen.
        ids_KL: as its tokenizer makes them.
        context: (n, W) or (K, n, W), added to the first words of each.
        deep: (n, W) each, what stands in their place before the second block, the third, ...
    """
    lead, tokens = tower.geometry.lead, context.shape[-2]
    x_KNW = tower.embed(ids_KL)
    behind = x_KNW.shape[1] - lead - tokens
    x_KNW = tower.enter(x_KNW + F.pad(context, (0, 0, lead, behind)).to(x_KNW.dtype))
    bias = tower.key_bias(ids_KL)
    for index in range(tower.layout.depth):
        if 0 < index <= len(deep):
            here = deep[index - 1].to(x_KNW.dtype).expand(len(x_KNW), -1, -1)
            x_KNW = torch.cat([x_KNW[:, :lead], here, x_KNW[:, lead + tokens :]], dim=1)
        block = tower.block(index)
        # Through a call of the block, for hooks on it.
        x_KNW = block(x_KNW, run=partial(_through, block, bias))
    return tower.project(tower.pool(tower.norm(x_KNW), ids_KL))


def _through(block: Block, bias: Tensor | None, x_KNW: Tensor) -> Tensor:
    x_KNW = block.after_sum("attention", x_KNW + block.attention(x_KNW, bias_HNN=bias)[0])
    return block.after_sum("mlp", x_KNW + block.mlp(x_KNW))
