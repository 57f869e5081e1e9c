"""Rows that are broadcast into windows equal rows that are concatenated to the tokens of each window."""

import pytest
import torch
from torch import Tensor

from avcore.backbones import AttentionWindows, attend, attend_in_windows, split_heads

M, HEADS, WIDTH, NEUTRAL = 3, 2, 8, 5.0
UNSHIFTED = AttentionWindows((4, 6), (2, 3))
SHIFTED = AttentionWindows((4, 6), (2, 3), (1, 1))
WHOLE = AttentionWindows((4, 6), (4, 6))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def qkv(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three tensors (..., N, D), heads split."""
    q, k, v = (split_heads(draw(*shape, WIDTH), HEADS) for _ in range(3))
    return q, k, v


def naive(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(H, N, D), (H, K, D) and (H, N, K) to (N, H * D)."""
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + bias
    return (torch.softmax(logits, -1) @ v).transpose(0, 1).flatten(1)


def table(windows: AttentionWindows) -> Tensor:
    """(1 or W, H, N, N): random biases and the mask of shifted windows."""
    tokens = windows.size[0] * windows.size[1]
    bias = draw(1, HEADS, tokens, tokens)
    mask = windows.mask(bias)
    return bias if mask is None else bias + mask[:, None]


@pytest.mark.parametrize("windows", [UNSHIFTED, SHIFTED, WHOLE], ids=["unshifted", "shifted", "whole"])
@pytest.mark.parametrize("batched", [True, False], ids=["rows of each picture", "rows of all"])
@pytest.mark.parametrize("with_row_bias", [True, False], ids=["row_bias", "neutral"])
@pytest.mark.parametrize("carried", [0, 2])
def test_rows_equal_the_naive_concatenation(
    windows: AttentionWindows, batched: bool, with_row_bias: bool, carried: int
) -> None:
    torch.manual_seed(0)
    count, tokens = windows.counts[0] * windows.counts[1], windows.size[0] * windows.size[1]
    q, k, v = qkv(M, count, tokens)
    carry = qkv(M, carried) if carried else None
    rows = [(split_heads(draw(M if batched else 1, r, WIDTH), HEADS), qkv(M, r)[2]) for r in (3, 2)]
    bias = table(windows)
    added = draw(HEADS, tokens, tokens) if with_row_bias else None
    row_bias = draw(5) if with_row_bias else None
    out, back = attend_in_windows(
        q, k, v, carry=carry, rows=rows, bias=bias, added_HNN=added, row_bias_R=row_bias, neutral=NEUTRAL
    )
    returned = torch.zeros(M, carried, WIDTH, dtype=torch.float64)
    for picture in range(M):
        others = [
            (keys[picture % keys.shape[0]], values[picture % values.shape[0]])
            for keys, values in ([carry[1:]] if carry else []) + rows
        ]
        for window in range(count):
            queries = [q[picture, window], *([carry[0][picture]] if carry else [])]
            keys = torch.cat([k[picture, window], *(pair[0] for pair in others)], dim=1)
            values = torch.cat([v[picture, window], *(pair[1] for pair in others)], dim=1)
            whole = torch.full((HEADS, tokens + carried, tokens + carried + 5), NEUTRAL, dtype=torch.float64)
            whole[:, :tokens, :tokens] = bias[window % bias.shape[0]]
            if added is not None:
                whole[:, :tokens, :tokens] += added
            if row_bias is not None:
                whole[:, :, tokens + carried :] = row_bias
            expected = naive(torch.cat(queries, dim=1), keys, values, whole)
            torch.testing.assert_close(out[picture, window], expected[:tokens], rtol=0, atol=1e-12)
            returned[picture] += expected[tokens:] / count
    assert (back is None) == (carry is None)
    if back is not None:
        torch.testing.assert_close(back, returned, rtol=0, atol=1e-12)


def test_tokens_without_a_table_stand_at_the_neutral_value() -> None:
    torch.manual_seed(1)
    q, k, v = qkv(M, 1, 6)
    rows = [qkv(M, 3)[1:]]
    flat = torch.full((1, HEADS, 6, 6), NEUTRAL, dtype=torch.float64)
    for row_bias in (None, draw(3)):
        without, _ = attend_in_windows(q, k, v, rows=rows, row_bias_R=row_bias, neutral=NEUTRAL)
        equal, _ = attend_in_windows(q, k, v, rows=rows, bias=flat, row_bias_R=row_bias, neutral=NEUTRAL)
        torch.testing.assert_close(without, equal, rtol=0, atol=1e-12)


def test_a_bias_of_tokens_without_a_table_adds_to_the_neutral_value() -> None:
    torch.manual_seed(2)
    q, k, v = qkv(M, 1, 6)
    rows, bias = [qkv(M, 3)[1:]], draw(1, 6, 6)
    flat = torch.full((1, HEADS, 6, 6), NEUTRAL, dtype=torch.float64) + bias
    found, _ = attend_in_windows(q, k, v, rows=rows, added_HNN=bias, neutral=NEUTRAL)
    expected, _ = attend_in_windows(q, k, v, rows=rows, bias=flat, neutral=NEUTRAL)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_row_bias", [True, False])
def test_biases_of_tokens_and_of_rows_stand_at_their_columns(with_row_bias: bool) -> None:
    """Four queries, the last of a carried row; six keys, the last two of rows; a bias of the first three tokens."""
    torch.manual_seed(3)
    q, (_, k, v) = qkv(M, 4)[0], qkv(M, 6)
    bias, row_bias = draw(HEADS, 3, 3), draw(2) if with_row_bias else None
    whole = torch.zeros(HEADS, 4, 6, dtype=torch.float64)
    whole[:, :3, :3] = bias
    if row_bias is not None:
        whole[:, :, 4:] = row_bias
    found = attend(q, k, v, bias=bias, row_bias_R=row_bias)
    for picture in range(M):
        torch.testing.assert_close(found[picture], naive(q[picture], k[picture], v[picture], whole), rtol=0, atol=1e-12)


def test_a_bias_of_keys_holds_for_all_queries() -> None:
    """(M, 1, 1, K) of the first keys: further queries, of carried rows, see those keys as little."""
    q, k, v = qkv(M, 5)
    hidden_MK = torch.tensor([[False, False, True], [False, True, True], [False, False, False]])
    bias = torch.zeros(M, 3, dtype=torch.float64).masked_fill(hidden_MK, -torch.inf)[:, None, None]
    found = attend(q, k, v, bias=bias)
    for number in range(M):
        seen = [*(~hidden_MK[number]).nonzero().flatten().tolist(), 3, 4]
        expected = naive(q[number], k[number][:, seen], v[number][:, seen], torch.zeros(HEADS, 5, len(seen)))
        torch.testing.assert_close(found[number], expected)
