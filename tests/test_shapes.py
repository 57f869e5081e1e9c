"""Operators on the meta device are remembered: what they give has the same form, and autograd the same graph."""

import pytest
import torch
from torch import Tensor, nn

from avcore.shapes import RememberedShapes


def block(x_MND: Tensor, width: int = 8) -> Tensor:
    norm, line = nn.LayerNorm(width, device="meta"), nn.Linear(width, 3 * width, device="meta")
    q, k, v = line(norm(x_MND)).chunk(3, -1)
    mixed = nn.functional.scaled_dot_product_attention(q, k, v)
    kept, _ = mixed.topk(2, dim=-1)
    return mixed.transpose(1, 2) * 2 + kept.sum()


def test_what_is_remembered_has_the_form_of_what_was_made() -> None:
    x = torch.zeros(3, 5, 8, device="meta", requires_grad=True)
    plain = block(x)
    with RememberedShapes():
        first, again = block(x), block(x)
        other = block(torch.zeros(3, 4, 8, device="meta", dtype=torch.float64).float())
    for found in (first, again):
        assert (found.shape, found.stride(), found.dtype) == (plain.shape, plain.stride(), plain.dtype)
        assert type(found.grad_fn) is type(plain.grad_fn)
    assert first is not again
    assert other.shape == (3, 8, 4)


def test_numbers_that_are_equal_and_of_other_types_are_not_taken_for_each_other() -> None:
    x = torch.zeros(3, device="meta", dtype=torch.int64)
    with RememberedShapes():
        assert (x * 2).dtype == torch.int64
        assert (x * 2.0).dtype == torch.float32
        assert (x * 2).dtype == torch.int64


def test_what_writes_in_place_and_what_has_values_is_done() -> None:
    x, real = torch.zeros(3, device="meta"), torch.zeros(3)
    with RememberedShapes():
        for _ in range(2):
            x += 1
            real += 1
        assert (real * 2).tolist() == [4.0, 4.0, 4.0]
        view = x[:2]
    assert x._version == 2
    assert view._base is x
    with RememberedShapes(), pytest.raises(RuntimeError):
        x.sum().item()
