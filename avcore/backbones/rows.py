"""Prompt rows as keys and values beside those of tokens, and what a frozen projection of both keeps.

Where the weights are frozen, nothing of a projection's input is needed in the backward pass. What is kept are
queries, keys and values as the attention takes them, each in memory of its own: a view would keep the whole product.

Shape letters: M batch, P whose rows are given, W windows (1 where there are none), N tokens, R rows, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["apart", "beside_rows", "pieces_of", "queries_keys_apart", "spread", "together"]


def pieces_of(rows: Tensor | Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """Rows as `Block.attention` takes them, one tensor or several, as (P, R, D) each."""
    given = () if rows is None else (rows,) if isinstance(rows, Tensor) else tuple(rows)
    return tuple(piece[None] if piece.dim() == 2 else piece for piece in given)


def together(pieces: Sequence[Tensor]) -> Tensor:
    """All rows in one tensor, so that what is done to each by itself is done at once: (rows, D), or one piece's own."""
    return pieces[0] if len(pieces) == 1 else torch.cat([piece.flatten(0, 1) for piece in pieces])


def apart(made: Tensor, pieces: Sequence[Tensor]) -> list[Tensor]:
    """What became of `together`, as (P, R, ...) for each piece."""
    if len(pieces) == 1:
        return [made]
    parts = made.split([piece.shape[0] * piece.shape[1] for piece in pieces])
    return [part.unflatten(0, piece.shape[:2]) for part, piece in zip(parts, pieces, strict=True)]


def spread(piece_PRD: Tensor, batch: int, windows: int) -> Tensor:
    """(P, R, D) to (M, W, R, D), without a copy unless P is neither 1 nor M; each window has the same."""
    if piece_PRD.shape[0] not in (1, batch):
        piece_PRD = piece_PRD.repeat(batch // piece_PRD.shape[0], 1, 1)
    return piece_PRD[:, None].expand(batch, windows, -1, -1)


def _gathered(grad_MWRD: Tensor, given: int) -> Tensor:
    """The way back from `spread`, sums of what was one: (P, R, D)."""
    batch, windows = grad_MWRD.shape[:2]
    if given == 1:
        return grad_MWRD.sum((0, 1))[None]
    if given == batch:
        return grad_MWRD[:, 0] if windows == 1 else grad_MWRD.sum(1)
    grad_BPWRD: Tensor = grad_MWRD.unflatten(0, (-1, given))
    return grad_BPWRD.sum((0, 2))


def beside_rows(
    u_MWND: Tensor, weight: Tensor, bias: Tensor | None, pieces: Sequence[Tensor], *, values_apart: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of tokens, and keys and values of tokens with rows behind them.

    Args:
        u_MWND: what the projection reads.
        weight, bias: of the projection to queries, keys and values, (3 * D, D) and (3 * D,).
        pieces: keys and values of rows side by side, (P, R, 2 * D) each, P that divides M.
        values_apart: keys and values are not halves of one tensor, which the one would keep for the other: for
            attention that reads keys by something made of them.

    Returns:
        (M, W, N, D), and twice (M, W, N + R, D).
    """
    made: tuple[Tensor, Tensor, Tensor] = _BesideRows.apply(u_MWND, weight, bias, values_apart, *pieces)  # type: ignore[no-untyped-call]
    return made


def queries_keys_apart(u: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries and keys side by side, (..., 2 * D), and values (..., D), each in memory of its own."""
    made: tuple[Tensor, Tensor] = _Apart.apply(u, weight, bias)  # type: ignore[no-untyped-call]
    return made


def _pair(u: Tensor, weight: Tensor, bias: Tensor | None, cut: int) -> list[Tensor]:
    biases = (None, None) if bias is None else (bias[:cut], bias[cut:])
    return [F.linear(u, half, more) for half, more in zip((weight[:cut], weight[cut:]), biases, strict=True)]


class _BesideRows(torch.autograd.Function):
    # All in one parameter: where no gradient is asked for, torch.compile leaves the context out if there are as many
    # arguments as parameters, and `*pieces` would count as one.
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        u_MWND, weight, bias, values_apart, *pieces = given
        batch, windows, _, width = u_MWND.shape
        ctx.save_for_backward(weight, u_MWND if ctx.needs_input_grad[1] else None)
        ctx.rows = [(piece.shape[0], piece.shape[1]) for piece in pieces]
        more = [spread(piece, batch, windows) for piece in pieces]
        if not values_apart:
            q, kv = _pair(u_MWND, weight, bias, width)
            k, v = torch.cat([kv, *(piece.to(kv.dtype) for piece in more)], dim=2).chunk(2, dim=-1)
            return q, k, v
        qk, v = _pair(u_MWND, weight, bias, 2 * width)
        q, k = qk.chunk(2, dim=-1)
        more_k, more_v = ([piece.to(v.dtype).chunk(2, dim=-1)[half] for piece in more] for half in (0, 1))
        return q, torch.cat([k, *more_k], dim=2), torch.cat([v, *more_v], dim=2)

    @staticmethod
    def backward(ctx: Any, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> tuple[Tensor | None, ...]:
        weight, u_MWND = ctx.saved_tensors
        tokens = d_q.shape[2]
        d_u = d_weight = d_bias = None
        if any(ctx.needs_input_grad[:3]):
            d_made = torch.cat([d_q, d_k[:, :, :tokens], d_v[:, :, :tokens]], dim=-1)
            d_u, d_weight, d_bias = _of_linear(ctx, d_made, u_MWND, weight)
        d_rows = torch.cat([d_k[:, :, tokens:], d_v[:, :, tokens:]], dim=-1)
        parts = d_rows.split([rows for _, rows in ctx.rows], dim=2)
        found = [_gathered(part, given) for part, (given, _) in zip(parts, ctx.rows, strict=True)]
        return d_u, d_weight, d_bias, None, *found


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, u if ctx.needs_input_grad[1] else None)
        qk, v = _pair(u, weight, bias, weight.shape[0] // 3 * 2)
        return qk, v

    @staticmethod
    def backward(ctx: Any, d_qk: Tensor, d_v: Tensor) -> tuple[Tensor | None, ...]:
        weight, u = ctx.saved_tensors
        return _of_linear(ctx, torch.cat([d_qk, d_v], dim=-1), u, weight)


def _of_linear(ctx: Any, d_made: Tensor, u: Tensor | None, weight: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of a linear map's input, weight and bias, as far as they are needed."""
    d_u = d_made @ weight.to(d_made.dtype) if ctx.needs_input_grad[0] else None
    d_weight = None if u is None else (d_made.flatten(0, -2).mT @ u.flatten(0, -2).to(d_made.dtype)).to(weight.dtype)
    d_bias = d_made.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
    return d_u, d_weight, d_bias
