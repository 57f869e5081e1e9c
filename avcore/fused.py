"""What bottlenecks compute, as few operators that keep little for the backward pass; the gradients are written by hand.

Kept are inputs, sums over tokens and what is a hidden width or a few latent tokens wide; what is as wide as the tokens
is computed again. Batch normalisation makes much of small differences: in half precision the products that it reads,
and what follows it up to the result, are not rounded. While torch compiles, its own gradients of the same formulas are
taken: it fuses them itself.

Shape letters: M = B*T, N tokens, K tokens of the other stream, D width, n latent tokens, R = M*N rows, g groups.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.batchnorm import Statistics, batch_norm, batch_norm_backward

__all__ = ["grouped_product", "read_and_narrow", "read_through", "widen"]

_aten: Any = torch.ops.aten


def grouped_product(x: Tensor, weight: Tensor, *, exact: bool = False) -> Tensor:
    """The product of each group of inputs with its own rows of the weight.

    Args:
        x: (..., g * I).
        weight: (g * O, I).
        exact: of inputs in half precision, the sums as they are, in float32.

    Returns:
        (..., g * O).
    """
    if torch.compiler.is_compiling():
        if exact:
            kind = at_least_single_type(x)
            x, weight = x.to(kind), weight.to(kind)
        groups = x.shape[-1] // weight.shape[1]
        pairs = zip(x.chunk(groups, dim=-1), weight.chunk(groups), strict=True)
        return torch.cat([F.linear(part, rows) for part, rows in pairs], dim=-1)
    return _apply(_Grouped, (x, weight), exact)


def read_through(x_MND: Tensor, other_MKD: Tensor, latents_nD: Tensor, gate: Tensor) -> Tensor:
    """x + gate softmax(x U^T) U with U = L + softmax(L y^T) y: x reads y through a few latent tokens L.

    Args:
        x_MND: the tokens that read.
        other_MKD: y, the tokens that are read.
        latents_nD: L.
        gate: one number, (1,).
    """
    if torch.compiler.is_compiling():
        summary_MnD = latents_nD + torch.softmax(latents_nD @ other_MKD.mT, dim=-1) @ other_MKD
        return x_MND + gate * (torch.softmax(x_MND @ summary_MnD.mT, dim=-1) @ summary_MnD)
    return _apply(_ReadThrough, (x_MND, other_MKD, latents_nD, gate))


def read_and_narrow(
    x_MND: Tensor, other_MKD: Tensor, latents_nD: Tensor, gate: Tensor, norm: nn.Module, weight: Tensor
) -> Tensor:
    """`read_through`, a layer norm (or `nn.Identity`), exact `grouped_product`: (M, N, D) to (M, N, hidden width)."""
    if torch.compiler.is_compiling():
        return grouped_product(norm(read_through(x_MND, other_MKD, latents_nD, gate)), weight, exact=True)
    affine = (norm.weight, norm.bias) if isinstance(norm, nn.LayerNorm) else (None, None)
    eps = norm.eps if isinstance(norm, nn.LayerNorm) else 0.0
    return _apply(_ReadAndNarrow, (x_MND, other_MKD, latents_nD, gate, weight, *affine), eps)


def widen(
    x: Tensor,
    weight: Tensor,
    batch_affine: tuple[Tensor, Tensor] | None,
    statistics: Statistics | None,
    layer_affine: tuple[Tensor, Tensor] | None,
    eps: float,
    gate: Tensor | None,
) -> Tensor:
    """ReLU, `grouped_product`, batch normalisation over all rows, layer norm, gate; all but the product may be None.

    Args:
        x: (M, N, k).
        weight: (D, k / g); its type is that of the product's inputs and of the result.
        batch_affine, layer_affine: weight and bias, (D,) each, of one type where there are both.
        statistics: of the batch normalisation.
        eps: of the layer norm.
        gate: one number, (1,).

    Returns:
        (M, N, D).
    """
    if torch.compiler.is_compiling():
        hidden = F.relu(x.to(weight.dtype))
        out = grouped_product(hidden, weight, exact=statistics is not None)
        if batch_affine is not None and statistics is not None:
            out = statistics.normalise(out.flatten(0, 1), *batch_affine).view_as(out)
        out = out if layer_affine is None else F.layer_norm(out, out.shape[-1:], *layer_affine, eps)
        return (out if gate is None else out * gate).to(hidden.dtype)
    affines = (*(layer_affine or (None, None)), *(batch_affine or (None, None)))
    return _apply(_Widen, (weight,), x, gate, *affines, statistics, eps)


def _apply(function: Any, tensors: tuple[Tensor | None, ...], *others: Any) -> Tensor:
    """A function of our own on tensors in the type of the first one, or in that of autocast.

    Autocast chooses by operator, forwards only, so it must act on what goes in.
    """
    x = tensors[0]
    assert x is not None
    device = "cpu" if x.is_meta else x.device.type
    chosen = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    alike = (None if one is None else one.to(chosen) for one in tensors)
    with torch.autocast(device, enabled=False):
        found: Tensor = function.apply(*alike, *others)
        return found


def at_least_single_type(x: Tensor) -> torch.dtype:
    """That of exact sums; by hand, since `torch.promote_types` goes through the dispatcher."""
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype


def by_group(x_RI: Tensor, groups: int) -> Tensor:
    """(R, g * I) as (g, R, I), a view."""
    found: Tensor = x_RI.unflatten(1, (groups, -1)).transpose(0, 1)
    return found


def grouped(x_RI: Tensor, weight: Tensor, exact: bool = False, out: Tensor | None = None) -> Tensor:
    """The product written group by group into one matrix (R, g * O), or into ``out``: nothing is concatenated."""
    groups = x_RI.shape[1] // weight.shape[1]
    if out is None:
        kind = at_least_single_type(x_RI) if exact else x_RI.dtype
        out = x_RI.new_empty(x_RI.shape[0], weight.shape[0], dtype=kind)
    parts, rows = by_group(x_RI, groups), weight.unflatten(0, (groups, -1)).mT
    if out.dtype == x_RI.dtype:
        torch.bmm(parts, rows, out=by_group(out, groups))
    else:
        torch.ops.avcore.exact_bmm(parts, rows, by_group(out, groups))
    return out


def _exact_bmm(parts: Tensor, rows: Tensor, out: Tensor) -> None:
    """The sums of products in half precision, as GPUs make them before they round."""
    if parts.device.type == "cpu" or "dtype_out" not in _aten.bmm.overloads():
        torch.bmm(parts.to(out.dtype), rows.to(out.dtype), out=out)
    else:
        _aten.bmm.dtype_out(parts, rows, out.dtype, out=out)


# An operator of its own, since `torch.utils.flop_counter` fails at torch's, which has one more argument than `bmm`.
# It outlives this module, should that be imported anew.
if not hasattr(torch.ops.avcore, "exact_bmm"):
    _library = torch.library.Library("avcore", "FRAGMENT")
    _library.define("exact_bmm(Tensor parts, Tensor rows, Tensor(a!) out) -> ()")
    _library.impl("exact_bmm", _exact_bmm, "CompositeExplicitAutograd")


def grouped_backward(grad_RO: Tensor, x_RI: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients for the rows and for the weight."""
    groups = x_RI.shape[1] // weight.shape[1]
    grad = by_group(grad_RO, groups)
    to_x = torch.empty_like(x_RI)
    torch.bmm(grad, weight.unflatten(0, (groups, -1)), out=by_group(to_x, groups))
    return to_x, torch.bmm(grad.mT, by_group(x_RI, groups)).flatten(0, 1)


