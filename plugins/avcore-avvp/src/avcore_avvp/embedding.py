"""From the features of a clip to one vector of sound and one of pictures for each second, as HAN and MGN begin.

Shape letters: B clips, T segments, k frames of a segment, D width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.specs import StreamLayout
from avcore.tasks import Features, Task
from avcore_avvp.annotations import MOTION
from avcore_avvp.config import PICTURES, SOUND

__all__ = ["Embedding", "Sources", "feature_shapes"]


def feature_shapes(task: Task, segments: int) -> dict[str, tuple[int, ...]]:
    """The shapes (rows, width) of the features that a task takes from files, by name.

    Raises:
        AssemblyError: they are of another number of segments; names them.
    """
    shapes = {name: task.inputs[name].shape for name in (SOUND, PICTURES, MOTION) if name in task.inputs}
    for name, (rows, _) in shapes.items():
        # Of pictures there are several in a segment.
        if rows % segments if name == PICTURES else rows != segments:
            raise AssemblyError(
                f"The features '{name}' have {rows} rows for a clip of {segments} segments: set data.segments=10, or "
                "leave them out of task_options.features."
            )
    return shapes


class Sources:
    """Which vectors stand for sound, pictures and motion: features from files where the task has them, else streams.

    Args:
        layouts: of the streams that run.
        task: its inputs are looked at.
        head: its name, for messages.

    Attributes:
        audio, visual, motion: widths; 0 for motion where there is none.

    Raises:
        AssemblyError: sound or pictures come from nowhere, or the features are of another number of segments.
    """

    def __init__(self, layouts: Mapping[str, StreamLayout], task: Task, head: str) -> None:
        self.segments = next(iter(layouts.values())).segments
        self.given = feature_shapes(task, self.segments)
        self.audio = self._width(SOUND, "audio", layouts, head)
        self.visual = self._width(PICTURES, "visual", layouts, head)
        self.motion = self.given[MOTION][1] if MOTION in self.given else 0

    def _width(self, name: str, stream: str, layouts: Mapping[str, StreamLayout], head: str) -> int:
        if name in self.given:
            return self.given[name][1]
        if stream not in layouts:
            raise AssemblyError(
                f"Head '{head}' needs {stream}: run that stream, or give features with task_options.features=[{name}]."
            )
        return layouts[stream].width

    def read(self, features: Features) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sound (B, T, D), pictures (B, k T, D) and motion (B, T, D), the last None where there is none."""
        inputs, streams = features.inputs, features.streams
        audio = inputs[SOUND] if SOUND in self.given else streams["audio"].pooled
        visual = inputs[PICTURES] if PICTURES in self.given else streams["visual"].pooled
        return audio, visual, inputs[MOTION] if self.motion else None


class Embedding(nn.Module):
    """Linear maps to one width; pictures are averaged over the frames of a segment, and joined with motion."""

    def __init__(self, audio_in: int, visual_in: int, motion_in: int, width: int) -> None:
        super().__init__()
        self.audio = nn.Linear(audio_in, width)
        self.visual = nn.Linear(visual_in, width)
        self.motion = nn.Linear(motion_in, width) if motion_in else None
        self.joined = nn.Linear(2 * width, width) if motion_in else None

    def pictures(self, visual_BND: Tensor, segments: int) -> Tensor:
        """(B, k T, D) to (B, T, width)."""
        return self.visual(visual_BND.unflatten(1, (segments, -1)).mean(2))  # type: ignore[no-any-return]

    def join(self, visual_BTD: Tensor, motion_BTD: Tensor | None) -> Tensor:
        """Mapped pictures (B, T, width) with motion, where there is some."""
        if self.motion is None or self.joined is None or motion_BTD is None:
            return visual_BTD
        return self.joined(torch.cat([visual_BTD, self.motion(motion_BTD)], dim=-1))  # type: ignore[no-any-return]

    def forward(self, audio_BTD: Tensor, visual_BND: Tensor, motion_BTD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sound and pictures, (B, T, width) each."""
        return self.audio(audio_BTD), self.join(self.pictures(visual_BND, audio_BTD.shape[1]), motion_BTD)
