"""LoRA: low-rank increments of frozen linear maps (Hu et al., ICLR 2022, arXiv:2106.09685).

Shape letters: N tokens, D width, r rank, o and i widths out of and into a map; leading axes are free.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, BlockLayout, PromptLayer
from avcore_baselines.settings import LoRASettings

__all__ = ["MADE_OF", "LoRALayer", "down", "merge", "widths_of"]

MADE_OF = {"qkv": ("q", "k", "v"), "proj": ("proj",), "fc1": ("fc1",), "fc2": ("fc2",)}
"""The targets that a frozen map of the contract consists of, in the order of its output."""


def widths_of(target: str, block: BlockLayout) -> tuple[int, int]:
    """(o, i) of a target in a block.

    Raises:
        AssemblyError: the target is of the MLP, and that of this block has no such maps.
    """
    if target not in ("fc1", "fc2"):
        return block.width, block.width
    if block.mlp is None:
        raise AssemblyError(
            f"The MLP of block {block.index} has no map '{target}' to adapt: name maps of the attention alone "
            "(targets=[q,k,v,proj]), or choose another backbone."
        )
    hidden, into = block.mlp
    return (hidden, block.width) if target == "fc1" else (block.width, into)


def down(rank: int, width: int) -> nn.Parameter:
    """A (r, i), at first uniform within +-1 / sqrt(i): Kaiming's with a = sqrt(5), as in the published code."""
    return nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, width), a=math.sqrt(5)))


class LoRALayer(PromptLayer):
    """Hu et al. 2022, eq. 3: h = W_0 x + (alpha / r) B A x, with A random and B zero at first."""

    def __init__(self, config: LoRASettings, block: BlockLayout) -> None:
        super().__init__()
        self.scale = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        widths = {target: widths_of(target, block) for target in config.targets}
        self.A = nn.ParameterDict({target: down(config.rank, into) for target, (_, into) in widths.items()})
        self.B = nn.ParameterDict({target: torch.zeros(out, config.rank) for target, (out, _) in widths.items()})

    def projection(self, name: str, x: Tensor) -> Tensor | None:
        """What is added to the output of a frozen map, (..., 3 D) for ``qkv``."""
        made = {target: self._increment(target, x) for target in MADE_OF[name] if target in self.A}
        if not made:
            return None
        nothing = torch.zeros_like(next(iter(made.values())))
        return torch.cat([made.get(target, nothing) for target in MADE_OF[name]], dim=-1)

    def weight(self, target: str) -> Tensor:
        """(alpha / r) B A, (o, i): what a merged weight of a target has more than the frozen one."""
        return self.scale * torch.matmul(self.B[target], self.A[target])

    def _increment(self, target: str, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(self.dropout(x), self.A[target]), self.B[target])


def merge(weights: Mapping[str, Tensor], layers: Sequence[LoRALayer], *, sign: int = 1) -> dict[str, Tensor]:
    """Weights of a backbone with the increments in them, for who runs or publishes it without avcore.

    Args:
        weights: of the backbone, such as `Tower.weights`; each block's maps end in ``qkv.weight``, ``proj.weight``,
            ``fc1.weight`` and ``fc2.weight`` within its own name, as timm's do, and blocks come in their order.
        layers: of all its blocks, in their order.
        sign: -1 takes the increments off again.

    Returns:
        All of the weights; those of adapted maps are new tensors.

    Raises:
        AssemblyError: there are not as many maps of a name as layers.
    """
    made = dict(weights)
    for name, targets in MADE_OF.items():
        # The embedding of patches and Swin's mergings have maps of such names too, outside blocks.
        keys = [key for key in weights if key.endswith((f".attn.{name}.weight", f".mlp.{name}.weight"))]
        adapted = [layer for layer in layers if any(target in layer.A for target in targets)]
        if adapted and len(keys) != len(layers):
            raise AssemblyError(
                f"These weights have {len(keys)} maps '{name}' for increments of {len(layers)} blocks: pass those of "
                "the whole backbone, under timm's names."
            )
        for key, layer in zip(keys, layers, strict=False):
            frozen = weights[key]
            pieces = frozen.chunk(len(targets))
            more = [
                layer.weight(t) if t in layer.A else torch.zeros_like(p) for t, p in zip(targets, pieces, strict=True)
            ]
            made[key] = frozen + sign * torch.cat(more).detach().to(frozen)
    return made
