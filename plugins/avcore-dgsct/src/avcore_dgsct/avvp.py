"""``dgsct.avvp``: a gate of the segments from sound on pictures, then MGN.

Shape letters: B clips, T segments, D width.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from avcore import AssemblyError, Features, StreamLayout, Task
from avcore_ave.temporal import SegmentEncoder, count
from avcore_avvp.annotations import MOTION
from avcore_avvp.embedding import Embedding, feature_shapes
from avcore_avvp.mgn.head import MGNBase
from avcore_dgsct.settings import AVVPHeadSettings

__all__ = ["AVVPHead", "SoundGate"]


class SoundGate(nn.Module):
    """Pictures times 1 + gamma g_a; g_a is what sound over time says of each segment.

    Attributes:
        unused_in_reference: the same of pictures on sound, whose output the published code throws away, and the layer
            that each encoder is copied from.
    """

    def __init__(self, config: AVVPHeadSettings) -> None:
        super().__init__()
        self.gamma = config.gamma
        self.audio = SegmentEncoder(config.width, config.width // 2, config.temporal)
        self.unused_in_reference = count(self.audio) + 2 * self.audio.unused_in_reference

    def forward(self, visual_BTD: Tensor, audio_BTD: Tensor) -> Tensor:
        """Both of the head's width; pictures gated."""
        return visual_BTD * (1 + self.gamma * self.audio(audio_BTD).gate)  # type: ignore[no-any-return]


class AVVPHead(MGNBase):
    """Pooled vectors of both streams, and motion from files where the task has it, to what is heard and seen.

    Raises:
        AssemblyError: a stream is off, or the features of motion are of another number of segments.
    """

    def __init__(self, config: AVVPHeadSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        if len(layouts) < 2:
            raise AssemblyError("Head 'dgsct.avvp' needs both streams; leave --streams out.")
        segments = layouts["visual"].segments
        _, motion = feature_shapes(task, segments).get(MOTION, (segments, 0))
        super().__init__(config, layouts, task, segments)
        self.embedding = Embedding(layouts["audio"].width, layouts["visual"].width, motion, config.width)
        self.temporal = SoundGate(config)
        self.unused_in_reference = self.temporal.unused_in_reference

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of both streams."""
        audio_BTD = self.embedding.audio(features.stream("audio").pooled)
        visual_BTD = self.embedding.pictures(features.stream("visual").pooled, features.segments)
        visual_BTD = self.embedding.join(self.temporal(visual_BTD, audio_BTD), features.inputs.get(MOTION))
        return self.network(audio_BTD, visual_BTD)  # type: ignore[no-any-return]
