"""Blocks of Swin Transformers on timm modules, and what they compute once from their frozen weights.

Shape letters: M batch, W windows, N tokens of a window, D width, H heads, R rows, K keys.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.backbones import (
    AttentionWindows,
    Block,
    Increment,
    Phases,
    Point,
    Projection,
    Rows,
    apart,
    attend_in_windows,
    beside_rows,
    directions,
    fused,
    pieces_of,
    plus,
    queries_keys_apart,
    split_heads,
    spread,
    together,
)
from avcore.errors import AVCoreError

__all__ = ["BlockTables", "SwinBlock", "SwinV2Block", "WindowedBlock"]

LARGEST_SCALE = math.log(100.0)
"""Of Swin-V2's logarithmic logit scale."""


class BlockTables(nn.Module):
    """The position bias of a block, shift mask included; for cosine attention the scale of its logits too.

    Attributes:
        bias: (1, H, N, N), or (W, H, N, N) where the windows are shifted.
        scale: (H, 1, 1) or None.
        both: (2 * H, 1, 1) or None, of queries and keys beside each other: the scale, then ones.
        qkv_bias: (3 * D,) or None, of the map to queries, keys and values where it is stored in pieces.
    """

    bias: Tensor
    scale: Tensor | None
    both: Tensor | None
    qkv_bias: Tensor | None

    def __init__(self, bias: Tensor, scale: Tensor | None = None, qkv_bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        both = None if scale is None else torch.cat([scale, torch.ones_like(scale)])
        self.register_buffer("both", both, persistent=False)
        self.register_buffer("qkv_bias", qkv_bias, persistent=False)

    def take(self, made: "BlockTables") -> None:
        """Hold the tables of another one in place of its own."""
        for name, table in made.named_buffers():
            setattr(self, name, table)


class WindowedBlock(Block):
    """A timm block with attention in windows.

    Args:
        inner: the timm block.
        mergings: the frozen merging layers between the first stage and the block's, in order.
        explicit: attend by timm's order of operations.

    Attributes:
        tables: what it computes once.
    """

    takes_pieces: ClassVar[bool] = True

    def __init__(self, inner: nn.Module, mergings: Sequence[nn.Module], *, explicit: bool = False) -> None:
        super().__init__()
        self.inner: Any = inner
        # In a tuple: they are layers of the backbone, not of the block.
        self.mergings: Sequence[Any] = tuple(mergings)
        self.explicit = explicit
        self.attention_windows = windows_of(inner)
        self.tables = self.make_tables()

    def make_tables(self) -> BlockTables:
        """Compute the tables from the weights, in float32 at least, without a graph."""
        raise NotImplementedError

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """What a sub-layer reads of the tokens."""
        raise NotImplementedError

    def after(self, norm: nn.Module, out: Tensor) -> Tensor:
        """What a sub-layer adds to the tokens."""
        raise NotImplementedError

    @property
    def qkv_bias(self) -> Tensor | None:
        """(3 * D,), of the map to queries, keys and values."""
        raise NotImplementedError

    def queries(self, q: Tensor) -> Tensor:
        """Queries as they meet the keys."""
        return q

    def keys(self, k: Tensor) -> Tensor:
        """Keys as they meet the queries."""
        return k

    def mix(self, q_MWHND: Tensor, k_MWHKD: Tensor, v_MWHKD: Tensor, bias: Tensor | None) -> Tensor:
        """Softmax attention, by SDPA or by timm's order of operations."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return self.inner.attn.qkv.weight.dtype  # type: ignore[no-any-return]

    def attention_phases(
        self,
        x_MND: Tensor,
        *,
        rows: Rows = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
    ) -> Phases[Increment]:
        """See `Block.attention`.

        Rows stand in every window: their keys and values are computed once for each picture. What becomes of carried
        rows is the mean over the windows. Without windows there is no position bias, and rows keep theirs relative to
        the neutral value.
        """
        attn, norm = self.inner.attn, self.inner.norm1
        u_MND = self.before(norm, x_MND)
        u_MWND = self.attention_windows.split(u_MND) if windowed else u_MND[:, None]
        increment = yield Point("qkv", u_MWND)
        pieces = []
        if rows is not None:
            given = pieces_of(rows)
            u_rows = self.before(norm, together(given))
            made = self._keys_values(u_rows, (yield Point("qkv", u_rows, tokens=False)))
            pieces += apart(made, given)
        if kv is not None:
            pieces.append(_batched(torch.cat(kv, dim=-1)))
        carried = None
        if carry is not None:
            u_carry = self.before(norm, carry)
            carried = self._heads(u_carry, (yield Point("qkv", u_carry, tokens=False)))
        if increment is None and carry is None and not self.explicit:
            q, k, v = self.lean_heads(u_MWND, pieces)
            pieces = []
        else:
            q, k, v = self._heads(u_MWND, increment)
        mixed_MWND, mixed_carry = attend_in_windows(
            q,
            k,
            v,
            carry=carried,
            rows=[self._row_heads(spread(piece, len(x_MND), 1).squeeze(1)) for piece in pieces],
            bias=self.tables.bias if windowed else None,
            added_HNN=bias_HNN,
            row_bias_R=row_bias_R,
            neutral=self.neutral_row_bias,
            mix=self.mix,
        )
        out_MWND = plus(attn.proj(mixed_MWND), (yield Point("proj", mixed_MWND)))
        out_MND = self.after(norm, self.attention_windows.join(out_MWND) if windowed else out_MWND.squeeze(1))
        if mixed_carry is None:
            yield out_MND, None
        else:
            out_carry = plus(attn.proj(mixed_carry), (yield Point("proj", mixed_carry, tokens=False)))
            yield out_MND, self.after(norm, out_carry)

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """See `Block.keys_values`."""
        k, v = self._keys_values(u, None if project is None else project("qkv", u)).chunk(2, dim=-1)
        return k, v

    def _keys_values(self, u: Tensor, increment: Tensor | None) -> Tensor:
        """Both side by side, (..., 2 * D)."""
        weight, bias = self.inner.attn.qkv.weight, self.qkv_bias
        width = weight.shape[0] // 3
        made = F.linear(u, weight[width:], None if bias is None else bias[width:])
        return made if increment is None else made + increment[..., width:]

    def mlp_phases(self, x_MND: Tensor) -> Phases[Tensor]:
        """See `Block.mlp`."""
        mlp, norm = self.inner.mlp, self.inner.norm2
        u_MND = self.before(norm, x_MND)
        hidden = mlp.act(plus(mlp.fc1(u_MND), (yield Point("fc1", u_MND))))
        yield self.after(norm, plus(mlp.fc2(hidden), (yield Point("fc2", hidden))))

    def lift(self, rows: Tensor) -> Tensor:
        """See `Block.lift`.

        Raises:
            AVCoreError: no stage up to this one has the rows' width.
        """
        given, width, kind = rows.shape[-1], self.inner.attn.qkv.weight.shape[1], rows.dtype
        for merging in self.mergings:
            if rows.shape[-1] == merging.dim:
                fours = rows.to(self.dtype).reshape(-1, 1, 1, merging.dim).expand(-1, 2, 2, -1)
                rows = merging(fours).reshape(*rows.shape[:-1], -1).to(kind)
        if rows.shape[-1] != width:
            raise AVCoreError(f"Rows of width {given} cannot be lifted to {width}: no stage before has that width.")
        return rows

    def windows(self, x_MND: Tensor) -> Tensor:
        """See `Block.windows`."""
        return self.attention_windows.split(x_MND).flatten(0, 1)

    def unwindows(self, x_MND: Tensor) -> Tensor:
        """See `Block.unwindows`."""
        return self.attention_windows.join(
            x_MND.unflatten(0, (-1, self.attention_windows.counts[0] * self.attention_windows.counts[1]))
        )

    def lean_heads(self, u_MWND: Tensor, pieces: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of tokens, and keys and values of tokens with rows behind them, split into heads.

        Args:
            u_MWND: what the projection reads.
            pieces: keys and values of rows side by side, (P, R, 2 * D) each.
        """
        attn = self.inner.attn
        if pieces:
            made: Sequence[Tensor] = beside_rows(u_MWND, attn.qkv.weight, self.qkv_bias, pieces)
        else:
            made = F.linear(u_MWND, attn.qkv.weight, self.qkv_bias).chunk(3, dim=-1)
        q, k, v = (split_heads(x, attn.num_heads) for x in made)
        return q, k, v

    def _heads(self, u: Tensor, increment: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(..., N, D) to queries, keys and values, (..., H, N, D / H) each."""
        attn = self.inner.attn
        made = plus(F.linear(u, attn.qkv.weight, self.qkv_bias), increment)
        q, k, v = (split_heads(part, attn.num_heads) for part in made.chunk(3, -1))
        return self.queries(q).to(v.dtype), self.keys(k).to(v.dtype), v

    def _row_heads(self, piece_MRD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values side by side, (M, R, 2 * D), to (M, H, R, D / H) each."""
        k, v = (split_heads(x, self.inner.attn.num_heads) for x in piece_MRD.chunk(2, dim=-1))
        return self.keys(k).to(v.dtype), v


class SwinBlock(WindowedBlock):
    """Version 1 (arXiv:2103.14030): norms before the sub-layers, dot products, a learned table of position biases."""

    def make_tables(self) -> BlockTables:
        """See `WindowedBlock.make_tables`."""
        return BlockTables(_with_mask(self.inner, self.inner.attn.relative_position_bias_table))

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """The norm."""
        out: Tensor = norm(x)
        return out

    def after(self, norm: nn.Module, out: Tensor) -> Tensor:
        """As it is."""
        return out

    @property
    def qkv_bias(self) -> Tensor | None:
        """See `WindowedBlock.qkv_bias`."""
        bias: Tensor | None = self.inner.attn.qkv.bias
        return bias

    def mix(self, q_MWHND: Tensor, k_MWHKD: Tensor, v_MWHKD: Tensor, bias: Tensor | None) -> Tensor:
        """See `WindowedBlock.mix`."""
        scale = self.inner.attn.scale
        if not self.explicit:
            return fused(scale)(q_MWHND, k_MWHKD, v_MWHKD, bias)
        return _softmax_attention((q_MWHND * scale) @ k_MWHKD.transpose(-2, -1), v_MWHKD, bias)


class SwinV2Block(WindowedBlock):
    """Version 2 (arXiv:2111.09883): norms after the sub-layers, cosines, position biases from a small MLP.

    Keys meet the queries by their direction alone, those of rows and of ``kv`` too. Biases lie between 0 and 16, so
    that 8 says nothing.
    """

    neutral_row_bias: ClassVar[float] = 8.0

    def make_tables(self) -> BlockTables:
        """See `WindowedBlock.make_tables`."""
        attn = self.inner.attn
        exact = _exact(attn.logit_scale.dtype)
        first, act, last = attn.cpb_mlp
        with torch.no_grad():
            offsets = _log_offsets(
                tuple(attn.window_size), tuple(attn.pretrained_window_size), attn.logit_scale.device, exact
            )
            hidden = act(F.linear(offsets, first.weight.to(exact), first.bias.to(exact)))
            table = F.linear(hidden, last.weight.to(exact)).view(-1, attn.num_heads)
            scale = attn.logit_scale.to(exact).clamp(max=LARGEST_SCALE).exp().to(attn.logit_scale.dtype)
            bias = None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        return BlockTables(_with_mask(self.inner, table, squashed=True), scale, bias)

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """As it is."""
        return x

    def after(self, norm: nn.Module, out: Tensor) -> Tensor:
        """The norm."""
        normed: Tensor = norm(out)
        return normed

    @property
    def qkv_bias(self) -> Tensor | None:
        """See `WindowedBlock.qkv_bias`; keys have none."""
        return self.tables.qkv_bias

    @property
    def scale(self) -> Tensor:
        """(H, 1, 1), of the cosines."""
        assert self.tables.scale is not None
        return self.tables.scale

    def lean_heads(self, u_MWND: Tensor, pieces: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """See `WindowedBlock.lean_heads`. Directions lie in memory as the attention reads them."""
        attn, heads = self.inner.attn, self.inner.attn.num_heads
        dense = any(self.attention_windows.shift) and u_MWND.shape[1] > 1
        if pieces:
            made = beside_rows(u_MWND, attn.qkv.weight, self.qkv_bias, pieces, values_apart=True)
            q, k, v = (split_heads(x, heads) for x in made)
            return directions(q, self.scale, dense=dense), directions(k, dense=dense), v
        qk, v = queries_keys_apart(u_MWND, attn.qkv.weight, self.qkv_bias)
        assert self.tables.both is not None
        q, k = directions(split_heads(qk, 2 * heads), self.tables.both, dense=dense).chunk(2, dim=-3)
        return q, k, split_heads(v, heads)

    def queries(self, q: Tensor) -> Tensor:
        """Directions, times the scale of the logits unless that is applied to the cosines themselves."""
        return F.normalize(q, dim=-1) if self.explicit else directions(q, self.scale)

    def keys(self, k: Tensor) -> Tensor:
        """Directions."""
        return F.normalize(k, dim=-1) if self.explicit else directions(k)

    def mix(self, q_MWHND: Tensor, k_MWHKD: Tensor, v_MWHKD: Tensor, bias: Tensor | None) -> Tensor:
        """See `WindowedBlock.mix`."""
        if not self.explicit:
            return fused(1.0)(q_MWHND, k_MWHKD, v_MWHKD, bias)
        cosines = q_MWHND @ k_MWHKD.transpose(-2, -1)
        return _softmax_attention(cosines * self.scale, v_MWHKD, bias)


def _batched(rows: Tensor) -> Tensor:
    return rows[None] if rows.dim() == 2 else rows


def windows_of(inner: Any) -> AttentionWindows:
    """The windows of a timm block."""
    return AttentionWindows(tuple(inner.input_resolution), tuple(inner.window_size), tuple(inner.shift_size))


def _softmax_attention(logits: Tensor, v_MWHKD: Tensor, bias: Tensor | None) -> Tensor:
    return torch.softmax(logits if bias is None else logits + bias, dim=-1) @ v_MWHKD


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _with_mask(inner: Any, table: Tensor, *, squashed: bool = False) -> Tensor:
    """(1 or W, H, N, N) from one bias for each offset, (offsets, H); ``squashed`` to 0..16 as version 2 does."""
    tokens = inner.attn.relative_position_index.shape[0]
    with torch.no_grad():
        picked = table.to(_exact(table.dtype))[inner.attn.relative_position_index.view(-1)]
        bias_HNN = picked.view(tokens, tokens, -1).permute(2, 0, 1).contiguous()
        if squashed:
            bias_HNN = 16 * torch.sigmoid(bias_HNN)
        mask_WNN = windows_of(inner).mask(bias_HNN)
        whole = bias_HNN[None] if mask_WNN is None else bias_HNN + mask_WNN[:, None]
        return whole.to(inner.attn.qkv.weight.dtype)


@cache
def _log_offsets(
    window: tuple[int, int], pretrained: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Equation 4 of version 2: offsets between tokens of a window, (offsets, 2), logarithmic, 1 at 7 of 8.

    Normalised by the window of the pretraining where the weights were made for another.
    """
    lines = []
    for side, trained in zip(window, pretrained, strict=True):
        line = torch.arange(-(side - 1), side, device=device, dtype=torch.float32)
        line = 8 * (line / max((trained or side) - 1, 1))
        lines.append(torch.sign(line) * torch.log2(line.abs() + 1.0) / math.log2(8))
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, 1).to(dtype)
