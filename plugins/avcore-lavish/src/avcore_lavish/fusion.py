"""``lavish``: the latent audio-visual hybrid adapters (Lin et al., CVPR 2023, arXiv:2212.07983).

Shape letters: M = B*T, N tokens, D width, k hidden width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avcore import Edit, Edits, Fusion, FusionLayer
from avcore.injection import PairLayout, PairView
from avcore.modules import GroupedBottleneck, exchanged, read_and_narrow
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
        v, a = self.visual, self.audio
        made = exchanged((v, a), (v.latents, a.latents), (v.latent_gate, a.latent_gate), (visual_MND, audio_MND))
        if made is None:
            made = v(visual_MND, at.visual.as_own(audio_MND)), a(audio_MND, at.audio.as_own(visual_MND))
        return Edits(visual=Edit(add=made[0]), audio=Edit(add=made[1]))


class Bottleneck(GroupedBottleneck):
    """Ad(x ; y): the other stream is read into the tokens through a few latent tokens, then a bottleneck."""

    def __init__(self, config: LavishSettings, width: int, *, gated: bool) -> None:
        super().__init__()
        initial = torch.rand if config.latents == "uniform" else torch.zeros
        self.latents = nn.Parameter(initial(config.tokens, width))
        self.latent_gate = nn.Parameter(torch.zeros(1))
        self.add_bottleneck(
            width,
            reduction=config.reduction,
            groups=config.groups,
            batch_norm=config.batch_norm,
            before_norm=config.before_norm,
            post_norm=config.post_norm,
            gated=gated,
            gate_first=config.order == "avs",
            where="parts.lavish",
        )

    def forward(self, x_MND: Tensor, other_MND: Tensor) -> Tensor:
        """The increment (M, N, D) of tokens ``x``, which read ``other`` (M, any N, D)."""
        narrowed_MNk = read_and_narrow(
            x_MND, other_MND, self.latents, self.latent_gate, self.norm_before, self.down.weight
        )
        return self.widened(narrowed_MNk)
