"""The one attention function of all backbone families, on ``scaled_dot_product_attention``.

Shape letters: M batch, W windows of a token grid, H heads, N queries, K keys, D width (of a head after H), R rows,
C carried rows.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.modules import full_precision

__all__ = ["attend", "attend_in_windows", "fused", "split_heads"]

FEW_KEYS = 128
"""Up to so many keys torch's fused attention on a CPU is slower in half precision than in float32: its gradient by half
at 128, tenfold at 12, with torch 2.13."""


def split_heads(x_MND: Tensor, heads: int) -> Tensor:
    """(..., N, D) to (..., H, N, D / H)."""
    split: Tensor = x_MND.unflatten(-1, (heads, -1))
    return split.transpose(-3, -2)


def attend(
    q_MHND: Tensor,
    k_MHKD: Tensor,
    v_MHKD: Tensor,
    *,
    bias: Tensor | None = None,
    row_bias_R: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention, heads joined again.

    Args:
        q_MHND: queries, split into heads.
        k_MHKD, v_MHKD: keys and values.
        bias: added to the logits, (..., N, K), heads before N; or of the first queries and keys alone, and 0 elsewhere;
            (M, 1, 1, K) is for all queries.
        row_bias_R: added to the logits of the last R keys.
        scale: of the logits; 1 / sqrt(width of a head) when None.

    Returns:
        (M, N, H * D).
    """
    keys = k_MHKD.shape[2] - (0 if row_bias_R is None else len(row_bias_R))
    if bias is not None:
        of_keys = bias.dim() == 4 and bias.shape[-2] == 1
        bias = F.pad(bias, (0, keys - bias.shape[-1], 0, 0 if of_keys else q_MHND.shape[2] - bias.shape[-2]))
    whole = _row_columns(bias, keys, row_bias_R)
    mixed_MHND = _attention(q_MHND, k_MHKD, v_MHKD, whole, scale)
    return mixed_MHND.transpose(1, 2).flatten(2)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    if q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16) and k.shape[-2] <= FEW_KEYS:
        with full_precision(q):
            whole = None if bias is None else bias.float()
            return _attention(q.float(), k.float(), v.float(), whole, scale).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


Mix = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Queries (M, W, H, N, D), keys and values (M, W, H, K, D), a bias or None, to (M, W, H, N, D)."""


def fused(scale: float | None = None) -> Mix:
    """Softmax attention of each window with a bias (W, H, N, K), (1, H, N, K) or (1, K).

    Args:
        scale: of the logits; 1 / sqrt(width of a head) when None.
    """

    def mix(q_MWHND: Tensor, k_MWHKD: Tensor, v_MWHKD: Tensor, bias: Tensor | None) -> Tensor:
        # A bias common to the windows lets them join the batch. One for each is not repeated for every picture if they
        # join the heads.
        own = bias is not None and bias.dim() == 4 and bias.shape[0] > 1
        first = 1 if own else 0
        q, k, v = (x.flatten(first, first + 1) for x in (q_MWHND, k_MWHKD, v_MWHKD))
        if own and bias is not None:
            bias = bias.flatten(0, 1)[None]
        mixed = _attention(q, k, v, bias, scale)
        mixed_MWHND: Tensor = mixed.unflatten(first, q_MWHND.shape[first : first + 2])
        return mixed_MWHND

    return mix


def attend_in_windows(
    q_MWHND: Tensor,
    k_MWHND: Tensor,
    v_MWHND: Tensor,
    *,
    carry: tuple[Tensor, Tensor, Tensor] | None = None,
    rows: Sequence[tuple[Tensor, Tensor]] = (),
    bias: Tensor | None = None,
    added_HNN: Tensor | None = None,
    row_bias_R: Tensor | None = None,
    neutral: float = 0.0,
    mix: Mix | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention of tokens within their windows; rows stand in every window.

    What is common to the windows is given once for each picture, (M, ...), or once for all, (1, ...), and broadcast
    here. Columns follow each other as tokens, carried rows, rows.

    Args:
        q_MWHND, k_MWHND, v_MWHND: of the tokens in each window, split into heads.
        carry: queries, keys and values (M, H, C, D) of carried rows.
        rows: keys and values (M, H, R, D) each, without queries.
        bias: of tokens on tokens, (1, H, N, N) or (W, H, N, N). None stands for ``neutral`` everywhere.
        added_HNN: added to it.
        row_bias_R: of the columns of ``rows``; None for ``neutral``.
        neutral: bias of whatever else has no place on the grid: all columns of carried rows, and all their logits.
        mix: the attention itself; `fused` when None.

    Returns:
        (M, W, N, H * D) of the tokens, and (M, C, H * D) of the carried rows, the mean over the windows.
    """
    tokens, carried = q_MWHND.shape[3], 0
    q, keys, values = q_MWHND, [k_MWHND], [v_MWHND]
    if carry is not None:
        carried = carry[0].shape[2]
        q = torch.cat([q, _in_every_window(carry[0], q_MWHND)], dim=3)
        rows = [carry[1:], *rows]
    for k_MHRD, v_MHRD in rows:
        keys.append(_in_every_window(k_MHRD, q_MWHND))
        values.append(_in_every_window(v_MHRD, q_MWHND))
    k, v = (torch.cat(pieces, dim=3) if len(pieces) > 1 else pieces[0] for pieces in (keys, values))
    others = k.shape[3] - tokens - carried
    if added_HNN is not None:
        heads = added_HNN.expand(q_MWHND.shape[2], -1, -1)
        bias = (neutral if bias is None else bias) + heads[None]
    mixed = (mix or fused())(q, k, v, _widen(bias, tokens, carried, others, row_bias_R, neutral))
    out_MWND = mixed.transpose(2, 3).flatten(3)
    if not carried:
        return out_MWND, None
    return out_MWND[:, :, :tokens], out_MWND[:, :, tokens:].mean(1)


def _row_columns(bias: Tensor | None, tokens: int, row_bias_R: Tensor | None) -> Tensor | None:
    """Widen an attention bias by the columns of prompt rows.

    Args:
        bias: (..., N, tokens) of the real tokens, or None for none.
        tokens: number of key columns of real tokens.
        row_bias_R: bias of each row's column, or None for zeros.

    Returns:
        A bias that broadcasts to (..., N, tokens + R); None when there is nothing to add.
    """
    if row_bias_R is None:
        return bias
    if bias is None:
        return torch.cat([row_bias_R.new_zeros(tokens), row_bias_R])[None]
    columns = row_bias_R.to(bias.dtype).expand(*bias.shape[:-1], -1)
    return torch.cat([bias, columns], dim=-1)


def _in_every_window(x_MHRD: Tensor, q_MWHND: Tensor) -> Tensor:
    return x_MHRD[:, None].expand(*q_MWHND.shape[:2], -1, -1, -1)


def _widen(
    bias: Tensor | None, tokens: int, carried: int, others: int, row_bias_R: Tensor | None, neutral: float
) -> Tensor | None:
    """The bias of all queries on all keys; where all tokens stand at the neutral value, it is left out of every one."""
    if bias is None:
        return _row_columns(None, tokens + carried, None if row_bias_R is None else row_bias_R - neutral)
    if carried:
        bias = F.pad(bias, (0, carried, 0, carried), value=neutral)
    if row_bias_R is None:
        return F.pad(bias, (0, others), value=neutral) if others else bias
    return _row_columns(bias, tokens + carried, row_bias_R)
