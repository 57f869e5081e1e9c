"""Settings of the task, the head and the reader. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass
from typing import Literal

from avcore.specs import ClipSettings
from avcore_ave.annotations import CLASSES

__all__ = ["BACKGROUND", "AVEDataConfig", "AVETaskConfig", "LinearHeadConfig"]

BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class AVETaskConfig:
    """Event localisation. ``classes`` decides the width of the head, its order the indices; background comes last."""

    classes: tuple[str, ...] = CLASSES  # names of the events in their order; the files of a data set bring their own
    paper_batch: int = 8  # protocol=paper: clips in a batch of the running mean

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be different names, at least one, not {list(self.classes)}")
        if self.paper_batch < 1:
            raise ValueError(f"paper_batch must be 1 or more, not {self.paper_batch}")

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class index: the events, then background."""
        return (*self.classes, BACKGROUND)

    @property
    def background(self) -> int:
        """The class index of background, the last one."""
        return len(self.classes)


@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig:
    """Two linear maps of both pooled vectors of a segment; with one stream, LayerNorm and one linear map."""

    hidden: int = 512  # width between the two linear maps; there is no non-linearity
    dropout: float = 0.0  # share of hidden values dropped in training (STG-CMA: 0.5)
    first: Literal["visual", "audio"] = "visual"  # the stream that comes first (LAVISH with ViT and STG-CMA: audio)
    loss: Literal["bce_softmax", "cross_entropy"] = "bce_softmax"  # LAVISH's, or STG-CMA's

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be 1 or more, not {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, not {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class AVEDataConfig(ClipSettings):
    """How clips in AVE's layout are read: ten seconds, a picture and 1 s of sound each."""

    media: Literal["auto", "video", "frames"] = "auto"  # video files, or pictures and wav files; auto: what is there
    pictures: Literal["even", "middle"] = "even"  # of those extracted: linspace(1, n, T) as LAVISH, or mid-segment
