"""``stgcma.exchange``: spatial and global cross-modal adaptation (Wang et al., CVPRW 2024).

Shape letters: M = B*T, N tokens, D width, K hidden width of an adapter.
"""

import torch
from torch import Tensor, nn

from avcore import AVCoreError, BlockLayout, FusionLayer
from avcore.injection import PairLayout, PairView
from avcore_stgcma.adapter import Adapter
from avcore_stgcma.settings import AdapterSettings

__all__ = ["ExchangeLayer"]


class ExchangeLayer(FusionLayer):
    """Adapters in series with the frozen increments o of both streams, mixed between Down and Up.

    h = GELU(Down o); h_v <- h_v + g_v softmax(h_v h_a^T) h_a, likewise h_a, both from the old h; o <- o + Up h.
    The gates start at zero and serve both sub-layers. Behind attention each window of one stream exchanges with the
    same window of the other, where the blocks have windows.

    Raises:
        AVCoreError: windows of the two blocks do not correspond.
    """

    def __init__(self, config: AdapterSettings, pair: PairLayout) -> None:
        super().__init__()
        _check_windows(pair)
        self.spatial_visual = Adapter(pair.visual.width, config.ratio)
        self.spatial_audio = Adapter(pair.audio.width, config.ratio)
        self.mlp_visual = Adapter(pair.visual.width, config.ratio)
        self.mlp_audio = Adapter(pair.audio.width, config.ratio)
        self.gate_visual = nn.Parameter(torch.zeros(1))
        self.gate_audio = nn.Parameter(torch.zeros(1))

    def attention_output(
        self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        """Spatial adaptation, within each window."""
        windows_v, windows_a = at.visual.windows(out_visual), at.audio.windows(out_audio)
        made_v, made_a = self._adapt(self.spatial_visual, self.spatial_audio, windows_v, windows_a)
        return at.visual.unwindows(made_v), at.audio.unwindows(made_a)

    def mlp_output(
        self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        """Global adaptation, over all tokens."""
        return self._adapt(self.mlp_visual, self.mlp_audio, out_visual, out_audio)

    def _adapt(
        self, adapter_v: Adapter, adapter_a: Adapter, out_visual: Tensor, out_audio: Tensor
    ) -> tuple[Tensor, Tensor]:
        h_v, h_a = adapter_v.hidden(out_visual), adapter_a.hidden(out_audio)
        affinity = h_v @ h_a.mT
        from_audio = torch.softmax(affinity, dim=-1) @ h_a
        from_visual = torch.softmax(affinity.mT, dim=-1) @ h_v
        return (
            out_visual + adapter_v.up(h_v + self.gate_visual * from_audio),
            out_audio + adapter_a.up(h_a + self.gate_audio * from_visual),
        )


def _check_windows(pair: PairLayout) -> None:
    visual, audio = pair.visual, pair.audio
    windowed = visual.window is not None or audio.window is not None
    if windowed and (visual.grid, visual.window) != (audio.grid, audio.window):
        raise AVCoreError(
            f"'stgcma.exchange' runs window by window, so both streams need the same grid and windows, but visual "
            f"block {visual.index} has {_describe(visual)} and audio block {audio.index} {_describe(audio)}: use one "
            f"backbone for both (--audio shared), or leave the part out (--fusion none)."
        )


def _describe(block: BlockLayout) -> str:
    windows = "no windows" if block.window is None else f"windows of {block.window}"
    return f"{windows} on {block.grid}"