class _Grouped(torch.autograd.Function):
    """See `grouped_product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, exact: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        return grouped(x.flatten(0, -2), weight, exact).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight = grouped_backward(grads[0].flatten(0, -2).to(x.dtype), x.flatten(0, -2), weight)
        return to_x.view_as(x), to_weight, None


class _Reading(NamedTuple):
    """What `_read` keeps: x, y, L and the gate; softmax over y's tokens; U; the gate times U; softmax over U."""

    x_MND: Tensor
    other_MKD: Tensor
    latents_nD: Tensor
    gate: Tensor
    collected_MKn: Tensor
    summary_MnD: Tensor
    gated_MnD: Tensor
    spread_MNn: Tensor

    def result(self) -> Tensor:
        """What `read_through` gives, from what is kept."""
        return torch.baddbmm(self.x_MND, self.spread_MNn, self.gated_MnD)


def _read(x_MND: Tensor, other_MKD: Tensor, latents_nD: Tensor, gate: Tensor) -> _Reading:
    collected_MKn = torch.softmax(F.linear(other_MKD, latents_nD), dim=1)
    summary_MnD = torch.baddbmm(latents_nD, collected_MKn.mT, other_MKD)
    spread_MNn = torch.softmax(torch.bmm(x_MND, summary_MnD.mT), dim=-1)
    return _Reading(x_MND, other_MKD, latents_nD, gate, collected_MKn, summary_MnD, gate * summary_MnD, spread_MNn)


