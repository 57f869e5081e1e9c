"""Settings of the task, head and reader. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require
from avcore.specs import TEXT, ClipSettings
from avcore_avqa.words import ANSWERS, LENGTH, PAD, WORDS

__all__ = ["GROUNDING", "AVQATaskConfig", "AVSTHeadConfig", "GroundingHeadConfig", "MusicAVQADataConfig"]

GROUNDING = {"task_options.stage": "grounding", "data.each": "video", "data.videos": "real"}
"""What the head of the first stage brings: each real video once, and scores of matching."""


@dataclass(frozen=True, kw_only=True)
class AVQATaskConfig:
    """Question answering. ``words`` and ``answers`` decide the widths of the head, their order the indices."""

    words: tuple[str, ...] = WORDS  # words of questions in their order, <pad> first; the files bring their own
    answers: tuple[str, ...] = ANSWERS  # answers in their order; the files bring their own
    length: int = field(default=LENGTH, metadata={"help": "words of the longest question"})
    question: Literal["words", "text"] = field(
        default="words",
        metadata={"help": "what of a question is read: words of this list, or any text; head.question brings it"},
    )
    stage: Literal["answers", "grounding"] = field(
        default="answers",
        metadata={"help": "what is scored: answers, or the match of sound and pictures; the head brings it"},
    )
    letters: int = field(default=400, metadata={"help": "question=text: letters of the longest question"})

    def __post_init__(self) -> None:
        for key in ("words", "answers"):
            names = getattr(self, key)
            require(len(names) > 1 and len(set(names)) == len(names), key, list(names), "different names, two at least")
        require(self.words[0] == PAD, "words", self.words[0], f"{PAD} first")
        for key in ("length", "letters"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")


@dataclass(frozen=True, kw_only=True)
class GroundingHeadConfig:
    """What both stages share. A stream whose vectors have another width than ``width`` is brought to it by a map."""

    width: int = field(default=512, metadata={"help": "width of all vectors; DG-SCT takes 1536"})
    match_width: int = field(
        default=512,
        metadata={"help": "first hidden width of the matching of sound and picture, then a half, a quarter"},
    )
    audio_hidden: int = field(
        default=0, metadata={"help": "sound passes a map to this width first; 0 none, STG-CMA takes 128"}
    )
    negatives: Literal["plain", "parts"] = field(
        default="plain",
        metadata={"help": "pictures of another clip as the frozen stream has them (plain), or through the parts"},
    )

    def __post_init__(self) -> None:
        require(self.width >= 1, "width", self.width, "1 or more")
        require(self.match_width >= 4, "match_width", self.match_width, "4 or more")
        require(self.audio_hidden >= 0, "audio_hidden", self.audio_hidden, "0 or more")


@dataclass(frozen=True, kw_only=True)
class AVSTHeadConfig(GroundingHeadConfig):
    """AVST: what grounds and matches, and then answers."""

    heads: int = field(default=4, metadata={"help": "attention heads"})
    dropout: float = field(default=0.1, metadata={"help": "share dropped in the attention over seconds in training"})
    match_weight: float = field(default=0.5, metadata={"help": "weight of the loss of matching"})
    question: Literal["words", "text"] = field(
        default="words",
        metadata={
            "help": "the question passes AVST's LSTM, word by word, or a pretrained encoder of text (--text NAME)"
        },
    )

    def encoders(self) -> tuple[str, ...]:
        """The further streams that the head calls."""
        return (TEXT,) if self.question == "text" else ()

    def brings(self) -> dict[str, str]:
        """What follows from these settings for the task."""
        return {"task_options.question": "text"} if self.question == "text" else {}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.heads >= 1, "heads", self.heads, "1 or more")
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of width ({self.width})")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")
        require(self.match_weight >= 0, "match_weight", self.match_weight, "0 or more")


@dataclass(frozen=True, kw_only=True)
class MusicAVQADataConfig(ClipSettings):
    """How clips in MUSIC-AVQA's layout are read: ten pictures of a minute, LAVISH's windows of sound."""

    clip_seconds: float = 60.0  # length of a clip in s
    window_seconds: float = 1.95  # length of the piece of sound of each segment, s
    window_margin: float = 2.05  # the last piece starts this long before the end, s
    questions: Literal["json", "json_update"] = "json"  # as published, or as the authors corrected them later
    each: Literal["question", "video"] = "question"  # what makes a clip: with video each comes once
    videos: Literal["all", "real"] = "all"  # real: without those that the authors made of two
