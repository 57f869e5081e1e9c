"""Settings of the tasks, the head and the readers. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass
from typing import Literal

from avcore.specs import ClipSettings

__all__ = ["DECODER_STAGES", "AVSDataConfig", "AVSHeadConfig", "AVSTaskConfig", "MS3TaskConfig"]

DECODER_STAGES = 4
"""Maps that the decoder takes, from the largest to the smallest."""


@dataclass(frozen=True, kw_only=True)
class AVSHeadConfig:
    """The reference decoder behind linear maps from the backbone's taps.

    The taps are resized to 1/4, 1/8, 1/16 and 1/32 of ``size``. ``projected`` may be empty: then the taps go straight
    to ``width`` channels, without dilated convolutions (DG-SCT). ``skip_unsupervised`` changes neither loss nor
    gradients: a frame that never has a mask (S4: four of five) ends after TPAVI while training; ``logits`` then has
    T = 1.
    """

    size: int = 224  # side of the predicted masks, px, a multiple of 32
    width: int = 256  # channels of the decoder; TPAVI works at half of it
    projected: tuple[int, ...] = (64, 128, 320, 512)  # channels of the taps before the dilated convolutions, or none
    tpavi_stages: tuple[int, ...] = (0, 1, 2, 3)  # stages where sound meets picture, 0 the largest map
    audio_width: int = 128  # channels of the audio vector that TPAVI receives
    output_widths: tuple[int, int] = (128, 32)  # channels of the two hidden layers of the prediction
    skip_unsupervised: bool = False  # while training, do not decode frames that the task never supervises

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ValueError(f"size must be a positive multiple of 32, not {self.size}")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be a positive even number, not {self.width}")
        if self.projected and len(self.projected) != DECODER_STAGES:
            raise ValueError(f"projected must have {DECODER_STAGES} numbers or none, not {len(self.projected)}")
        if min(self.audio_width, *self.output_widths, *self.projected) < 1:
            raise ValueError("projected, audio_width and output_widths must be 1 or more")
        stages = set(self.tpavi_stages)
        if len(stages) < len(self.tpavi_stages) or not stages <= set(range(DECODER_STAGES)):
            raise ValueError(f"tpavi_stages must be different numbers from 0 to 3, not {self.tpavi_stages}")


@dataclass(frozen=True, kw_only=True)
class AVSTaskConfig:
    """Single-source segmentation, S4."""

    supervised_frames: Literal["first", "all"] = "first"  # frames of a clip that enter the loss, where labelled
    avm_weight: float = 0.0  # weight of the audio-visual matching loss; 0 leaves it out
    avm_normalise: bool = False  # bring both vectors of the matching loss to length 1 (the reference does not)
    paper_batch: int = 4  # protocol=paper: clips in a batch, on which the published scores depend

    def __post_init__(self) -> None:
        if self.avm_weight < 0:
            raise ValueError(f"avm_weight must be 0 or more, not {self.avm_weight}")
        if self.paper_batch < 1:
            raise ValueError(f"paper_batch must be 1 or more, not {self.paper_batch}")


@dataclass(frozen=True, kw_only=True)
class MS3TaskConfig(AVSTaskConfig):
    """Multi-source segmentation, MS3: every frame has a mask, and half of the matching loss is added."""

    supervised_frames: Literal["first", "all"] = "all"  # frames of a clip that enter the loss, where labelled
    avm_weight: float = 0.5  # weight of the audio-visual matching loss; 0 leaves it out


@dataclass(frozen=True, kw_only=True)
class AVSDataConfig(ClipSettings):
    """How clips in AVSBench's layout are read: a frame each second, LAVISH's windows of sound."""

    size: int = 224  # side to which masks are resized, px; equal to head.size
    foreground: Literal["white", "nonzero"] = "white"  # of a mask: white on black (index 255), or all that is not 0
    segments: int = 5  # frames of a clip, one each second
    clip_seconds: float = 5.0  # length of a clip, s
    window_seconds: float = 1.95  # length of the piece of sound of each frame, s
    window_margin: float = 2.05  # the last piece starts this long before the end, s

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size <= 0:
            raise ValueError(f"size must be above 0, not {self.size}")
