"""``ave.avel``: the first model of AVE (Tian et al., ECCV 2018), on features of any width.

Shape letters: B clips, T segments, D width, C classes with background.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.specs import StreamLayout
from avcore.tasks import Features, Task
from avcore_ave.attention import AVELPooling, positions
from avcore_ave.config import AVELHeadConfig
from avcore_ave.heads import SegmentHead
from avcore_ave.temporal import run_lstm

__all__ = ["AVELHead"]


class AVELHead(SegmentHead):
    """The last visual map pooled as sound says, an LSTM in both directions for each stream, ReLU, Linear, ReLU, Linear.

    Output:
        ``logits`` (B, T, C).

    Raises:
        AssemblyError: a stream is off.
    """

    def __init__(self, config: AVELHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task, loss="soft_margin")
        visual, audio = layouts.get("visual"), layouts.get("audio")
        if visual is None or audio is None:
            raise AssemblyError("Head ave.avel needs both streams: use --streams both, or --set head.name=ave.linear.")
        stage = visual.tapped[-1]
        rows, columns = stage.grid
        self.pooling = AVELPooling(
            stage.width, audio.width, rows * columns, width=config.attention, scores=config.scores
        )
        self.visual = nn.LSTM(stage.width, config.recurrent, bidirectional=True, batch_first=True)
        self.audio = nn.LSTM(audio.width, config.recurrent, bidirectional=True, batch_first=True)
        self.hidden = nn.Linear(4 * config.recurrent, config.hidden)
        self.output = nn.Linear(config.hidden, len(task.classes))
        for layer in (self.hidden, self.output):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the last map of pictures and pooled sound."""
        audio_BTD = features.stream("audio").pooled
        pooled_MD = self.pooling(positions(features.stream("visual").maps[-1]), audio_BTD.flatten(0, 1))
        visual_BTD = pooled_MD.unflatten(0, audio_BTD.shape[:2])
        both_BTD = torch.cat([run_lstm(self.audio, audio_BTD), run_lstm(self.visual, visual_BTD)], dim=-1)
        return {"logits": self.output(F.relu(self.hidden(F.relu(both_BTD))))}
