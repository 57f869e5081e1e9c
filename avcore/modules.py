"""What parts and heads of several plugins are made of, for their authors.

Shape letters: M = B*T, N tokens, D width, n latent tokens, R = M*N rows.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avcore.batchnorm import Statistics
from avcore.errors import AssemblyError
from avcore.exchange import exchange_and_narrow, joined, widen_both
from avcore.fused import grouped_product, read_and_narrow, read_through, widen

__all__ = [
    "GroupedBottleneck",
    "GroupedLinear",
    "TokenBatchNorm",
    "at_least_single",
    "exchanged",
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


class UnroundedLayerNorm(nn.LayerNorm):
    """A layer norm behind a batch norm: its parameters stay in float32, too, whatever type the tokens have."""

    stays_single = ("weight", "bias")


STATISTICS = ("running_mean", "running_var")


class GroupedBottleneck(nn.Module):
    """A bottleneck of grouped maps: layer norm, map down, batch norm, ReLU, map up, batch norm, layer norm, gate.

    A subclass calls `add_bottleneck` where its parameters shall stand, then `widened` in its forward.
    """

    stays_single = ("gate",)

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
        # Norms in a row are of one type.
        norm = UnroundedLayerNorm if batch_norm else nn.LayerNorm
        self.norm_post = norm(width) if post_norm else nn.Identity()

    def widened(self, narrowed_MNk: Tensor) -> Tensor:
        """What `down` made of the tokens, (M, N, hidden width), to the result (M, N, D)."""
        weight: Tensor = self.up.weight
        batch: tuple[Tensor, Tensor] | None = None
        layer: tuple[Tensor, Tensor] | None = None
        statistics, gate = None, self.gate
        if isinstance(self.norm_up, TokenBatchNorm):
            batch, statistics = self.norm_up.scaling(), self.norm_up.statistics()
        if isinstance(self.norm_post, nn.LayerNorm):
            layer = self.norm_post.weight, self.norm_post.bias
            if gate is not None and self.gate_first:  # on the parameters in front of the last norm
                if batch is not None:
                    batch = batch[0] * gate, batch[1] * gate
                else:
                    weight = weight * gate.to(weight.dtype)
                gate = None
        x_MNk = self.norm_down(narrowed_MNk)
        return widen(x_MNk, weight, batch, statistics, layer, getattr(self.norm_post, "eps", 0.0), gate)


ONE_BY_ONE = frozenset({"cpu"})
"""Devices on which `exchanged` leaves two bottlenecks to be called one after the other."""


def exchanged(
    bottlenecks: tuple[GroupedBottleneck, GroupedBottleneck],
    latents: tuple[Tensor, Tensor],
    latent_gates: tuple[Tensor, Tensor],
    tokens: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor] | None:
    """What two bottlenecks of one form make of tokens that read each other, by half of the operators.

    The same as ``b.widened(read_and_narrow(x, y, latents, gate, b.norm_before, b.down.weight))`` in both directions.

    Args:
        bottlenecks: of the first tokens, which read the second ones, and of the second ones.
        latents: (n, D) each, through which the first tokens read and through which the second ones do.
        latent_gates: their gates.
        tokens: (M, N, D) each.

    Returns:
        Both results. None where shapes differ, under autocast, while torch compiles, which fuses as it likes, and on a
        CPU, where an operator costs nothing to start and half of the tokens stay nearer.
    """
    first, second = bottlenecks
    device = tokens[0].device.type
    alike = tokens[0].shape == tokens[1].shape and first.down.weight.shape == second.down.weight.shape
    if not alike or device in ONE_BY_ONE or torch.compiler.is_compiling():
        return None
    if torch.is_autocast_enabled("cpu" if device == "meta" else device):
        return None
    both = joined(_pieces(bottlenecks) | {"latents": latents[::-1], "latent_gates": latent_gates})
    narrowed_MNk = exchange_and_narrow(
        *tokens,
        both["latents"],
        both["latent_gates"],
        _by_direction(both.get("norm_before")),
        getattr(first.norm_before, "eps", 0.0),
        both["down"].flatten(0, 1),
    )
    up, affine, gates = both["up"], _by_direction(both.get("norm_post")), both.get("gate")
    gate_last = gates is not None and affine is not None and not first.gate_first
    batch: tuple[Tensor, Tensor] | None = None
    statistics = None
    if isinstance(first.norm_up, TokenBatchNorm) and isinstance(first.norm_down, TokenBatchNorm):
        of_down, of_up = (
            norm.statistics()._replace(running_mean=mean.detach().flatten(), running_var=variance.detach().flatten())
            for norm, mean, variance in (
                (first.norm_down, both["norm_down.running_mean"], both["norm_down.running_var"]),
                (first.norm_up, both["norm_up.running_mean"], both["norm_up.running_var"]),
            )
        )
        scale, shift = both["norm_down.weight"].flatten(), both["norm_down.bias"].flatten()
        narrowed_MNk = of_down.normalise(narrowed_MNk.flatten(0, 1), scale, shift).view_as(narrowed_MNk)
        scale, shift, statistics = both["norm_up.weight"], both["norm_up.bias"], of_up
        if gates is not None and not gate_last:
            scale, shift = scale * gates, shift * gates
        batch = scale.flatten(), shift.flatten()
    elif gates is not None and not gate_last:
        up = up * gates[..., None].to(up.dtype)
    made = widen_both(
        narrowed_MNk,
        up.flatten(0, 1),
        batch,
        statistics,
        affine,
        gates if gate_last else None,
        getattr(first.norm_post, "eps", 0.0),
    )
    if statistics is not None and statistics.training:
        _put_back(bottlenecks, both)
    return made


def _by_direction(affine: Tensor | None) -> Tensor | None:
    """Weight, bias, weight and bias, (4, D), as (2, 2, D)."""
    return None if affine is None else affine.unflatten(0, (2, 2))


def _pieces(bottlenecks: tuple[GroupedBottleneck, GroupedBottleneck]) -> dict[str, tuple[Tensor, ...]]:
    """What both are made of, by name; a norm's weights and biases by turns."""
    pieces: dict[str, tuple[Tensor, ...]] = {
        "down": tuple(one.down.weight for one in bottlenecks),
        "up": tuple(one.up.weight for one in bottlenecks),
    }
    for name in ("norm_before", "norm_post"):
        norms = [getattr(one, name) for one in bottlenecks]
        if isinstance(norms[0], nn.LayerNorm):
            pieces[name] = tuple(own for norm in norms for own in (norm.weight, norm.bias))
    for name in ("norm_down", "norm_up"):
        norms = [getattr(one, name) for one in bottlenecks]
        if isinstance(norms[0], TokenBatchNorm):
            pieces[f"{name}.weight"], pieces[f"{name}.bias"] = zip(*(norm.scaling() for norm in norms), strict=True)
            for what in STATISTICS:
                pieces[f"{name}.{what}"] = tuple(getattr(norm, what) for norm in norms)
    gates = [one.gate for one in bottlenecks]
    if any(gate is not None for gate in gates):
        ungated = torch.ones_like(next(gate for gate in gates if gate is not None))
        pieces["gate"] = tuple(ungated if gate is None else gate for gate in gates)
    return pieces


def _put_back(bottlenecks: tuple[GroupedBottleneck, GroupedBottleneck], both: Mapping[str, Tensor]) -> None:
    """Copy running statistics to where they belong, by one operator."""
    names = [(norm, what) for norm in ("norm_down", "norm_up") for what in STATISTICS]
    own = [getattr(getattr(one, norm), what) for norm, what in names for one in bottlenecks]
    torch._foreach_copy_(own, [half for norm, what in names for half in both[f"{norm}.{what}"].detach().unbind()])
