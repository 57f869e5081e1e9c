"""``dgsct.avs``: gates of the segments at each scale, then AVSBench's decoder.

Shape letters: B clips, T frames, M = B*T, C channels of the decoder, D width of the audio vector, Y and X rows and
columns.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Features, StreamLayout, Task
from avcore_ave.temporal import CrossDecoder, SegmentEncoder, count
from avcore_avs.config import DECODER_STAGES, AVSHeadConfig
from avcore_avs.heads import AVSHead as DecoderHead
from avcore_dgsct.settings import AVSHeadSettings

__all__ = ["AVSHead", "ScaleGates", "TemporalGates"]


class ScaleGates(nn.Module):
    """The gates of pictures and sound at one scale.

    Attributes:
        unused_in_reference: the layers that encoders are copied from, and two decoders.
    """

    def __init__(self, config: AVSHeadSettings) -> None:
        super().__init__()
        width = config.temporal.width
        self.visual_in = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.input_dropout)
        self.visual = SegmentEncoder(config.width, width, config.temporal)
        self.audio = SegmentEncoder(config.audio_width, width // 2, config.temporal)
        with torch.device("meta"):
            decoders = [CrossDecoder(width_in, config.temporal) for width_in in (2 * width, width)]
        self.unused_in_reference = self.visual.unused_in_reference + self.audio.unused_in_reference
        self.unused_in_reference += sum(count(decoder) + decoder.unused_in_reference for decoder in decoders)

    def forward(self, map_BTCYX: Tensor, audio_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The gate that pictures make and the one that sound makes, (B, T, 1) each."""
        mean_BTC = map_BTCYX.mean((-2, -1))
        visual = self.visual(self.dropout(F.relu(self.visual_in(mean_BTC))))
        return visual.gate, self.audio(audio_BTD).gate


class TemporalGates(nn.Module):
    """Each map times 1 + gamma g_a of its scale; sound times 1 + gamma times the mean of all scales' g_v."""

    def __init__(self, config: AVSHeadSettings) -> None:
        super().__init__()
        scales = [ScaleGates(config) for _ in range(DECODER_STAGES)]
        self.scales = nn.ModuleList(scales)
        self.gamma = config.gamma
        self.unused_in_reference = sum(scale.unused_in_reference for scale in scales)

    def forward(self, maps: Sequence[Tensor], audio_BTD: Tensor) -> tuple[list[Tensor], Tensor]:
        """Four maps (M, C, Y, X) and the audio vectors (B, T, D) to the same, gated."""
        gated, from_visual = [], []
        for scale, map_MCYX in zip(self.scales, maps, strict=True):
            map_BTCYX = map_MCYX.unflatten(0, audio_BTD.shape[:2])
            visual_BT1, audio_BT1 = scale(map_BTCYX, audio_BTD)
            gated.append((map_BTCYX * (1 + self.gamma * audio_BT1[..., None, None])).flatten(0, 1))
            from_visual.append(visual_BT1)
        return gated, audio_BTD * (1 + self.gamma * torch.stack(from_visual).mean(0))


class AVSHead(DecoderHead):
    """Each tap through a linear map and resized, sound pooled and mapped; both gated over time; AVSBench's decoder.

    Output, losses and predictions are those of ``avs.decoder``.

    Raises:
        AssemblyError: a stream is off, the task is no segmentation, or the visual stream does not have four taps.
    """

    def __init__(self, config: AVSHeadSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        visual, audio = layouts.get("visual"), layouts.get("audio")
        if visual is None or audio is None:
            raise AssemblyError(
                "Head dgsct.avs needs both streams: use --streams both, or --set head.name=avs.decoder."
            )
        self.temporal = TemporalGates(config)
        # The reference also maps the taps to the channels of the dilated convolutions, and uses that nowhere.
        dilated = zip(visual.tapped, AVSHeadConfig().projected, strict=True)
        self.unused_in_reference += sum((stage.width + 1) * channels for stage, channels in dilated)
        self.unused_in_reference += self.temporal.unused_in_reference

    def inputs(self, features: Features) -> tuple[list[Tensor], Tensor]:
        """Maps and audio vectors, gated; sound is pooled as the features have it."""
        maps = [self._resize(x, stage) for stage, x in enumerate(features.stream("visual").maps)]
        assert self.audio_projection is not None
        gated, audio_BTD = self.temporal(maps, self.audio_projection(features.stream("audio").pooled))
        return gated, audio_BTD.flatten(0, 1)
