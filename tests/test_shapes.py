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


def test_what_is_written_in_place_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RememberedShapes, "_made", {})
    x = torch.zeros(3, 5, device="meta", requires_grad=True)
    with RememberedShapes():
        for _ in range(3):
            y = x * 2
            assert y.sigmoid_() is y
            assert y.grad_fn is not None
            assert "Sigmoid" in y.grad_fn.name()
        assert sum("sigmoid_" in str(key[0]) for key in RememberedShapes._made) == 1
        with pytest.raises(RuntimeError):
            (x * 2).add_(torch.zeros(4, device="meta"))
        flat = (x * 2).unsqueeze_(0)
    assert flat.shape == (1, 3, 5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_what_torch_takes_apart_has_the_form_that_it_has_alone(mode: str) -> None:
    x = torch.zeros(2, 3, 8, 8, device="meta").to(memory_format=torch.channels_last)

    def both() -> list[Tensor]:
        larger = nn.functional.interpolate(x, (16, 12), mode=mode, align_corners=False)
        return [larger, *torch.var_mean(larger, dim=1), nn.functional.layer_norm(larger, (12,))]

    plain = both()
    with RememberedShapes():
        first, again = both(), both()
    for found in (first, again):
        assert [(one.shape, one.stride(), one.dtype) for one in found] == [
            (one.shape, one.stride(), one.dtype) for one in plain
        ]
