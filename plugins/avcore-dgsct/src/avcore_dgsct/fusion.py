"""``dgsct``: dual-guided spatial, channel and temporal bottlenecks between two streams (Duan et al., NeurIPS 2023).

Shape letters: B clips, T segments, M = B*T, N tokens, D width.
"""

from dataclasses import replace

from torch import Tensor

from avcore import Edit, Edits, Features, Fusion, FusionLayer, StreamFeatures, StreamLayout
from avcore.injection import PairLayout, PairView
from avcore_dgsct.bottleneck import BottleneckPair
from avcore_dgsct.settings import DGSCTSettings

__all__ = ["DGSCT", "ParallelLayer", "SerialLayer"]


class DGSCT(Fusion):
    """Two pairs of bottlenecks at every pair of blocks; the maps of the last ones weigh the tokens that are pooled."""

    def __init__(self, config: DGSCTSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config

    def layer(self, pair: PairLayout) -> FusionLayer:
        """The bottlenecks of one pair of blocks."""
        return (ParallelLayer if self.config.placement == "parallel" else SerialLayer)(self.config, pair)

    def finish(self, features: Features) -> Features:
        """Pool by the last maps S: normed visual tokens, and audio tokens before the final norm."""
        if self.config.pool == "none":
            return features
        audio = features.stream("audio")
        features = features.with_streams(audio=_pooled(audio, audio.raw_tokens, features, "audio_map"))
        if self.config.pool == "audio":
            return features
        visual = features.stream("visual")
        return features.with_streams(visual=_pooled(visual, visual.tokens, features, "visual_map"))


def _pooled(stream: StreamFeatures, tokens_MND: Tensor, features: Features, name: str) -> StreamFeatures:
    map_M1N = features.offers[f"dgsct.{name}"][-1]
    pooled_MD = (map_M1N.to(tokens_MND.dtype) @ tokens_MND).squeeze(1)
    return replace(stream, pooled=pooled_MD.unflatten(0, (features.clips, features.segments)))


class _PairOfPairs(FusionLayer):
    """Bottlenecks ``p1``, at the attention, and ``p2``, at the MLP, of one pair of blocks."""

    def __init__(self, config: DGSCTSettings, pair: PairLayout) -> None:
        super().__init__()
        self.p1 = BottleneckPair(config, pair)
        self.p2 = BottleneckPair(config, pair)
        self.unused_in_reference = self.p1.unused_in_reference + self.p2.unused_in_reference


class ParallelLayer(_PairOfPairs):
    """x <- x + A(x) + p1, x <- x + M(x) + p2; the last layer offers ``visual_map`` and ``audio_map``, (M, 1, N)."""

    def __init__(self, config: DGSCTSettings, pair: PairLayout) -> None:
        super().__init__(config, pair)
        self.last = pair.from_end == 1

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """Beside the frozen attention of both streams; in an atomic audio block, beside the whole block."""
        visual, audio = self.p1(visual_MND, audio_MND)
        return Edits(visual=Edit(add=visual.add), audio=Edit(add=audio.add))

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """Beside the frozen MLP of both streams; after an atomic audio block."""
        visual, audio = self.p2(visual_MND, audio_MND)
        maps = {"visual_map": visual.map, "audio_map": audio.map} if self.last else {}
        return Edits(visual=Edit(add=visual.add, offer=maps), audio=Edit(add=audio.add))


class SerialLayer(_PairOfPairs):
    """x <- x + A(x), x <- x + p1, x <- x + M(x), x <- x + p2, as the few- and zero-shot code has it."""

    def before_mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """On the tokens after the frozen attention."""
        visual, audio = self.p1(visual_MND, audio_MND)
        return Edits(visual=Edit(add=visual.add), audio=Edit(add=audio.add))

    def mlp_output(
        self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        """On the tokens after the frozen MLP."""
        visual, audio = self.p2(visual_MND + out_visual, audio_MND + out_audio)
        return out_visual + visual.add, out_audio + audio.add
