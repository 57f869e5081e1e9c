"""A Transformer layer of torchaudio's wav2vec 2.0 as a frozen block.

Shape letters: M batch, N tokens, D width, H heads, R rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.backbones import Block, Projection, attend, split_heads

__all__ = ["Wav2Vec2Block"]


class Wav2Vec2Block(Block):
    """A layer whose norms stand before the sub-layers, x + MHSA(LN x), or behind the sums, LN(x + MHSA(x)).

    The norm behind the last sum of the last layer is left to the tower.

    Args:
        inner: torchaudio's layer.
        pre_norm: where its norms stand.
        last: it is the last layer.
    """

    def __init__(self, inner: nn.Module, *, pre_norm: bool, last: bool) -> None:
        super().__init__()
        self.inner: Any = inner
        self.pre_norm = pre_norm
        self.last = last

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return self.inner.attention.q_proj.weight.dtype  # type: ignore[no-any-return]

    def attention(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
        project: Projection | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `Block.attention`. There are no windows, and no queries of rows."""
        attn, norm = self.inner.attention, self.inner.layer_norm
        tokens = x_MND.shape[1]
        whole_MND = x_MND if carry is None else torch.cat([x_MND, carry], dim=1)
        u_MND = self._before(norm, whole_MND)
        maps = (attn.q_proj, attn.k_proj, attn.v_proj)
        q, k, v = (self._heads(made) for made in _linears(maps, u_MND, project))
        others = []
        if rows is not None:
            others.append(self.keys_values(self._before(norm, rows), project=project))
        if kv is not None:
            others.append(kv)
        if others:
            shape = (x_MND.shape[0], -1, -1, -1)
            k, v = (
                torch.cat([own, *(self._heads(pair[index]).expand(shape) for pair in others)], dim=2)
                for index, own in enumerate((k, v))
            )
        mixed_MND = attend(q, k, v, bias=bias_HNN, row_bias_R=row_bias_R)
        out_MND = _linear("proj", attn.out_proj, mixed_MND, project)
        if carry is None:
            return out_MND, None
        return out_MND[:, :tokens], out_MND[:, tokens:]

    def after_sum(self, name: str, x_MND: Tensor) -> Tensor:
        """See `Block.after_sum`."""
        if self.pre_norm or (self.last and name == "mlp"):
            return x_MND
        normed: Tensor = (self.inner.layer_norm if name == "attention" else self.inner.final_layer_norm)(x_MND)
        return normed

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """See `Block.keys_values`."""
        attn = self.inner.attention
        k, v = _linears((attn.k_proj, attn.v_proj), u, project)
        return k, v

    def mlp(self, x_MND: Tensor, *, project: Projection | None = None) -> Tensor:
        """See `Block.mlp`."""
        layer, norm = self.inner.feed_forward, self.inner.final_layer_norm
        hidden = F.gelu(_linear("fc1", layer.intermediate_dense, self._before(norm, x_MND), project))
        return _linear("fc2", layer.output_dense, hidden, project)

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """What a sub-layer reads of the tokens."""
        out: Tensor = norm(x) if self.pre_norm else x
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """(R, D) or (M, R, D) to (1 or M, H, R, D / H)."""
        return split_heads(x[None] if x.dim() == 2 else x, self.inner.attention.num_heads)


def _linears(layers: Sequence[nn.Module], u: Tensor, project: Projection | None) -> list[Tensor]:
    """The last of the maps to queries, keys and values, which count as one, ``qkv``."""
    made = [layer(u) for layer in layers]
    increment = None if project is None else project("qkv", u)
    if increment is None:
        return made
    pieces = increment.chunk(3, dim=-1)[-len(made) :]
    return [out + piece for out, piece in zip(made, pieces, strict=True)]


def _linear(name: str, layer: nn.Module, x: Tensor, project: Projection | None) -> Tensor:
    out: Tensor = layer(x)
    increment = None if project is None else project(name, x)
    return out if increment is None else out + increment
