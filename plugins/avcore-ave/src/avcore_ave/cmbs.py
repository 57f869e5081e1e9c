"""``ave.cmbs``: cross-modal background suppression (Xia and Zhao, CVPR 2022), on features of any width.

Shape letters: B clips, T segments, D width.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from avcore.specs import StreamLayout
from avcore.tasks import Features, Task
from avcore_ave.attention import GuidedPooling, positions
from avcore_ave.config import CMBSHeadConfig
from avcore_ave.localisation import LocalisationHead
from avcore_ave.temporal import Interaction

__all__ = ["CMBSHead"]


class CMBSHead(LocalisationHead):
    """The last visual map, mapped and pooled as sound says, and pooled sound, over time; then localisation.

    Pictures pass Linear, ReLU and dropout at first; sound enters as it is. With labels of clips alone it is the weakly
    supervised model of the paper: no LSTMs, other gates and scores.

    Output:
        As `Localisation` and `WeakLocalisation` have it.

    Raises:
        AssemblyError: the task names no events in segments, a stream is off, or a clip has too few segments.
    """

    def __init__(self, config: CMBSHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task, name="ave.cmbs", top=config.top)
        width, audio_in, weak = config.visual_width, layouts["audio"].width, self.weak
        self.visual_in = nn.Linear(layouts["visual"].tapped[-1].width, width)
        self.dropout = nn.Dropout(config.value("input_dropout", weak=weak))
        self.pooling = GuidedPooling(width, audio_in, hidden=config.attention, beta=config.value("beta", weak=weak))
        self.temporal = Interaction(
            width,
            audio_in,
            config.temporal,
            gamma=config.value("gamma", weak=weak),
            encoder_feed_forward=config.value("encoder_feed_forward", weak=weak),
            weak=weak,
        )
        self.localisation = self.localisation_of(
            task,
            config.temporal.width,
            top=config.top,
            score_weight=config.value("score_weight", weak=weak),
            exchange_heads=config.value("exchange_heads", weak=weak),
        )
        parts = (self.pooling, self.temporal, self.localisation)
        self.unused_in_reference = sum(part.unused_in_reference for part in parts)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the last map of pictures and pooled sound."""
        audio_BTD = features.stream("audio").pooled
        map_MND = self.dropout(F.relu(self.visual_in(positions(features.stream("visual").maps[-1]))))
        visual_BTD = self.pooling(map_MND, audio_BTD.flatten(0, 1)).unflatten(0, audio_BTD.shape[:2])
        return self.localisation(self.temporal(visual_BTD, audio_BTD))  # type: ignore[no-any-return]
