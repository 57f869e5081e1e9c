"""The one attention function of all backbone families, on ``scaled_dot_product_attention``.

Shape letters: M batch, H heads, N queries, K keys, D width, R rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend", "row_columns", "split_heads"]


def split_heads(x_MND: Tensor, heads: int) -> Tensor:
    """(M, N, D) to (M, H, N, D / H)."""
    return x_MND.reshape(*x_MND.shape[:2], heads, -1).transpose(1, 2)


def attend(
    q_MHND: Tensor, k_MHKD: Tensor, v_MHKD: Tensor, *, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Softmax attention, heads joined again.

    Args:
        q_MHND: queries, split into heads.
        k_MHKD, v_MHKD: keys and values.
        bias: added to the logits; broadcasts to (M, H, N, K).
        scale: of the logits; 1 / sqrt(width of a head) when None.

    Returns:
        (M, N, H * D).
    """
    mixed_MHND = F.scaled_dot_product_attention(q_MHND, k_MHKD, v_MHKD, attn_mask=bias, scale=scale)
    return mixed_MHND.transpose(1, 2).flatten(2)


def row_columns(bias: Tensor | None, tokens: int, row_bias_R: Tensor | None) -> Tensor | None:
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
