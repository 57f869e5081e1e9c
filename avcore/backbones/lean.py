"""Functions within frozen blocks that keep less for the backward pass than autograd would.

Shape letters: N tokens, H heads, D width of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["directions", "gated_linear", "made_again", "quick_gelu"]

SMALLEST = 1e-12
"""Shorter vectors are divided by this instead of by their length, as `torch.nn.functional.normalize` does."""


def directions(x: Tensor, scale: Tensor | None = None, *, dense: bool = False) -> Tensor:
    """Each vector divided by its length, times a constant: cosine attention's queries and keys.

    Kept are the result, which attention keeps anyway, and one number a vector.

    Args:
        x: vectors along the last axis.
        scale: broadcasts to (..., 1) of ``x``, without a gradient.
        dense: whether the result lies in memory as its axes do, or as those of ``x`` do.
    """
    made: Tensor = _Directions.apply(x, scale, dense)  # type: ignore[no-untyped-call]
    return made


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), an approximation of GELU (arXiv:1606.08415, section 2); its input alone is kept."""
    made: Tensor = _QuickGELU.apply(x)  # type: ignore[no-untyped-call]
    return made


def made_again(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """``function(*given)``, without draws: only ``given`` is kept, and the backward pass calls it again.

    A compiler decides by itself what it keeps.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*given)
    made: Tensor = checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
    return made


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor) -> Tensor:
    """gate * (W x + b): for the gradient of the gate the map's input is kept in place of its result.

    Args:
        x: (M, N, D).
        weight, bias: of the map.
        gate: () or what else broadcasts to (M, N, 1).
    """
    made: Tensor = _GatedLinear.apply(x, weight, bias, gate)  # type: ignore[no-untyped-call]
    return made


class _Directions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, dense: bool) -> Tensor:
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SMALLEST)
        factors = lengths.reciprocal() if scale is None else scale / lengths
        made: Tensor = (x.contiguous() if dense else x) * factors
        ctx.save_for_backward(made, factors, scale)
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # d/dx of s x / |x| is s / |x| (1 - y y^T / s^2), with the result y.
        made, factors, scale = ctx.saved_tensors
        along = (grad * made).sum(-1, keepdim=True)
        if scale is not None:
            along = along / scale.square()
        return torch.addcmul(grad, made, along, value=-1) * factors, None, None


class _QuickGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        # In place: hidden layers are the widest tensors of a block.
        return (1.702 * x).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # x sigmoid(a x) is silu(a x) / a, whose derivative is that of silu at a x.
        (x,) = ctx.saved_tensors
        made: Tensor = torch.ops.aten.silu_backward(grad, 1.702 * x)
        return made


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias, gate)
        return F.linear(x, weight, bias).mul_(gate)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The gradient of the gate at a token is grad . (W x + b) = (W^T grad) . x + grad . b.
        x, weight, bias, gate = ctx.saved_tensors
        back = grad @ weight
        each = (back * x).sum(-1, keepdim=True)
        if bias is not None:
            each = each + grad @ bias[:, None]
        d_weight = d_bias = None
        if any(ctx.needs_input_grad[1:3]):
            made = (grad * gate).flatten(0, -2)
            d_weight = made.mT @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
            d_bias = made.sum(0) if ctx.needs_input_grad[2] else None
        return back * gate, d_weight, d_bias, each.sum_to_size(gate.shape)
