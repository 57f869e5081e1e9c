"""Modules that adapters are made of: the formulas by hand, and the layouts in which torch's own gradient is wrong."""

import pytest
import torch
from torch import Tensor, nn

from avcore.modules import GroupedLinear, TokenBatchNorm, at_least_single, plain_attention


def test_plain_attention() -> None:
    torch.manual_seed(0)
    queries, x = torch.randn(3, 4), torch.randn(2, 5, 4)
    expected = torch.stack([torch.softmax(queries @ one.T, -1) @ one for one in x])
    torch.testing.assert_close(plain_attention(queries, x), expected)
    torch.testing.assert_close(plain_attention(queries.expand(2, -1, -1), x), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_only_half_precision_is_raised(dtype: torch.dtype) -> None:
    x = torch.ones(2, dtype=dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    assert at_least_single(x).dtype == (torch.float32 if half else dtype)
    assert (at_least_single(x) is x) == (not half)


def test_grouped_maps_are_grouped_convolutions() -> None:
    torch.manual_seed(0)
    grouped = GroupedLinear(12, 8, 4)
    torch.manual_seed(0)
    convolution = nn.Conv1d(12, 8, 1, groups=4, bias=False)
    assert torch.equal(grouped.weight, convolution.weight.squeeze(-1))
    x = torch.randn(3, 5, 12)
    torch.testing.assert_close(grouped(x), convolution(x.transpose(1, 2)).transpose(1, 2))


def randomised(norm: nn.BatchNorm1d) -> nn.BatchNorm1d:
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def batch_norm(x_MND: Tensor, norm: nn.Module) -> Tensor:
    if norm.training:
        mean, variance = x_MND.mean((0, 1)), x_MND.var((0, 1), correction=0)
    else:
        mean, variance = norm.running_mean, norm.running_var
    return (x_MND - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


LAYOUTS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1))


def laid_out(x_MND: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same values, the axes in another order in memory."""
    return x_MND.permute(order).contiguous().permute(tuple(order.index(axis) for axis in range(3)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("order_in", LAYOUTS)
@pytest.mark.parametrize("order_out", LAYOUTS)
def test_batch_norm_has_the_right_gradient_for_every_memory_layout(
    training: bool, order_in: tuple[int, ...], order_out: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    norm = randomised(TokenBatchNorm(6).double()).train(training)
    values, cotangent = torch.randn(4, 7, 6).double(), laid_out(torch.randn(4, 7, 6).double(), order_out)
    found = []
    for function in (lambda x: batch_norm(x, norm), norm):
        norm.zero_grad()
        x = laid_out(values, order_in).requires_grad_()
        out = function(x)
        out.backward(cotangent)
        found.append((out, x.grad, norm.weight.grad, norm.bias.grad))
    for expected, made in zip(*found, strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-10)


def test_running_statistics_are_of_all_tokens() -> None:
    torch.manual_seed(0)
    norm, x = TokenBatchNorm(3), torch.randn(4, 5, 3)
    norm(x)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean((0, 1)))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var((0, 1)))
