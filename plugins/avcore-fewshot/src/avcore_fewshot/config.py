"""Settings of the tasks, the head and the readers. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require
from avcore.specs import ClipSettings, RecordingSettings
from avcore_avar.config import KineticsSoundsConfig, ListedConfig
from avcore_ave.config import AVEDataConfig, OwnEventsConfig
from avcore_avvp.config import LLPDataConfig

__all__ = [
    "PLACE",
    "ContextSettings",
    "FewAVEConfig",
    "FewKineticsConfig",
    "FewLLPConfig",
    "FewListedConfig",
    "FewOwnEventsConfig",
    "FewRecordingsConfig",
    "Shots",
    "WordsHeadConfig",
    "WordsSettings",
    "WordsTaskConfig",
]

PLACE = "<class>"
"""Stands in a template where the name of a class belongs."""


@dataclass(frozen=True, kw_only=True)
class WordsTaskConfig:
    """Any words. ``avcore predict --zero-shot`` gives them."""

    classes: tuple[str, ...] = field(default=("speech", "music"), metadata={"help": "the names, two at least"})

    def __post_init__(self) -> None:
        different = len(self.classes) > 1 and len(set(self.classes)) == len(self.classes)
        require(different, "classes", list(self.classes), "different names, two at least")


@dataclass(frozen=True, kw_only=True)
class WordsSettings:
    """How classes become sentences, and how similar is similar: what all heads that compare with words know."""

    visual_templates: tuple[str, ...] = field(
        default=(f"a photo of a {PLACE}",),
        metadata={"help": f"sentences for pictures, {PLACE} is the name; of several the mean vector counts"},
    )
    audio_templates: tuple[str, ...] = field(
        default=(f"The sounds of {PLACE}",), metadata={"help": "the same for sound"}
    )
    visual_scale: float = field(
        default=100.0, metadata={"help": "logits of pictures are this times the cosine (CLIP's)"}
    )
    audio_scale: float = field(
        default=100.0, metadata={"help": "the same of sound; no source says what CLAP's has become in training"}
    )

    def __post_init__(self) -> None:
        for key in ("visual_templates", "audio_templates"):
            templates = getattr(self, key)
            whole = bool(templates) and all(PLACE in one for one in templates)
            require(whole, key, list(templates), f"one sentence at least, each with {PLACE} in it")
        for key in ("visual_scale", "audio_scale"):
            require(getattr(self, key) > 0, key, getattr(self, key), "above 0")


@dataclass(frozen=True, kw_only=True)
class WordsHeadConfig(WordsSettings):
    """Cosines with words, and how those of pictures and sound are joined."""

    join: Literal["mean", "sum", "weighted"] = field(
        default="mean",
        metadata={
            "help": "mean of both probabilities; sum: 2 l_v + 2 l_a; weighted: w l_v + (1 - w) l_a with "
            "w = l_v / (l_v + l_a)"
        },
    )
    background: bool = field(
        default=False,
        metadata={"help": "background, where a task has it, is a word like others; without, no segment is called so"},
    )


@dataclass(frozen=True, kw_only=True)
class ContextSettings:
    """Vectors that are added to the words before the class: of ``a photo of a <class>`` all four."""

    tokens: int = field(default=4, metadata={"help": "vectors (4; 16 is CoOp's largest): the words before the class"})

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "tokens", self.tokens, "1 or more")


@dataclass(frozen=True, kw_only=True)
class Shots(ClipSettings):
    """Which training clips are left."""

    shots: int = field(default=16, metadata={"help": "k, clips of each class in train", "option": "N"})
    choose: Literal["first", "seed"] = field(
        default="seed",
        metadata={"help": "k drawn by shot_seed; protocol=paper: the first k of each class in file order (DG-SCT)"},
    )
    shot_seed: int = field(default=0, metadata={"help": "of choose=seed"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots < 1:
            raise ValueError(
                f"shots must be 1 or more, not {self.shots}: what needs no clips to learn from is avcore eval "
                "--zero-shot, with the same --task and --data"
            )


@dataclass(frozen=True, kw_only=True)
class FewAVEConfig(Shots, AVEDataConfig):
    """AVE, k clips of each class in train."""


@dataclass(frozen=True, kw_only=True)
class FewOwnEventsConfig(Shots, OwnEventsConfig):
    """Own videos with events, k clips of each class in train."""


@dataclass(frozen=True, kw_only=True)
class FewLLPConfig(Shots, LLPDataConfig):
    """LLP, k clips of each class in train."""


@dataclass(frozen=True, kw_only=True)
class FewKineticsConfig(Shots, KineticsSoundsConfig):
    """Kinetics-Sounds, k clips of each class in train."""


@dataclass(frozen=True, kw_only=True)
class FewListedConfig(Shots, ListedConfig):
    """VGGSound, k clips of each class in train."""


@dataclass(frozen=True, kw_only=True)
class FewRecordingsConfig(Shots, RecordingSettings):
    """Own videos in folders, k clips of each class in train."""
