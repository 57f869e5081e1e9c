"""``dgsct.ave``: temporal interaction of the streams, then localisation, both as in CMBS (Xia and Zhao, CVPR 2022).

Shape letters: B clips, T segments, D width.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from avcore import Features, StreamLayout, Task
from avcore_ave.localisation import LocalisationHead
from avcore_ave.temporal import Interacted, Interaction
from avcore_dgsct.settings import AVEHeadSettings

__all__ = ["AVEHead", "TemporalInteraction"]


class TemporalInteraction(Interaction):
    """Both pooled vectors mapped, pictures through ReLU and dropout, then CMBS's interaction."""

    def __init__(self, config: AVEHeadSettings, visual_in: int, audio_in: int) -> None:
        super().__init__(config.visual_width, config.audio_width, config.temporal, gamma=config.gamma)
        self.visual_in = nn.Linear(visual_in, config.visual_width)
        self.audio_in = nn.Linear(audio_in, config.audio_width)
        self.dropout = nn.Dropout(config.input_dropout)

    def forward(self, visual_BTD: Tensor, audio_BTD: Tensor) -> Interacted:
        """Pooled vectors of both streams, of their own widths."""
        return super().forward(self.dropout(F.relu(self.visual_in(visual_BTD))), self.audio_in(audio_BTD))


class AVEHead(LocalisationHead):
    """Pooled vectors to the event of the clip and the segments in which it is seen and heard.

    With labels of clips alone the localisation is that of CMBS's weakly supervised model, behind the same interaction.

    Output:
        As `Localisation` and `WeakLocalisation` have it.

    Raises:
        AssemblyError: the task names no events in segments, a stream is off, or a clip has too few segments.
    """

    def __init__(self, config: AVEHeadSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task, name="dgsct.ave", top=config.top)
        self.temporal = TemporalInteraction(config, layouts["visual"].width, layouts["audio"].width)
        self.localisation = self.localisation_of(
            task, config.temporal.width, top=config.top, score_weight=config.score_weight
        )
        self.unused_in_reference = self.temporal.unused_in_reference + self.localisation.unused_in_reference

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of both streams."""
        made = self.temporal(features.stream("visual").pooled, features.stream("audio").pooled)
        return self.localisation(made)  # type: ignore[no-any-return]
