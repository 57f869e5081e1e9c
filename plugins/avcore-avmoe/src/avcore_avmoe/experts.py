"""The experts and the router of a mixture (Cheng et al., NeurIPS 2024).

Shape letters: M = B*T, N own tokens, D width, K and C tokens and width of the other stream, n latent tokens, E experts.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import BlockLayout
from avcore.modules import GroupedBottleneck, TokenBatchNorm, at_least_single, read_and_narrow, read_through
from avcore_avmoe.settings import AVMoESettings
from avcore_dgsct.align import TokensThenWidth

__all__ = ["CrossModalExpert", "Mixed", "Mixture", "Router", "UnimodalExpert"]

ROUTER_WIDTHS = (128, 32)
SELF_HEADS = 4


class CrossModalExpert(GroupedBottleneck):
    """LAVISH's bottleneck: the other stream is read through latent tokens, then norm, down, ReLU, up, norm, gate."""

    def __init__(self, config: AVMoESettings, width: int, *, gated: bool) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.rand(config.tokens, width))
        self.latent_gate = nn.Parameter(torch.zeros(1))
        _add_maps(self, config, width, gated=gated)

    def forward(self, x_MND: Tensor, other_MND: Tensor) -> Tensor:
        """The increment (M, N, D) of the tokens."""
        narrowed_MNk = read_and_narrow(
            x_MND, other_MND, self.latents, self.latent_gate, self.norm_before, self.down.weight
        )
        return self.widened(narrowed_MNk)


class UnimodalExpert(GroupedBottleneck):
    """Self(x), then the maps of a bottleneck without anything between them that is not linear."""

    def __init__(self, config: AVMoESettings, width: int, *, gated: bool) -> None:
        super().__init__()
        self.reads, self.columns = config.self_attention, config.self_weights == "columns"
        self.over_frames = config.self_axis == "frames"
        if self.reads == "latents":
            self.latents = nn.Parameter(torch.rand(config.tokens, width))
        if self.reads in ("latents", "tokens"):
            self.self_gate = nn.Parameter(torch.zeros(1))
        if self.reads == "heads":
            self.attention = nn.MultiheadAttention(width, SELF_HEADS, dropout=config.self_dropout, batch_first=True)
        _add_maps(self, config, width, gated=gated)

    def forward(self, x_MND: Tensor, other_MND: Tensor) -> Tensor:
        """The increment (M, N, D) of the tokens; the other stream is not read."""
        exact = isinstance(self.norm_up, TokenBatchNorm)
        narrowed_MNk = self.norm_down(self.down(self.norm_before(self.read(x_MND)), exact=exact))
        widened_MND = self.norm_up(self.up(narrowed_MNk.to(x_MND.dtype), exact=exact))
        out_MND: Tensor = self.norm_post(widened_MND)
        return (out_MND if self.gate is None else self.gate * out_MND).to(x_MND.dtype)

    def read(self, x_MND: Tensor) -> Tensor:
        """Self(x)."""
        if self.reads == "latents":
            return read_through(x_MND, x_MND, self.latents, self.self_gate)
        if self.reads == "tokens":
            if self.columns:
                read_MND = torch.softmax(x_MND @ x_MND.mT, dim=-1).mT @ x_MND
            else:
                read_MND = F.scaled_dot_product_attention(x_MND, x_MND, x_MND, scale=1.0)
            return x_MND + self.self_gate * read_MND
        if self.reads == "heads":
            x = x_MND.transpose(0, 1) if self.over_frames else x_MND
            read: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return read.transpose(0, 1) if self.over_frames else read
        return x_MND


def _add_maps(expert: GroupedBottleneck, config: AVMoESettings, width: int, *, gated: bool) -> None:
    expert.add_bottleneck(
        width,
        reduction=config.reduction,
        groups=config.groups,
        batch_norm=config.batch_norm,
        before_norm=True,
        post_norm=True,
        gated=gated,
        gate_first=False,
        where="parts.avmoe",
    )


class Router(nn.Module):
    """pi = softmax(R([mean x ; mean y])) over the experts, one for each segment of a clip."""

    def __init__(self, config: AVMoESettings, width: int, experts: int) -> None:
        super().__init__()
        first, second = ROUTER_WIDTHS
        self.layers = nn.Sequential(
            nn.Linear(2 * width, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, experts)
        )
        self.noise = config.noise

    def forward(self, x_MND: Tensor, other_MND: Tensor) -> Tensor:
        """(M, E), at fp32 at least."""
        logits_ME = at_least_single(self.layers(torch.cat([x_MND.mean(1), other_MND.mean(1)], dim=-1)))
        if self.training and self.noise:
            logits_ME = logits_ME + self.noise * torch.randn_like(logits_ME)
        return torch.softmax(logits_ME, dim=-1)


class Mixed(NamedTuple):
    """What a mixture gives: the increment (M, N, D), and the weights of its experts (M, E); None for a single one."""

    add: Tensor
    weights: Tensor | None


class Mixture(nn.Module):
    """The sum of all experts by the router's weights, cross-modal ones first; a single expert needs no router."""

    def __init__(self, config: AVMoESettings, own: BlockLayout, other: BlockLayout, *, gated: bool) -> None:
        super().__init__()
        kinds = [CrossModalExpert] * config.cross_experts + [UnimodalExpert] * config.unimodal_experts
        self.align = TokensThenWidth(own, other)
        self.experts = nn.ModuleList(kind(config, own.width, gated=gated) for kind in kinds)
        self.router = Router(config, own.width, len(kinds)) if len(kinds) > 1 else None

    def forward(self, x_MND: Tensor, other_MKC: Tensor) -> Mixed:
        """The increment for tokens ``x``; all experts and the router read one aligned form of the other stream."""
        other_MND = self.align(other_MKC)
        made = [expert(x_MND, other_MND) for expert in self.experts]
        if self.router is None:
            return Mixed(made[0], None)
        weights_ME = self.router(x_MND, other_MND)
        shares_ME11 = weights_ME.to(x_MND.dtype)[..., None, None]
        add_MND = made[0] * shares_ME11[:, 0]
        for number, one_MND in enumerate(made[1:], 1):
            add_MND = torch.addcmul(add_MND, one_MND, shares_ME11[:, number])
        return Mixed(add_MND, weights_ME)
