"""Functions that keep one tensor give what torch's own operators give, and so do their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.backbones import directions, gated_linear, quick_gelu


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_directions_are_normalised_vectors(scaled: bool, dense: bool) -> None:
    x = _draw(2, 5, 3, 4).transpose(1, 2)
    scale = torch.rand(3, 1, 1, dtype=torch.float64) + 1 if scaled else None
    made = directions(x, scale, dense=dense)
    assert torch.allclose(made, F.normalize(x, dim=-1) * (1 if scale is None else scale), rtol=1e-13, atol=1e-13)
    assert made.is_contiguous() == dense
    assert torch.autograd.gradcheck(lambda x: directions(x, scale, dense=dense), (x.detach().requires_grad_(),))


def test_a_vector_of_nothing_has_no_direction() -> None:
    x = torch.zeros(1, 3, requires_grad=True)
    made = directions(x)
    made.sum().backward()
    assert made.tolist() == [[0, 0, 0]]
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_quick_gelu_keeps_its_input_alone() -> None:
    kept: list[Tensor] = []
    x = _draw(3, 4)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        made = quick_gelu(x)
    assert [one.data_ptr() for one in kept] == [x.data_ptr()]
    assert torch.equal(made, x * torch.sigmoid(1.702 * x))
    assert torch.autograd.gradcheck(quick_gelu, (x,))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(), (3, 1)])
def test_a_gated_map_keeps_its_input_alone(shape: tuple[int, ...], biased: bool) -> None:
    weight, bias = torch.randn(5, 4).double(), torch.randn(5).double() if biased else None
    x, gate = _draw(2, 3, 4), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        made = gated_linear(x, weight, bias, gate)
    assert max(one.numel() for one in kept) == x.numel()
    assert torch.allclose(made, gate * F.linear(x, weight, bias), rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(lambda x, gate: gated_linear(x, weight, bias, gate), (x, gate))
    trained = weight.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda weight: gated_linear(x, weight, bias, gate), (trained,))


def test_functions_compile_without_a_break() -> None:
    def both(x: Tensor) -> Tensor:
        return gated_linear(quick_gelu(directions(x, dense=True)), torch.eye(4), None, x.sum())

    x = torch.randn(2, 3, 4, requires_grad=True)
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    (wanted,) = torch.autograd.grad(both(x).sum(), x)
    (found,) = torch.autograd.grad(compiled(x).sum(), x)
    assert torch.allclose(found, wanted)
