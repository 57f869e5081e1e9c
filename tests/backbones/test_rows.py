"""Rows beside tokens are what a plain projection and concatenation make, and keep less for the backward pass.

Shape letters: M batch, W windows, N tokens, R rows, D width.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.backbones import apart, beside_rows, pieces_of, queries_keys_apart, spread, together

M, W, N, D = 4, 2, 3, 6


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _frozen(bias: bool = True) -> tuple[Tensor, Tensor | None]:
    return torch.randn(3 * D, D, dtype=torch.float64), torch.randn(3 * D, dtype=torch.float64) if bias else None


def _plain(u: Tensor, weight: Tensor, bias: Tensor | None, pieces: list[Tensor]) -> tuple[Tensor, ...]:
    q, k, v = F.linear(u, weight, bias).chunk(3, dim=-1)
    rows = [piece.repeat(M // len(piece), 1, 1)[:, None].repeat(1, u.shape[1], 1, 1) for piece in pieces]
    k, v = (torch.cat([x, *(piece.chunk(2, -1)[half] for piece in rows)], dim=2) for half, x in ((0, k), (1, v)))
    return q, k, v


@pytest.mark.parametrize("windows", [1, W])
@pytest.mark.parametrize("values_apart", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_all_of_segments_and_of_each_stand_behind_the_tokens(
    windows: int, values_apart: bool, bias: bool
) -> None:
    u, (weight, more) = _draw(M, windows, N, D), _frozen(bias)
    pieces = [_draw(1, 2, 2 * D), _draw(2, 1, 2 * D), _draw(M, 3, 2 * D)]

    def lean(u: Tensor, *pieces: Tensor) -> tuple[Tensor, ...]:
        return beside_rows(u, weight, more, pieces, values_apart=values_apart)

    for found, wanted in zip(lean(u, *pieces), _plain(u, weight, more, pieces), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lean, (u, *pieces))


def test_tokens_need_no_gradient_for_rows_to_have_one() -> None:
    u, (weight, bias) = _draw(M, 1, N, D).detach(), _frozen()
    assert torch.autograd.gradcheck(lambda piece: beside_rows(u, weight, bias, [piece]), (_draw(1, 2, 2 * D),))


def test_queries_and_keys_apart_from_values() -> None:
    u, (weight, bias) = _draw(M, W, N, D), _frozen()
    qk, v = queries_keys_apart(u, weight, bias)
    assert torch.allclose(torch.cat([qk, v], dim=-1), F.linear(u, weight, bias), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda u: queries_keys_apart(u, weight, bias), (u,))


def _kept(function: Callable[[], tuple[Tensor, ...]]) -> int:
    """Bytes that the results and what is kept for the backward pass occupy."""
    storages: dict[int, int] = {}

    def see(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(see, see):
        for made in function():
            see(made)
    return sum(storages.values())


def test_nothing_of_the_product_is_kept_beside_what_attention_reads() -> None:
    u, (weight, bias) = _draw(M, 1, N, D), _frozen()
    piece = _draw(1, 2, 2 * D)
    own = (weight.numel()) * 8
    wanted = 8 * (M * N * D + M * (N + 2) * 2 * D)
    assert _kept(lambda: beside_rows(u, weight, bias, [piece])) - own == wanted
    assert _kept(lambda: _plain(u, weight, bias, [piece])) - own > 1.4 * wanted


def test_pieces_are_worked_on_at_once() -> None:
    given = pieces_of([torch.arange(4.0).view(2, 2), torch.arange(6.0).view(3, 1, 2)])
    assert [piece.shape for piece in given] == [(1, 2, 2), (3, 1, 2)]
    flat = together(given)
    assert flat.shape == (5, 2)
    assert all(torch.equal(one, other) for one, other in zip(apart(flat, given), given, strict=True))
    assert pieces_of(None) == ()
    assert [piece.shape for piece in pieces_of(torch.zeros(2, 3))] == [(1, 2, 3)]


def test_rows_of_segments_follow_each_other_as_the_segments_do() -> None:
    piece = torch.arange(2.0).view(2, 1, 1)
    assert spread(piece, 4, 2)[:, :, 0, 0].tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_rows_of_any_number_are_one_graph_without_a_gradient(pieces: int) -> None:
    draws = torch.Generator().manual_seed(0)
    u_MWND, weight = torch.randn(2, 1, 3, 4, generator=draws), torch.randn(12, 4, generator=draws)
    rows = [torch.randn(1, length + 1, 8, generator=draws) for length in range(pieces)]
    torch._dynamo.reset()
    with torch.no_grad():
        made = torch.compile(beside_rows, backend="eager", fullgraph=True)(u_MWND, weight, None, rows)
        for one, other in zip(made, beside_rows(u_MWND, weight, None, rows), strict=True):
            assert torch.equal(one, other)
