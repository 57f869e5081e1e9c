"""Settings of the task, the heads and the readers. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require
from avcore.specs import ClipSettings
from avcore_avar.classes import LISTS

__all__ = ["AVARTaskConfig", "KineticsSoundsConfig", "LinearHeadConfig", "ListedConfig", "TwoMapsHeadConfig"]


@dataclass(frozen=True, kw_only=True)
class AVARTaskConfig:
    """Recognition. ``classes`` decides the width of the head, its order the indices."""

    classes: tuple[str, ...] = field(
        default=LISTS["ks-31"],
        metadata={
            "help": "names in their order, or one list: ks-31, ks-32, ks-34; the files of a data set bring their own"
        },
    )

    per_class: int = field(
        default=12, metadata={"help": "the accuracy of each class is given where there are at most so many; 0: never"}
    )

    def __post_init__(self) -> None:
        require(self.per_class >= 0, "per_class", self.per_class, "0 or more")
        if len(self.classes) == 1 and self.classes[0] in LISTS:
            object.__setattr__(self, "classes", LISTS[self.classes[0]])
        different = len(self.classes) > 1 and len(set(self.classes)) == len(self.classes)
        require(different, "classes", list(self.classes), f"different names, two at least, or one of {[*LISTS]}")


@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig:
    """One linear map of both pooled vectors of a clip side by side."""

    first: Literal["visual", "audio"] = field(
        default="visual", metadata={"help": "the stream that comes first in the concatenation"}
    )
    dropout: float = field(default=0.0, metadata={"help": "share of the concatenated values dropped in training"})

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class TwoMapsHeadConfig:
    """Two linear maps of both pooled vectors side by side, as STG-CMA has them; one stream: LayerNorm and one map."""

    hidden: int = field(default=512, metadata={"help": "width between the two linear maps; there is no non-linearity"})
    dropout: float = field(default=0.5, metadata={"help": "share of the hidden values dropped in training (LAVISH: 0)"})
    first: Literal["visual", "audio"] = field(
        default="audio", metadata={"help": "the stream that comes first in the concatenation"}
    )

    def __post_init__(self) -> None:
        require(self.hidden >= 1, "hidden", self.hidden, "1 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class ListedConfig(ClipSettings):
    """How listed clips are read: ten seconds, a picture and 1 s of sound each."""

    val_share: float = field(
        default=0.1,
        metadata={"help": "share of train held out as val where there is no list of val, by hash; 0: none"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.val_share < 1, "val_share", self.val_share, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class KineticsSoundsConfig(ListedConfig):
    """The same from video files, or from what OGM-GE extracts of them."""

    media: Literal["auto", "video", "frames"] = field(
        default="auto", metadata={"help": "video files, or pictures and wav files; auto: what is there, videos first"}
    )
