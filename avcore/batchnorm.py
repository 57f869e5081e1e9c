"""Batch normalisation with the statistics of the whole batch, whose rows may lie with several processes.

Forward and gradient are functions of tensors, for the hand-written gradients of `avcore.fused`. With one process they
are torch's own operators. With several, mean, variance and the two means of the gradient are those over the rows of all
(Ioffe and Szegedy, arXiv:1502.03167, section 3): what one process makes of the batch, whoever has which rows.

Shape letters: R rows of this process, D width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from avcore.ranks import ranks, summed

__all__ = ["Kept", "Statistics", "batch_norm", "batch_norm_backward"]

_aten: Any = torch.ops.aten


class Statistics(NamedTuple):
    """What batch normalisation needs beside its parameters; running statistics change in training."""

    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool
    momentum: float
    eps: float

    def again(self) -> "Statistics":
        """To make the same once more for a gradient: running statistics that training changed are left alone."""
        return self._replace(running_mean=None, running_var=None) if self.training else self

    def normalise(self, x_RD: Tensor, scale_D: Tensor, shift_D: Tensor) -> Tensor:
        """With a gradient."""
        mean, var, training, momentum, eps = self
        if training and ranks().world > 1:
            made: Tensor = _BatchNorm.apply(x_RD, scale_D, shift_D, self)  # type: ignore[no-untyped-call]
            return made
        return torch.nn.functional.batch_norm(x_RD, mean, var, scale_D, shift_D, training, momentum, eps)


class Kept(NamedTuple):
    """What the gradient needs beside the rows: mean and 1 / deviation in training, (D,) each; empty in evaluation."""

    mean: Tensor
    scale: Tensor


def batch_norm(
    x_RD: Tensor, scale_D: Tensor | None, shift_D: Tensor | None, statistics: Statistics
) -> tuple[Tensor, Kept]:
    """The normalised rows, and what `batch_norm_backward` needs; updates the running statistics in training."""
    if not (statistics.training and ranks().world > 1):
        made, *found = torch.native_batch_norm(x_RD, scale_D, shift_D, *statistics)
        return made, Kept(*found)
    # In float64: the square of the mean is taken from the mean of squares.
    var_D, mean_D = (one.double() for one in torch.var_mean(x_RD, 0, correction=0))
    rows, width = len(x_RD), x_RD.shape[1]
    told = torch.cat([mean_D.new_tensor([rows]), rows * mean_D, rows * (var_D + mean_D.square())])
    total, sum_D, squares_D = summed(told).split([1, width, width])
    mean_D, kind = sum_D / total, x_RD.dtype
    var_D = (squares_D / total - mean_D.square()).clamp(min=0)
    if statistics.running_mean is not None and statistics.running_var is not None:
        statistics.running_mean.lerp_(mean_D.to(statistics.running_mean.dtype), statistics.momentum)
        unbiased_D = var_D * (total / (total - 1).clamp(min=1))
        statistics.running_var.lerp_(unbiased_D.to(statistics.running_var.dtype), statistics.momentum)
    kept = Kept(mean_D.to(kind), (var_D + statistics.eps).rsqrt().to(kind))
    assert scale_D is not None
    assert shift_D is not None
    return torch.addcmul(shift_D, x_RD - kept.mean, kept.scale * scale_D), kept


def batch_norm_backward(
    grad_RD: Tensor, x_RD: Tensor, scale_D: Tensor, statistics: Statistics, kept: Kept
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for the rows, the scale and the shift; those of the parameters from the rows of this process."""
    if not (statistics.training and ranks().world > 1):
        running_mean, running_var, training, _, eps = statistics
        made: tuple[Tensor, Tensor, Tensor] = _aten.native_batch_norm_backward(
            grad_RD, x_RD, scale_D, running_mean, running_var, *kept, training, eps, (True, True, True)
        )
        return made
    normed_RD = (x_RD - kept.mean) * kept.scale
    to_shift_D, to_scale_D = grad_RD.sum(0), (grad_RD * normed_RD).sum(0)
    told = torch.cat([to_shift_D.new_tensor([len(x_RD)]), to_shift_D, to_scale_D]).double()
    total, shift_D, scaled_D = (one.to(x_RD.dtype) for one in summed(told).split([1, *2 * [x_RD.shape[1]]]))
    to_x_RD = (grad_RD - shift_D / total - normed_RD * (scaled_D / total)) * (kept.scale * scale_D)
    return to_x_RD, to_scale_D, to_shift_D


class _BatchNorm(torch.autograd.Function):
    """See `Statistics.normalise`."""

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, scale_D: Tensor, shift_D: Tensor, statistics: Statistics) -> Tensor:
        made, kept = batch_norm(x_RD, scale_D, shift_D, statistics)
        ctx.statistics = statistics
        ctx.save_for_backward(x_RD, scale_D, *kept)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_RD, scale_D, *kept = ctx.saved_tensors
        return *batch_norm_backward(grads[0], x_RD, scale_D, ctx.statistics, Kept(*kept)), None
