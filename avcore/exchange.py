"""Two bottlenecks of one shape that read each other's tokens, as one call: what `avcore.fused` has for one of them.

Both directions stand on an axis of their own where tokens are read, (2, M, N, D), and side by side as channels where
they are normalised over rows, (M, N, 2 D): there they are one bottleneck of twice the groups. Inputs and results are
those of `fused.read_and_narrow` and `fused.widen`, kept is what these keep.

Shape letters: M = B*T, N tokens, D width, n latent tokens, R = M*N rows, k hidden width, g groups of one direction.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from avcore.batchnorm import Statistics, batch_norm, batch_norm_backward
from avcore.fused import at_least_single_type, grouped, grouped_backward, relu, softmax_backward

__all__ = ["exchange_and_narrow", "joined", "widen_both"]

_aten: Any = torch.ops.aten


def joined(pieces: Mapping[str, tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Tensors of one shape and type one behind the other, all through one buffer for each type.

    Args:
        pieces: by name, the tensors that a result is made of.

    Returns:
        By name, each with one more axis in front. Gradients of the tensors are views of its gradient.
    """
    counts = tuple(len(piece) for piece in pieces.values())
    found = _Joined.apply(counts, *(one for piece in pieces.values() for one in piece))  # type: ignore[no-untyped-call]
    return dict(zip(pieces, found, strict=True))


