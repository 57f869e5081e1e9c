"""Settings of tasks, heads and readers. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass, field
from typing import Any, Literal

from avcore.config import require
from avcore.specs import ClipSettings, RecordingSettings
from avcore_ave.annotations import CLASSES

__all__ = [
    "BACKGROUND",
    "AVEDataConfig",
    "AVELHeadConfig",
    "AVETaskConfig",
    "AVEWeakDataConfig",
    "CMBSHeadConfig",
    "LinearHeadConfig",
    "OwnEventsConfig",
    "TemporalSettings",
]

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
    loss: Literal["bce_softmax", "cross_entropy", "soft_margin"] = "bce_softmax"  # LAVISH's, STG-CMA's or AVEL's

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be 1 or more, not {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, not {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class AVELHeadConfig:
    """AVEL's head: pooling of the positions guided by sound, an LSTM for each stream, two linear maps."""

    attention: int = field(
        default=512, metadata={"help": "width to which positions and sound are mapped to be compared"}
    )
    scores: int = field(default=49, metadata={"help": "width behind that, from which a position gets its weight"})
    recurrent: int = field(default=128, metadata={"help": "width of each direction of the LSTMs"})
    hidden: int = field(default=64, metadata={"help": "width between the last two linear maps"})

    def __post_init__(self) -> None:
        for key in ("attention", "scores", "recurrent", "hidden"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")


@dataclass(frozen=True, kw_only=True)
class TemporalSettings:
    """The sequence model over the segments of a clip: an LSTM in both directions and a transformer for each stream."""

    width: int = field(default=256, metadata={"help": "width of the transformers, even; each LSTM is made to fit it"})
    feed_forward: int = field(default=1024, metadata={"help": "hidden width of the transformers' MLP"})
    heads: int = field(default=4, metadata={"help": "attention heads of the transformers"})
    dropout: float = field(default=0.1, metadata={"help": "share dropped within the transformers"})

    def __post_init__(self) -> None:
        for key in ("width", "feed_forward", "heads"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.width % 2 == 0, "width", self.width, "even")
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width ({self.width})")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")


CMBS_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "input_dropout": (0.2, 0.1),
    "beta": (0.4, 0.5),
    "gamma": (0.1, 0.2),
    "score_weight": (0.3, 0.5),
    "encoder_feed_forward": (1024, 2048),
    "exchange_heads": (4, 2),
}
"""What CMBS has with labels of segments, and with those of clips alone."""


def _published(name: str, text: str) -> Any:
    supervised, weak = CMBS_DEFAULTS[name]
    return field(default=None, metadata={"help": f"{text}; none: as published, {supervised} (ave-weak {weak})"})


@dataclass(frozen=True, kw_only=True)
class CMBSHeadConfig:
    """CMBS: pooling guided by sound, both streams over time with mutual gates, localisation."""

    visual_width: int = field(
        default=512, metadata={"help": "width to which positions are mapped at first, a multiple of 4"}
    )
    attention: int = field(default=256, metadata={"help": "hidden width of the pooling"})
    temporal: TemporalSettings = field(
        default_factory=TemporalSettings, metadata={"help": "the transformers over the segments"}
    )
    top: int = field(default=4, metadata={"help": "segments with the highest scores that speak for the clip"})
    input_dropout: float | None = _published("input_dropout", "share of the mapped positions dropped in training")
    beta: float | None = _published("beta", "weight of what pictures attend to without sound")
    gamma: float | None = _published("gamma", "weight of the gates")
    score_weight: float | None = _published("score_weight", "weight of the streams' own scores")
    encoder_feed_forward: int | None = _published("encoder_feed_forward", "hidden width of the encoders' MLP")
    exchange_heads: int | None = _published("exchange_heads", "heads of the attention of both streams to each other")

    def __post_init__(self) -> None:
        for key in ("visual_width", "attention", "top", "encoder_feed_forward", "exchange_heads"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "1 or more")
        require(self.visual_width % 4 == 0, "visual_width", self.visual_width, "a multiple of 4")
        heads, width = self.exchange_heads, self.temporal.width
        require(heads is None or width % heads == 0, "exchange_heads", heads, f"a divisor of temporal.width ({width})")
        dropout = self.input_dropout
        require(dropout is None or 0 <= dropout < 1, "input_dropout", dropout, "from 0 to below 1")

    def value(self, name: str, *, weak: bool) -> Any:
        """A setting as it is given, or as published for labels of segments or (``weak``) of clips."""
        given = getattr(self, name)
        return CMBS_DEFAULTS[name][weak] if given is None else given


@dataclass(frozen=True, kw_only=True)
class AVEDataConfig(ClipSettings):
    """How clips in AVE's layout are read: ten seconds, a picture and 1 s of sound each."""

    media: Literal["auto", "video", "frames"] = "auto"  # video files, or pictures and wav files; auto: what is there
    pictures: Literal["even", "middle"] = "even"  # of those extracted: linspace(1, n, T) as LAVISH, or mid-segment


@dataclass(frozen=True, kw_only=True)
class AVEWeakDataConfig(AVEDataConfig):
    """The same with labels of clips alone in training."""

    negatives: str = ""  # list of clips without an event that join train: 'noisy178' reads noisy178.txt; none if empty


@dataclass(frozen=True, kw_only=True)
class OwnEventsConfig(RecordingSettings):
    """How a folder of videos with ``events.csv`` is read: cut into clips of ten seconds, 1 s a segment."""

    several: Literal["refuse", "split", "keep"] = field(
        default="refuse",
        metadata={
            "help": "events of several classes in a clip: refuse it; split it into one clip for each class, as AVE "
            "itself does; keep it, for heads that decide each segment by itself (ave.linear, ave.avel)"
        },
    )
    empty: Literal["keep", "leave_out"] = field(
        default="keep", metadata={"help": "clips without an event: keep them as background, or leave them out"}
    )
