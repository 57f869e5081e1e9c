"""``stgcma.exchange``: spatial and global cross-modal adaptation (Wang et al., CVPRW 2024).

Shape letters: M = B*T, N tokens, D width, K hidden width of a bottleneck.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import BlockLayout, FusionLayer
from avcore.injection import PairLayout, PairView
from avcore_stgcma.bottleneck import Bottleneck
from avcore_stgcma.settings import BottleneckSettings

__all__ = ["ExchangeLayer", "exchanged"]


class ExchangeLayer(FusionLayer):
    """Bottlenecks in series with the frozen increments o of both streams, mixed between Down and Up.

    h = GELU(Down o); h_v <- h_v + g_v softmax(h_v h_a^T) h_a, likewise h_a, both from the old h; o <- o + Up h.
    The gates start at zero and serve both sub-layers. Behind attention each window of one stream exchanges with the
    same window of the other, where the blocks have windows.

    Beyond the paper: where widths differ, a stream's Down makes h of the other's increment
    in its own width; where windows do not correspond, a stream that has windows reads the other's increment on its own
    grid.
    """

    def __init__(self, config: BottleneckSettings, pair: PairLayout) -> None:
        super().__init__()
        self.equal_widths = pair.visual.width == pair.audio.width
        self.same_windows = windows_of(pair.visual) == windows_of(pair.audio)
        ratio_v, ratio_a = config.ratio_at(pair.visual), config.ratio_at(pair.audio)
        self.spatial_visual = Bottleneck(pair.visual.width, ratio_v)
        self.spatial_audio = Bottleneck(pair.audio.width, ratio_a)
        self.mlp_visual = Bottleneck(pair.visual.width, ratio_v)
        self.mlp_audio = Bottleneck(pair.audio.width, ratio_a)
        self.gate_visual = nn.Parameter(torch.zeros(1))
        self.gate_audio = nn.Parameter(torch.zeros(1))

    def attention_output(
        self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        """Spatial adaptation, within each window."""
        heard = seen = None
        if not (self.equal_widths and self.same_windows):
            heard, seen = at.visual.as_own(out_audio), at.audio.as_own(out_visual)
        windows_v, windows_a = at.visual.windows(out_visual), at.audio.windows(out_audio)
        made_v, made_a = self._adapt(self.spatial_visual, self.spatial_audio, windows_v, windows_a, heard, seen)
        return at.visual.unwindows(made_v), at.audio.unwindows(made_a)

    def mlp_output(
        self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        """Global adaptation, over all tokens."""
        heard = seen = None
        if not self.equal_widths:
            heard, seen = at.visual.as_own(out_audio, "width"), at.audio.as_own(out_visual, "width")
        return self._adapt(self.mlp_visual, self.mlp_audio, out_visual, out_audio, heard, seen)

    def _adapt(
        self,
        bottleneck_v: Bottleneck,
        bottleneck_a: Bottleneck,
        out_visual: Tensor,
        out_audio: Tensor,
        heard: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Adapt both increments; each reads the other's h, or what its own side makes of ``heard`` or ``seen``."""
        h_v, h_a = bottleneck_v.hidden(out_visual), bottleneck_a.hidden(out_audio)
        read_v = h_a if heard is None else (bottleneck_a if self.equal_widths else bottleneck_v).hidden(heard)
        read_a = h_v if seen is None else (bottleneck_v if self.equal_widths else bottleneck_a).hidden(seen)
        return (
            out_visual + bottleneck_v.up(exchanged(h_v, read_v, self.gate_visual)),
            out_audio + bottleneck_a.up(exchanged(h_a, read_a, self.gate_audio)),
        )


def exchanged(h_MNK: Tensor, read_MSK: Tensor, gate: Tensor) -> Tensor:
    """h + gate softmax(h r^T) r, for any number S of hidden vectors r; the scores are never kept."""
    keys = read_MSK[:, None]
    found_MNK = F.scaled_dot_product_attention(h_MNK[:, None], keys, keys, scale=1.0)[:, 0]
    if torch.compiler.is_compiling() or found_MNK.dtype != h_MNK.dtype:
        return torch.addcmul(h_MNK, found_MNK, gate)
    made: Tensor = _GatedSum.apply(h_MNK, found_MNK, gate)  # type: ignore[no-untyped-call]
    return made


class _GatedSum(torch.autograd.Function):
    """h + gate f, of which the gate's gradient is one product."""

    @staticmethod
    def forward(ctx: Any, h_MNK: Tensor, found_MNK: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(found_MNK, gate)
        return torch.addcmul(h_MNK, found_MNK, gate)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found_MNK, gate = ctx.saved_tensors
        return grads[0], grads[0] * gate, torch.dot(grads[0].flatten(), found_MNK.flatten()).view(1)


def windows_of(block: BlockLayout) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """What makes windows of two blocks correspond; None for a block without windows."""
    return None if block.window is None else (block.grid, block.window)