class _Joined(torch.autograd.Function):
    """See `joined`."""

    @staticmethod
    def forward(ctx: Any, counts: tuple[int, ...], *given: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.counts = counts
        flat = {
            kind: torch.cat([one.reshape(-1) for one in given if one.dtype == kind])
            for kind in dict.fromkeys(one.dtype for one in given)
        }
        made, start, done = [], 0, dict.fromkeys(flat, 0)
        for count in counts:
            first = given[start]
            begin, end = done[first.dtype], done[first.dtype] + count * first.numel()
            made.append(flat[first.dtype][begin:end].view(count, *first.shape))
            start, done[first.dtype] = start + count, end
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        pairs = zip(ctx.counts, grads, strict=True)
        return None, *(one for count, grad in pairs for one in ([None] * count if grad is None else grad.unbind()))


def exchange_and_narrow(
    first_MND: Tensor,
    second_MND: Tensor,
    latents_2nD: Tensor,
    gates_21: Tensor,
    affine_22D: Tensor | None,
    eps: float,
    weight: Tensor,
) -> Tensor:
    """`fused.read_and_narrow` in both directions: the first tokens read the second ones, and the second the first.

    Args:
        first_MND, second_MND: the tokens.
        latents_2nD: those through which the first tokens are read, then those for the second ones.
        gates_21: of the reading, by the tokens that read, as all that follows.
        affine_22D: weight and bias of the layer norm; None if there is none.
        eps: of the layer norm.
        weight: of the maps down, (2 k, D / g).

    Returns:
        (M, N, 2 k).
    """
    given = (first_MND, second_MND, latents_2nD, gates_21, affine_22D, weight, eps)
    found: Tensor = _ExchangeAndNarrow.apply(*given)  # type: ignore[no-untyped-call]
    return found


class _ExchangeAndNarrow(torch.autograd.Function):
    """See `exchange_and_narrow`; the tokens that have read, and their norm, are made again for the gradients.

    B stands for both directions and their segments, 2 * M. What is collected is sorted by the tokens that are read, all
    else by those that read.
    """

    @staticmethod
    def forward(
        ctx: Any,
        first_MND: Tensor,
        second_MND: Tensor,
        latents_2nD: Tensor,
        gates_21: Tensor,
        affine_22D: Tensor | None,
        weight: Tensor,
        eps: float,
    ) -> Tensor:
        x_BND = _behind_each_other(first_MND, second_MND)
        m, width = len(first_MND), first_MND.shape[2]
        scores = torch.bmm(x_BND.view(2, -1, width), latents_2nD.mT)
        collected_BNn = torch.softmax(scores.view(2 * m, -1, scores.shape[2]), dim=1)
        summary_BnD = x_BND.new_empty(2 * m, *latents_2nD.shape[1:])
        for by, of in ((slice(m), slice(m, None)), (slice(m, None), slice(m))):
            latents_nD = latents_2nD[0 if of.start is None else 1]
            torch.baddbmm(latents_nD, collected_BNn[of].mT, x_BND[of], out=summary_BnD[by])
        spread_BNn = torch.softmax(torch.bmm(x_BND, summary_BnD.mT), dim=-1)
        gated_BnD = (gates_21[..., None, None] * summary_BnD.unflatten(0, (2, m))).flatten(0, 1)
        ctx.eps = eps
        kept = (first_MND, second_MND, latents_2nD, gates_21, collected_BNn, summary_BnD, gated_BnD, spread_BNn)
        normed, norms = _normed(torch.baddbmm(x_BND, spread_BNn, gated_BnD).view(2, -1, width), affine_22D, eps)
        ctx.save_for_backward(*kept, affine_22D, weight, *norms)
        rows, hidden = x_BND.shape[1] * m, weight.shape[0]
        out = x_BND.new_empty(rows, hidden, dtype=at_least_single_type(x_BND))
        for x_RD, rows_of, part in zip(normed, weight.chunk(2), out.chunk(2, dim=1), strict=True):
            grouped(x_RD, rows_of, exact=True, out=part)
        return out.view(m, -1, hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, second, latents, gates, collected, summary, gated, spread, affine, weight, *norms = ctx.saved_tensors
        x_BND = _behind_each_other(first, second)
        m, width = len(first), first.shape[2]
        read = torch.baddbmm(x_BND, spread, gated).view(2, -1, width)
        normed, _ = _normed(read, affine, ctx.eps)
        grad = grads[0].flatten(0, 1).to(read.dtype)
        made = [
            grouped_backward(part, x_RD, rows_of)
            for part, x_RD, rows_of in zip(grad.chunk(2, dim=1), normed, weight.chunk(2), strict=True)
        ]
        to_weight = torch.cat([of_weight for _, of_weight in made])
        to_read, to_affine = [of_rows for of_rows, _ in made], None
        if affine is not None:
            found = [
                _aten.native_layer_norm_backward(
                    to_read[i], read[i], (width,), norms[i], norms[2 + i], *affine[i], (True, True, True)
                )
                for i in (0, 1)
            ]
            to_read = [one[0] for one in found]
            to_affine = torch.stack([one for each in found for one in each[1:]]).view_as(affine)
        to_x = torch.stack(to_read).view_as(x_BND)
        to_gated = torch.bmm(spread.mT, to_x)
        to_scores = softmax_backward(torch.bmm(to_x, gated.mT), spread, -1)
        to_summary = (gates[..., None, None] * to_gated.unflatten(0, (2, m))).flatten(0, 1)
        to_summary.baddbmm_(to_scores.mT, x_BND)
        to_x.baddbmm_(to_scores, summary)
        to_gates = torch.bmm(to_gated.view(2, 1, -1), summary.view(2, -1, 1)).view(2, 1)
        # From here on by the tokens that are read.
        to_summary = to_summary.unflatten(0, (2, m)).flip(0).flatten(0, 1)
        to_collected = softmax_backward(torch.bmm(x_BND, to_summary.mT), collected, 1).view(2, -1, latents.shape[1])
        to_x.baddbmm_(collected, to_summary)
        to_x.view(2, -1, width).baddbmm_(to_collected, latents)
        to_latents = to_summary.unflatten(0, (2, m)).sum(1).baddbmm_(to_collected.mT, x_BND.view(2, -1, width))
        return *to_x.view(2, m, -1, width), to_latents, to_gates, to_affine, to_weight, None


def _normed(read_2RD: Tensor, affine_22D: Tensor | None, eps: float) -> tuple[Sequence[Tensor], tuple[Tensor, ...]]:
    """The layer norm of each direction, and of both the means, then of both what deviations are divided by."""
    if affine_22D is None:
        return read_2RD.unbind(), ()
    made = [
        torch.native_layer_norm(x_RD, x_RD.shape[1:], affine_2D[0], affine_2D[1], eps)
        for x_RD, affine_2D in zip(read_2RD, affine_22D, strict=True)
    ]
    normed, means, deviations = zip(*made, strict=True)
    return normed, (*means, *deviations)


def widen_both(
    normed: Tensor,
    weight: Tensor,
    batch_affine: tuple[Tensor, Tensor] | None,
    statistics: Statistics | None,
    affine_22D: Tensor | None,
    gates_21: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """ReLU, then `fused.widen` in both directions, the last norm times a gate.

    Args:
        normed: (M, N, 2 k), what has passed the batch norm behind the maps down.
        weight: of the maps up, (2 D, k / g), its type that of the result.
        batch_affine: weight and bias of the batch norm, (2 D,) each.
        statistics: of the batch norm.
        affine_22D: by direction, weight and bias of the layer norm; None if there is none.
        gates_21: its gates; None if it has none.
        eps: of the layer norm.

    Returns:
        (M, N, D) of each direction, one behind the other in memory.
    """
    given = (normed, weight, *(batch_affine or (None, None)), affine_22D, gates_21, statistics, eps)
    found: tuple[Tensor, Tensor] = _WidenBoth.apply(*given)  # type: ignore[no-untyped-call]
    return found


class _WidenBoth(torch.autograd.Function):
    """See `widen_both`; what is as wide as the result is made again for the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        normed: Tensor,
        weight: Tensor,
        batch_scale: Tensor | None,
        batch_shift: Tensor | None,
        affine_22D: Tensor | None,
        gates_21: Tensor | None,
        statistics: Statistics | None,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        m, n, _ = normed.shape
        hidden_RK = relu(normed.flatten(0, 1), weight.dtype)
        x = grouped(hidden_RK, weight, exact=statistics is not None)
        if statistics is not None:
            x, _ = batch_norm(x, batch_scale, batch_shift, statistics)
        # Each direction's channels together: (R, 2, D), while the result is (2, M, N, D).
        x = x.unflatten(1, (2, -1))
        made = weight.new_empty(2, m, n, x.shape[2])
        into = made.view(2, m * n, -1).transpose(0, 1)
        mean = deviation = None
        if affine_22D is None:
            into.copy_(x)
        else:
            x, mean, deviation = torch.native_layer_norm(x, x.shape[2:], None, None, eps)
            scale, shift = (affine_22D if gates_21 is None else affine_22D * gates_21[..., None]).unbind(1)
            torch.addcmul(shift, x, scale, out=into)
        ctx.eps = eps
        ctx.statistics = None if statistics is None else statistics.again()
        ctx.save_for_backward(hidden_RK, weight, batch_scale, batch_shift, affine_22D, gates_21, mean, deviation)
        ctx.kind = normed.dtype
        return made[0], made[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_RK, weight, batch_scale, batch_shift, affine, gates, mean, deviation = ctx.saved_tensors
        m, n, width = grads[0].shape
        x = out = grouped(hidden_RK, weight, exact=ctx.statistics is not None)
        grad = torch.empty_like(out)
        grad.view(m * n, 2, width).copy_(_behind_each_other(*grads).view(2, m * n, width).transpose(0, 1))
        kept = None
        if ctx.statistics is not None:
            x, kept = batch_norm(out, batch_scale, batch_shift, ctx.statistics)
        to_affine = to_gates = None
        if affine is not None:
            x = x.view(m * n, 2, width)
            normed = torch.native_layer_norm(x, (width,), None, None, ctx.eps)[0]
            scale = affine[:, 0] if gates is None else affine[:, 0] * gates
            # Weight and bias for each channel are a batch norm in evaluation that finds mean 0 and variance 1.
            zeros, ones = _zeros_and_ones(2 * width, x.dtype, x.device)
            grad, to_scale, to_shift = _aten.native_batch_norm_backward(
                grad, normed.flatten(1), scale.to(x.dtype).flatten(), zeros, ones, None, None, False, 0.0, (True,) * 3
            )
            to_affine = torch.stack((to_scale.view(2, width), to_shift.view(2, width)), dim=1)
            if gates is not None:
                to_gates = (to_affine * affine).sum((1, 2))[:, None].to(gates.dtype)
                to_affine = to_affine * gates[..., None]
            to_affine = to_affine.to(affine.dtype)
            grad = _aten.native_layer_norm_backward(
                grad.view_as(x), x, (width,), mean, deviation, None, None, (True, False, False)
            )[0].flatten(1)
        to_batch: Any = (None, None)
        if kept is not None:
            grad, *to_batch = batch_norm_backward(grad, out, batch_scale, ctx.statistics, kept)
        to_hidden, to_weight = grouped_backward(grad.to(weight.dtype), hidden_RK, weight)
        to_normed = _aten.threshold_backward(to_hidden, hidden_RK, 0).to(ctx.kind).view(m, n, -1)
        return to_normed, to_weight, *to_batch, to_affine, to_gates, None, None


@cache
def _zeros_and_ones(width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.zeros(width, dtype=dtype, device=device), torch.ones(width, dtype=dtype, device=device)


def _behind_each_other(first: Tensor, second: Tensor) -> Tensor:
    """Two tensors (M, ...) as one (2 * M, ...): a view where they lie one behind the other in memory, else a copy."""
    follows = first.storage_offset() + first.numel() == second.storage_offset()
    same = first.untyped_storage()._cdata == second.untyped_storage()._cdata
    if follows and same and first.is_contiguous() and second.is_contiguous():
        return first.as_strided((2 * len(first), *first.shape[1:]), first.stride())
    return torch.cat((first, second))
