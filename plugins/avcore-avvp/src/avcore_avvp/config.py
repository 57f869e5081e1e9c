"""Settings of the task, heads and reader. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require
from avcore.specs import ClipSettings
from avcore_avvp.annotations import CLASSES

__all__ = ["AVVPTaskConfig", "AttentiveHeadConfig", "LLPDataConfig"]


@dataclass(frozen=True, kw_only=True)
class AVVPTaskConfig:
    """Video parsing. ``classes`` decides the width of the head, its order the indices; there is no background."""

    classes: tuple[str, ...] = CLASSES  # names of the classes in their order; the files of a data set bring their own

    def __post_init__(self) -> None:
        require(len(self.classes) > 0, "classes", list(self.classes), "one name at least")
        require(len(set(self.classes)) == len(self.classes), "classes", list(self.classes), "different names")


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What all heads of video parsing know of their losses."""

    audio_smoothing: float = field(
        default=1.0, metadata={"help": "v_a: the label of sound is v y + (1 - v) / 2 of the clip's label y"}
    )
    visual_smoothing: float = field(default=0.9, metadata={"help": "v_v: the same of pictures"})

    def __post_init__(self) -> None:
        for key in ("audio_smoothing", "visual_smoothing"):
            require(0 <= getattr(self, key) <= 1, key, getattr(self, key), "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class AttentiveHeadConfig(LossSettings):
    """Two linear maps of each stream's pooled vectors: probabilities, and weights over time and streams."""

    dropout: float = field(default=0.0, metadata={"help": "share of the pooled vectors dropped in training"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class LLPDataConfig(ClipSettings):
    """How clips in LLP's layout are read: ten seconds, a picture and 1 s of sound each."""

    media: Literal["auto", "video", "frames"] = "auto"  # video files, or pictures and wav files; auto: what is there
