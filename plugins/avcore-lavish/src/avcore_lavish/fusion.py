"""``lavish``: the latent audio-visual hybrid adapters (Lin et al., CVPR 2023, arXiv:2212.07983).

Shape letters: M = B*T, N tokens, D width, n latent tokens, k hidden width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Edit, Edits, Fusion, FusionLayer
from avcore.injection import PairLayout, PairView
from avcore.modules import GroupedLinear, TokenBatchNorm, plain_attention
from avcore.specs import STREAMS, StreamLayout
from avcore_lavish.settings import LavishSettings

__all__ = ["Bottleneck", "BottleneckPair", "Lavish", "LavishLayer"]


class Lavish(Fusion):
    """Bottlenecks at every pair of blocks; with ``norms`` the norms of the encoders train beside them."""

    def __init__(self, config: LavishSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config

    def layer(self, pair: PairLayout) -> FusionLayer:
        """Two bottleneck pairs."""
        return LavishLayer(self.config, pair)

    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        """Every norm of the encoders, as the published code of question answering trains them."""
        return dict.fromkeys(STREAMS, ("*norm*",)) if self.config.norms else {}


class LavishLayer(FusionLayer):
    """Two bottleneck pairs at one pair of blocks: ``p1`` beside the frozen attention, ``p2`` beside the frozen MLP."""

    def __init__(self, config: LavishSettings, pair: PairLayout) -> None:
        super().__init__()
        widths = pair.visual.width, pair.audio.width
        self.p1 = BottleneckPair(config, *widths)
        self.p2 = BottleneckPair(config, *widths)
        if config.before_norm and config.order == "avs":
            self.unused_in_reference = 2 * 2 * sum(widths)

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """x <- x + A(x) + Ad(x ; y) in both streams."""
        return self.p1(visual_MND, audio_MND, at)  # type: ignore[no-any-return]

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """x <- x + M(x) + Ad(x ; y) in both streams."""
        return self.p2(visual_MND, audio_MND, at)  # type: ignore[no-any-return]


class BottleneckPair(nn.Module):
    """A bottleneck for each stream, of its width; both read the tokens that enter the sub-layer."""

    def __init__(self, config: LavishSettings, visual_width: int, audio_width: int) -> None:
        super().__init__()
        self.visual = Bottleneck(config, visual_width, gated=True)
        self.audio = Bottleneck(config, audio_width, gated=config.audio_gate)

    def forward(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """The increments of both streams; each reads the other in its own width."""
        return Edits(
            visual=Edit(add=self.visual(visual_MND, at.visual.as_own(audio_MND))),
            audio=Edit(add=self.audio(audio_MND, at.audio.as_own(visual_MND))),
        )


class Bottleneck(nn.Module):
    """Ad(x ; y): the other stream is read into the tokens through a few latent tokens, then a bottleneck."""

    def __init__(self, config: LavishSettings, width: int, *, gated: bool) -> None:
        super().__init__()
        hidden = width // config.reduction
        if not hidden or width % config.groups or hidden % config.groups:
            raise AssemblyError(
                f"parts.lavish: blocks of width {width} have a bottleneck of {hidden} (reduction="
                f"{config.reduction}); groups={config.groups} must divide both: lower reduction or groups."
            )
        initial = torch.rand if config.latents == "uniform" else torch.zeros
        self.latents = nn.Parameter(initial(config.tokens, width))
        self.latent_gate = nn.Parameter(torch.zeros(1))
        self.gate = nn.Parameter(torch.zeros(1)) if gated else None
        self.gate_first = config.order == "avs"
        self.norm_before = nn.LayerNorm(width) if config.before_norm and not self.gate_first else nn.Identity()
        self.down = GroupedLinear(width, hidden, config.groups)
        self.norm_down = TokenBatchNorm(hidden) if config.batch_norm else nn.Identity()
        self.up = GroupedLinear(hidden, width, config.groups)
        self.norm_up = TokenBatchNorm(width) if config.batch_norm else nn.Identity()
        self.norm_post = nn.LayerNorm(width) if config.post_norm else nn.Identity()

    def forward(self, x_MND: Tensor, other_MND: Tensor) -> Tensor:
        """The increment (M, N, D) of tokens ``x``, which read ``other`` (M, any N, D)."""
        summary_MnD = self.latents + plain_attention(self.latents, other_MND)
        x_MND = x_MND + self.latent_gate * plain_attention(x_MND, summary_MnD)
        hidden_MNk = F.relu(self.norm_down(self.down(self.norm_before(x_MND))))
        out_MND = self.norm_up(self.up(hidden_MNk))
        if self.gate_first:
            return self.norm_post(self._gated(out_MND))  # type: ignore[no-any-return]
        return self._gated(self.norm_post(out_MND))

    def _gated(self, out_MND: Tensor) -> Tensor:
        return out_MND if self.gate is None else self.gate * out_MND