def _read_backward(grad_MND: Tensor, kept: _Reading) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients for x, y, L and the gate."""
    x, other, latents, gate, collected, summary, gated, spread = kept
    to_gated = torch.bmm(spread.mT, grad_MND)
    to_scores = softmax_backward(torch.bmm(grad_MND, gated.mT), spread, -1)
    to_summary = torch.baddbmm(gate * to_gated, to_scores.mT, x)
    to_x = torch.baddbmm(grad_MND, to_scores, summary)
    to_collected = softmax_backward(torch.bmm(other, to_summary.mT), collected, 1).flatten(0, 1)
    to_other = torch.bmm(collected, to_summary)
    to_other.flatten(0, 1).addmm_(to_collected, latents)
    to_latents = torch.addmm(to_summary.sum(0), to_collected.mT, other.flatten(0, 1))
    return to_x, to_other, to_latents, _dot(to_gated, summary)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The sum of all products, (1,)."""
    if one.device.type == "cpu" and one.dtype == torch.bfloat16:  # of which torch's takes ten times as long there
        return (one * other).sum().view(1)
    return torch.dot(one.flatten(), other.flatten()).view(1)


def softmax_backward(grad: Tensor, made: Tensor, dim: int) -> Tensor:
    found: Tensor = _aten._softmax_backward_data(grad, made, dim, made.dtype)
    return found


class _ReadThrough(torch.autograd.Function):
    """See `read_through`."""

    @staticmethod
    def forward(ctx: Any, x_MND: Tensor, other_MKD: Tensor, latents_nD: Tensor, gate: Tensor) -> Tensor:
        kept = _read(x_MND, other_MKD, latents_nD, gate)
        ctx.save_for_backward(*kept)
        return kept.result()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return _read_backward(grads[0], _Reading(*ctx.saved_tensors))


