"""What parts and heads of several plugins are made of, for their authors.

Shape letters: M = B*T, N tokens, D width, n latent tokens, R = M*N rows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.fused import Statistics, grouped_product, read_and_narrow, read_through, widen

__all__ = [
    "GroupedBottleneck",
    "GroupedLinear",
    "TokenBatchNorm",
    "at_least_single",
    "full_precision",
    "plain_attention",
    "read_and_narrow",
    "read_through",
]


def at_least_single(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is: for losses and probabilities."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def full_precision(x: Tensor) -> torch.autocast:
    """No autocast on the device of a tensor, on the meta device neither.

    For what must not be rounded to half precision, such as a loss on probabilities or a recurrent network.
    """
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def plain_attention(queries: Tensor, x_MND: Tensor) -> Tensor:
    """softmax(q x^T) x: neither projections nor scaling, as hidden vectors of one stream read another's.

    Args:
        queries: (n, D) or (M, n, D).
        x_MND: keys and values at once.

    Returns:
        (M, n, D).
    """
    return torch.softmax(queries @ x_MND.mT, dim=-1) @ x_MND


class GroupedLinear(nn.Module):
    """A 1x1 convolution in groups, without bias: each group of inputs makes its own group of outputs."""

    def __init__(self, width_in: int, width_out: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(width_out, width_in // groups))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor, *, exact: bool = False) -> Tensor:
        """(..., width_in) to (..., width_out); ``exact`` for a batch norm behind it, as `grouped_product` has it."""
        return grouped_product(x, self.weight, exact=exact)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of each component over all tokens of the batch.

    Parameters and statistics stay in the type of the running statistics, whatever type the tokens have. Batches are not
    counted (``num_batches_tracked`` stays as it is): a fixed momentum does not read their number.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def forward(self, x_MND: Tensor) -> Tensor:
        """(M, N, D) to (M, N, D)."""
        # As a matrix: on the CPU, torch's gradient is wrong for some layouts of tensors with more axes.
        return self.statistics().normalise(x_MND.flatten(0, 1), *self.scaling()).view_as(x_MND)

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Weight and bias."""
        return self.weight.to(self.running_mean.dtype), self.bias.to(self.running_mean.dtype)

    def statistics(self) -> Statistics:
        """What else the normalisation needs."""
        return Statistics(self.running_mean, self.running_var, self.training, self.momentum, self.eps)


class GroupedBottleneck(nn.Module):
    """A bottleneck of grouped maps: layer norm, map down, batch norm, ReLU, map up, batch norm, layer norm, gate.

    A subclass calls `add_bottleneck` where its parameters shall stand, then `narrowed` and `widened` in its forward.
    """

    def add_bottleneck(
        self,
        width: int,
        *,
        reduction: int,
        groups: int,
        batch_norm: bool,
        before_norm: bool,
        post_norm: bool,
        gated: bool,
        gate_first: bool,
        where: str,
    ) -> None:
        """Make the modules.

        Args:
            width: D.
            reduction: the hidden width is D divided by this.
            groups: of both maps.
            batch_norm: batch normalisation behind each of them.
            before_norm, post_norm: layer norms before and behind the bottleneck.
            gated: the result is multiplied by a number that starts at zero.
            gate_first: the gate stands before the last norm instead of behind it, and there is no first norm.
            where: what errors call the settings.

        Raises:
            AssemblyError: the groups do not divide the widths.
        """
        hidden = width // reduction
        if not hidden or width % groups or hidden % groups:
            raise AssemblyError(
                f"{where}: blocks of width {width} have a bottleneck of {hidden} (reduction={reduction}); "
                f"groups={groups} must divide both: lower reduction or groups."
            )
        self.gate = nn.Parameter(torch.zeros(1)) if gated else None
        self.gate_first = gate_first
        self.norm_before = nn.LayerNorm(width) if before_norm and not gate_first else nn.Identity()
        self.down = GroupedLinear(width, hidden, groups)
        self.norm_down = TokenBatchNorm(hidden) if batch_norm else nn.Identity()
        self.up = GroupedLinear(hidden, width, groups)
        self.norm_up = TokenBatchNorm(width) if batch_norm else nn.Identity()
        self.norm_post = nn.LayerNorm(width) if post_norm else nn.Identity()

    def widened(self, narrowed_MNk: Tensor) -> Tensor:
        """What `down` made of the tokens, (M, N, hidden width), to the result (M, N, D)."""
        hidden_MNk = F.relu(self.norm_down(narrowed_MNk).to(self.up.weight.dtype))
        weight: Tensor = self.up.weight
        batch: tuple[Tensor, Tensor] | None = None
        layer: tuple[Tensor, Tensor] | None = None
        statistics = None
        if isinstance(self.norm_up, TokenBatchNorm):
            batch, statistics = self.norm_up.scaling(), self.norm_up.statistics()
        if isinstance(self.norm_post, nn.LayerNorm):
            layer = self.norm_post.weight, self.norm_post.bias
        # The gate multiplies parameters, which are few, in place of tokens: the last ones that act before it.
        if self.gate is None:
            pass
        elif layer is not None and not self.gate_first:
            # In one step, too, the type of the batch norm in front of it.
            layer = _times(layer, self.gate if batch is None else at_least_single(self.gate))
        elif batch is not None:
            batch = _times(batch, self.gate)
        else:
            weight = weight * self.gate
        return widen(hidden_MNk, weight, batch, statistics, layer, getattr(self.norm_post, "eps", 0.0))


def _times(affine: tuple[Tensor, Tensor], gate: Tensor) -> tuple[Tensor, Tensor]:
    """Both by the gate, as one product."""
    weight, bias = (torch.stack(affine) * gate).unbind()
    return weight, bias
