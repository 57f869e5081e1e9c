"""Settings of the task, heads and reader. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require
from avcore.specs import ClipSettings
from avcore_avvp.annotations import CLASSES, MOTION

__all__ = [
    "FEATURES",
    "AVVPTaskConfig",
    "AttentiveHeadConfig",
    "HANHeadConfig",
    "LLPDataConfig",
    "LossSettings",
    "MGNHeadConfig",
]

SOUND, PICTURES = "vggish", "res152"
FEATURES = {SOUND: (10, 128), PICTURES: (80, 2048), MOTION: (10, 512)}
"""The features that HAN publishes for a clip of 10 s: VGGish, ResNet-152 at 8 pictures a second, R(2+1)D-18."""


@dataclass(frozen=True, kw_only=True)
class AVVPTaskConfig:
    """Video parsing. ``classes`` decides the width of the head, its order the indices; there is no background."""

    classes: tuple[str, ...] = CLASSES  # names of the classes in their order; the files of a data set bring their own
    features: tuple[str, ...] = ()  # what heads see from files: vggish, res152, r2plus1d_18

    def __post_init__(self) -> None:
        require(len(self.classes) > 0, "classes", list(self.classes), "one name at least")
        require(len(set(self.classes)) == len(self.classes), "classes", list(self.classes), "different names")
        known = set(self.features) <= FEATURES.keys()
        require(known, "features", list(self.features), f"some of {', '.join(FEATURES)}")


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
class HANHeadConfig(LossSettings):
    """HAN: a layer of self- and cross-attention for both streams, then pooling by learned weights."""

    width: int = field(default=512, metadata={"help": "width of all vectors"})
    heads: int = field(default=1, metadata={"help": "attention heads"})
    feed_forward: int = field(default=512, metadata={"help": "hidden width of the MLP"})
    dropout: float = field(default=0.1, metadata={"help": "share dropped within the layer in training"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("width", "heads", "feed_forward"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width ({self.width})")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class MGNHeadConfig(LossSettings):
    """MGN: tokens of classes that group the seconds of each stream, then those of one stream by the other's."""

    width: int = field(default=128, metadata={"help": "width of all vectors"})
    heads: int = field(default=8, metadata={"help": "attention heads"})
    depth_audio: int = field(default=3, metadata={"help": "transformer blocks over seconds and tokens of sound"})
    depth_visual: int = field(default=3, metadata={"help": "the same of pictures"})
    depth_both: int = field(default=6, metadata={"help": "transformer blocks over the tokens of both"})
    drop_path: float = field(default=0.1, metadata={"help": "share of clips that skip half a block in training"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("width", "heads", "depth_audio", "depth_visual", "depth_both"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width ({self.width})")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class LLPDataConfig(ClipSettings):
    """How clips in LLP's layout are read: ten seconds, a picture and 1 s of sound each."""

    media: Literal["auto", "video", "frames"] = "auto"  # video files, or pictures and wav files; auto: what is there
    features: str = field(
        default="",
        metadata={"help": "folder of features, with vggish/<id>.npy and so on in it; feats beside the lists if empty"},
    )