class _ReadAndNarrow(torch.autograd.Function):
    """See `read_and_narrow`; the tokens that have read, and their norm, are made again for the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x_MND: Tensor,
        other_MKD: Tensor,
        latents_nD: Tensor,
        gate: Tensor,
        weight: Tensor,
        scale_D: Tensor | None,
        shift_D: Tensor | None,
        eps: float,
    ) -> Tensor:
        kept = _read(x_MND, other_MKD, latents_nD, gate)
        read_RD = kept.result().flatten(0, 1)
        mean = deviation = None
        if scale_D is not None:
            read_RD, mean, deviation = torch.native_layer_norm(read_RD, read_RD.shape[1:], scale_D, shift_D, eps)
        ctx.eps = eps
        ctx.save_for_backward(*kept, weight, scale_D, shift_D, mean, deviation)
        return grouped(read_RD, weight, exact=True).view(*x_MND.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *saved, weight, scale_D, shift_D, mean, deviation = ctx.saved_tensors
        kept = _Reading(*saved)
        normed_RD = read_RD = kept.result().flatten(0, 1)
        width = read_RD.shape[1:]
        if scale_D is not None:
            normed_RD = torch.native_layer_norm(read_RD, width, scale_D, shift_D, ctx.eps)[0]
        grad_RD, to_weight = grouped_backward(grads[0].flatten(0, 1).to(normed_RD.dtype), normed_RD, weight)
        to_scale = to_shift = None
        if scale_D is not None:
            grad_RD, to_scale, to_shift = _aten.native_layer_norm_backward(
                grad_RD, read_RD, width, mean, deviation, scale_D, shift_D, (True, True, True)
            )
        return *_read_backward(grad_RD.view_as(kept.x_MND), kept), to_weight, to_scale, to_shift, None


class _Widen(torch.autograd.Function):
    """See `widen`; what is as wide as the result is made again for the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        x: Tensor,
        gate: Tensor | None,
        layer_scale: Tensor | None,
        layer_shift: Tensor | None,
        batch_scale: Tensor | None,
        batch_shift: Tensor | None,
        statistics: Statistics | None,
        eps: float,
    ) -> Tensor:
        hidden_RK = relu(x.flatten(0, 1), weight.dtype)
        out_RD = grouped(hidden_RK, weight, exact=statistics is not None)
        if statistics is not None:
            out_RD, _ = batch_norm(out_RD, batch_scale, batch_shift, statistics)
        mean = deviation = None
        if layer_scale is not None:
            out_RD, mean, deviation = torch.native_layer_norm(out_RD, out_RD.shape[1:], layer_scale, layer_shift, eps)
        ctx.eps, ctx.kind = eps, x.dtype
        ctx.statistics = None if statistics is None else statistics.again()
        norms = (layer_scale, layer_shift, batch_scale, batch_shift, mean, deviation)
        ctx.save_for_backward(hidden_RK, weight, gate, *norms)
        if gate is None:
            out_RD = out_RD.to(weight.dtype)
        else:  # in the type of the result by the same operator
            out_RD = torch.mul(out_RD, gate, out=torch.empty_like(out_RD, dtype=weight.dtype))
        return out_RD.view(*x.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_RK, weight, gate, *norms = ctx.saved_tensors
        layer_scale, layer_shift, batch_scale, batch_shift, mean, deviation = norms
        normed_RD = out_RD = grouped(hidden_RK, weight, exact=ctx.statistics is not None)
        width = out_RD.shape[1:]
        grad_RD = grads[0].flatten(0, 1).to(out_RD.dtype)
        to_gate = kept = None
        if ctx.statistics is not None:
            normed_RD, kept = batch_norm(out_RD, batch_scale, batch_shift, ctx.statistics)
        if gate is not None:
            ungated_RD = normed_RD
            if layer_scale is not None:
                ungated_RD = torch.native_layer_norm(normed_RD, width, layer_scale, layer_shift, ctx.eps)[0]
            to_gate = _dot(grad_RD, ungated_RD).to(gate.dtype)
            grad_RD = grad_RD * gate
        to_layer: Any = (None, None)
        to_batch: Any = (None, None)
        if layer_scale is not None:
            grad_RD, *to_layer = _aten.native_layer_norm_backward(
                grad_RD, normed_RD, width, mean, deviation, layer_scale, layer_shift, (True, True, True)
            )
        if kept is not None:
            grad_RD, *to_batch = batch_norm_backward(grad_RD, out_RD, batch_scale, ctx.statistics, kept)
        to_hidden, to_weight = grouped_backward(grad_RD.to(weight.dtype), hidden_RK, weight)
        to_x = _aten.threshold_backward(to_hidden, hidden_RK, 0).to(ctx.kind).view(*grads[0].shape[:2], -1)
        return to_weight, to_x, to_gate, *to_layer, *to_batch, None, None


def relu(x: Tensor, dtype: torch.dtype) -> Tensor:
    """ReLU in another type, by one operator."""
    return torch.relu(x) if x.dtype == dtype else torch.maximum(x, _ZERO, out=torch.empty_like(x, dtype=dtype))


_ZERO = torch.zeros(())
