"""Settings of DG-SCT's bottlenecks and heads; the defaults of the bottlenecks are those of event localisation (AVE)."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require
from avcore.specs import Need
from avcore_ave.config import TemporalSettings
from avcore_avs.config import AVSHeadConfig
from avcore_avvp.config import MGNHeadConfig
from avcore_fewshot.config import WordsSettings

__all__ = [
    "AVEHeadSettings",
    "AVSHeadSettings",
    "AVVPHeadSettings",
    "DGSCTSettings",
    "FewShotHeadSettings",
    "dgsct_needs",
]


@dataclass(frozen=True, kw_only=True)
class DGSCTSettings:
    """The bottlenecks; every pair of blocks has four, two for each stream."""

    reduction: int = field(default=8, metadata={"help": "r, the hidden width is the block's width divided by this"})
    groups: int = field(default=2, metadata={"help": "g, groups of the two maps of the bottleneck"})
    tokens: int = field(default=32, metadata={"help": "n, latent tokens through which the other stream is read"})
    latents: Literal["uniform", "zeros"] = field(
        default="uniform", metadata={"help": "initial values of the latent tokens: uniform from 0 to 1 (AVE), or zero"}
    )
    batch_norm: bool = field(default=True, metadata={"help": "batch normalisation after each map of the bottleneck"})
    audio_gate: bool = field(
        default=True, metadata={"help": "a gate, zero at first, on audio's bottlenecks too; visual ones always have it"}
    )
    before_norm: bool = field(
        default=True, metadata={"help": "LN_pre, before the bottleneck; order=avs counts it as unused"}
    )
    post_norm: bool = field(default=True, metadata={"help": "LN_post, after the bottleneck"})
    order: Literal["ave", "avs"] = field(
        default="ave",
        metadata={"help": "ave (AVE, AVVP, AVQA code): LN_pre; LN_post, then gate. avs (AVS code): gate, then LN_post"},
    )
    align: Literal["tokens_then_width", "resize"] = field(
        default="tokens_then_width",
        metadata={
            "help": "how the other stream's tokens come to this one's number and width: a learned map over the "
            "token axis, then a linear map (AVE, AVVP, AVQA code); or the linear map, then the grid resized (AVS code)"
        },
    )
    alpha: float = field(default=0.3, metadata={"help": "weight of the channel gates M_c"})
    beta: float = field(default=0.05, metadata={"help": "weight of the token gates M_s"})
    residual: Literal["one_minus_alpha", "one"] = field(
        default="one_minus_alpha",
        metadata={"help": "what stands beside the gates: 1 - alpha (the code), or 1 (the paper)"},
    )
    temporal_gate: bool = field(
        default=False, metadata={"help": "a gate G of each segment within the bottleneck (few- and zero-shot code)"}
    )
    gamma: float = field(default=0.05, metadata={"help": "weight of G; nothing without temporal_gate"})
    placement: Literal["parallel", "serial"] = field(
        default="parallel",
        metadata={
            "help": "beside attention and MLP (full-data code), or on the tokens after each of them (few- and "
            "zero-shot code; needs plan.atomic_audio=false and pool=none)"
        },
    )
    pool: Literal["both", "audio", "none"] = field(
        default="both",
        metadata={"help": "streams whose pooled vectors are weighted by the last maps S (AVS, AVQA: audio alone)"},
    )

    def __post_init__(self) -> None:
        for key in ("reduction", "groups", "tokens"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        for key in ("alpha", "beta", "gamma"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(
            self.placement == "parallel" or self.pool == "none",
            "pool",
            self.pool,
            "'none' with placement=serial, which offers no maps",
        )


def dgsct_needs(settings: DGSCTSettings) -> frozenset[Need]:
    """Both streams, of any widths and numbers of tokens."""
    return frozenset({Need.BOTH_STREAMS})


@dataclass(frozen=True, kw_only=True)
class AVEHeadSettings:
    """Temporal interaction, and localisation as in CMBS."""

    visual_width: int = field(default=512, metadata={"help": "width to which pooled pictures are mapped at first"})
    audio_width: int = field(default=128, metadata={"help": "width to which pooled sound is mapped at first"})
    input_dropout: float = field(default=0.2, metadata={"help": "share of the mapped pictures dropped in training"})
    temporal: TemporalSettings = field(
        default_factory=TemporalSettings, metadata={"help": "the transformer over the segments"}
    )
    gamma: float = field(default=0.1, metadata={"help": "weight of the gate of one stream on the other"})
    top: int = field(default=4, metadata={"help": "segments with the highest scores that speak for the clip"})
    score_weight: float = field(default=0.3, metadata={"help": "weight of the clip's score in the class of the event"})

    def __post_init__(self) -> None:
        for key in ("visual_width", "audio_width", "top"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(0 <= self.input_dropout < 1, "input_dropout", self.input_dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class AVSHeadSettings(AVSHeadConfig):
    """AVSBench's decoder fed straight from the backbone's taps, with gates of the segments at each of the four scales.

    ``gamma`` weighs the gates; ``input_dropout`` is the share of each scale's mean vector dropped in training, for
    which the sources name AVE's value only.
    """

    projected: tuple[int, ...] = ()  # channels of the taps before the dilated convolutions; none here
    temporal: TemporalSettings = field(
        default_factory=TemporalSettings, metadata={"help": "the transformer over the segments"}
    )
    gamma: float = field(default=0.05, metadata={"help": "weight of the gate of one stream on the other (MS3: 0.1)"})
    input_dropout: float = field(
        default=0.2, metadata={"help": "share of the scales' mean vectors dropped in training"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.tpavi_stages) > 0,
            "tpavi_stages",
            self.tpavi_stages,
            "one or more of 0 to 3, stages where this head lets sound meet pictures, such as head.tpavi_stages=[3]; "
            "a decoder that does not listen is head.name=avs.decoder",
        )
        require(0 <= self.input_dropout < 1, "input_dropout", self.input_dropout, "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class AVVPHeadSettings(MGNHeadConfig):
    """MGN, with a gate of the segments from sound on pictures before it."""

    temporal: TemporalSettings = field(
        default_factory=lambda: TemporalSettings(width=64),
        metadata={"help": "the transformer over the segments"},
    )
    gamma: float = field(default=0.05, metadata={"help": "weight of the gate of sound on pictures"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width % 2 == 0, "width", self.width, "even")
        require(self.gamma >= 0, "gamma", self.gamma, "0 or more")


@dataclass(frozen=True, kw_only=True)
class FewShotHeadSettings(WordsSettings):
    """Cosines with words behind adapters, and losses that change after some epochs."""

    join: Literal["sum", "weighted"] = field(
        default="sum",
        metadata={"help": "sum: 2 l_v + 2 l_a (few-shot); weighted: w l_v + (1 - w) l_a (pre-training, zero-shot)"},
    )
    background: bool = field(default=True, metadata={"help": "background, where a task has it, is a word like others"})
    reduction: int = field(default=4, metadata={"help": "the adapters are as much narrower within"})
    ratio: float = field(default=0.2, metadata={"help": "share of what the adapters make; the rest is what they got"})
    first_epochs: int = field(default=10, metadata={"help": "epochs with first_weight"})
    first_weight: float = field(default=500.0, metadata={"help": "weight of the cross-entropy in them"})
    weight: float = field(default=5.0, metadata={"help": "weight of the cross-entropy afterwards"})
    audio_to_visual: float = field(default=2.0, metadata={"help": "weight of the contrast of sound with pictures"})
    visual_to_audio: float = field(default=1.5, metadata={"help": "weight of that of pictures with sound"})
    balance: Literal["fixed", "losses"] = field(
        default="fixed",
        metadata={"help": "fixed: those weights. losses: each term L by L / (epoch + sum of all) + 1 / epoch (clips)"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction >= 1, "reduction", self.reduction, "1 or more")
        require(0 <= self.ratio <= 1, "ratio", self.ratio, "from 0 to 1")
        for key in ("first_epochs", "first_weight", "weight", "audio_to_visual", "visual_to_audio"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
