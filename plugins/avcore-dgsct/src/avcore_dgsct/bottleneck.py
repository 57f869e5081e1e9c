"""The bottleneck Ad(x ; y) of DG-SCT (Duan et al., NeurIPS 2023, arXiv:2311.05152).

Shape letters: M = B*T, N own tokens, D width, K and C tokens and width of the other
stream.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import BlockLayout
from avcore.injection import PairLayout
from avcore.modules import GroupedBottleneck, read_through
from avcore_dgsct.align import Resize, TokensThenWidth
from avcore_dgsct.settings import DGSCTSettings

__all__ = ["Adapted", "Bottleneck", "BottleneckPair", "Guidance"]


class Adapted(NamedTuple):
    """What a bottleneck gives: the increment (M, N, D), and the scores s (M, N, 1) of its spatial attention."""

    add: Tensor
    scores: Tensor

    @property
    def map(self) -> Tensor:
        """S = softmax over the tokens of tanh(s), (M, 1, N)."""
        return torch.softmax(torch.tanh(self.scores), dim=1).mT


class BottleneckPair(nn.Module):
    """A bottleneck for each stream; both read the tokens that enter the sub-layer."""

    def __init__(self, config: DGSCTSettings, pair: PairLayout) -> None:
        super().__init__()
        self.visual = Bottleneck(config, pair.visual, pair.audio, gated=True)
        self.audio = Bottleneck(config, pair.audio, pair.visual, gated=config.audio_gate)

    @property
    def unused_in_reference(self) -> int:
        """Parameters that the reference creates in both and never uses."""
        return self.visual.unused_in_reference + self.audio.unused_in_reference

    def forward(self, visual_MND: Tensor, audio_MND: Tensor) -> tuple[Adapted, Adapted]:
        """What the visual and the audio bottleneck give."""
        return self.visual(visual_MND, audio_MND), self.audio(audio_MND, visual_MND)


class Bottleneck(GroupedBottleneck):
    """Ad(x ; y): the other stream aligned, read through latent tokens, and as a guide of channels and tokens."""

    def __init__(self, config: DGSCTSettings, own: BlockLayout, other: BlockLayout, *, gated: bool) -> None:
        super().__init__()
        width = own.width
        self.align = Resize(own, other) if config.align == "resize" else TokensThenWidth(own, other)
        initial = torch.rand if config.latents == "uniform" else torch.zeros
        self.latents = nn.Parameter(initial(config.tokens, width))
        self.latent_gate = nn.Parameter(torch.zeros(1))
        self.guidance = Guidance(config, width)
        self.add_bottleneck(
            width,
            reduction=config.reduction,
            groups=config.groups,
            batch_norm=config.batch_norm,
            before_norm=config.before_norm,
            post_norm=config.post_norm,
            gated=gated,
            gate_first=config.order == "avs",
            where="parts.dgsct",
        )
        self.unused_in_reference = self._left_out(config, width)

    def _left_out(self, config: DGSCTSettings, width: int) -> int:
        count = self.align.unused_in_reference
        if config.before_norm and config.order == "avs":
            count += 2 * width
        if config.align == "tokens_then_width":
            # `gate_tk`, a number.
            return count + 1
        # The AVS code has no such number, but the map of G, which it never calls.
        return count if config.temporal_gate else count + width + 1

    def forward(self, x_MND: Tensor, other_MKC: Tensor) -> Adapted:
        """The increment for tokens ``x``, guided by the tokens ``other`` of the other stream."""
        other_MND = self.align(other_MKC)
        x_MND = read_through(x_MND, other_MND, self.latents, self.latent_gate)
        x_MND, scores_MN1 = self.guidance(x_MND, other_MND.mean(1, keepdim=True))
        return Adapted(self.widened(self.down(self.norm_before(x_MND), exact=True)), scores_MN1)


class Guidance(nn.Module):
    """The mean token a of the other stream picks channels (M_c), tokens (M_s) and, if asked for, segments (G) of x."""

    def __init__(self, config: DGSCTSettings, width: int) -> None:
        super().__init__()
        half = width // 2
        self.channel_own = nn.Linear(width, width)
        self.channel_other = nn.Linear(width, width)
        self.channel_squeeze = nn.Linear(width, half)
        self.channel_gate = nn.Linear(half, width)
        self.token_own = nn.Linear(width, half)
        self.token_other = nn.Linear(width, half)
        self.token_score = nn.Linear(half, 1)
        self.segment_gate = nn.Linear(width, 1) if config.temporal_gate else None
        self.alpha, self.beta, self.gamma = config.alpha, config.beta, config.gamma
        self.rest = 1.0 if config.residual == "one" else 1.0 - config.alpha

    def forward(self, x_MND: Tensor, other_M1D: Tensor) -> tuple[Tensor, Tensor]:
        """x (alpha M_c + beta M_s + rest), (M, N, D), and the scores s of the tokens, (M, N, 1)."""
        # The factor of the other stream is one for all tokens: it may come after their mean.
        mixed_M1D = F.relu(self.channel_own(x_MND)).mean(1, keepdim=True) * F.relu(self.channel_other(other_M1D))
        channels_M1D = torch.sigmoid(self.channel_gate(F.relu(self.channel_squeeze(mixed_M1D))))
        picked_MND = x_MND * (channels_M1D + 1)
        # The factor of the other stream is one for all tokens: the weights of the score take it.
        factors_M1H = F.relu(self.token_other(other_M1D)) * self.token_score.weight
        scores_MN1 = torch.baddbmm(self.token_score.bias, F.relu(self.token_own(picked_MND)), factors_M1H.mT)
        of_channels_M1D = torch.rsub(channels_M1D, self.rest, alpha=-self.alpha)  # rest + alpha M_c
        if self.segment_gate is not None:
            of_channels_M1D = of_channels_M1D.add(torch.sigmoid(self.segment_gate(other_M1D)), alpha=self.gamma)
        return weighed(x_MND, of_channels_M1D, self.beta * torch.sigmoid(scores_MN1)), scores_MN1


def weighed(x_MND: Tensor, channels_M1D: Tensor, tokens_MN1: Tensor) -> Tensor:
    """x times the sum of weights of channels and weights of tokens; the sum is not kept for the backward pass."""
    if torch.compiler.is_compiling():
        return x_MND * (channels_M1D + tokens_MN1)
    found: Tensor = _Weighed.apply(x_MND, channels_M1D, tokens_MN1)  # type: ignore[no-untyped-call]
    return found


class _Weighed(torch.autograd.Function):
    """See `weighed`."""

    @staticmethod
    def forward(ctx: Any, x_MND: Tensor, channels_M1D: Tensor, tokens_MN1: Tensor) -> Tensor:
        ctx.save_for_backward(x_MND, channels_M1D, tokens_MN1)
        return x_MND * (channels_M1D + tokens_MN1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_MND, channels_M1D, tokens_MN1 = ctx.saved_tensors
        both_MND = grads[0] * x_MND
        to_tokens = both_MND.sum_to_size(tokens_MN1.shape)
        return grads[0] * (channels_M1D + tokens_MN1), both_MND.sum_to_size(channels_M1D.shape), to_tokens
