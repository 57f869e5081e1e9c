"""Settings of the backbones; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["ViTSettings"]


@dataclass(frozen=True, kw_only=True)
class ViTSettings:
    """How one stream uses a Vision Transformer. None takes what the weights were trained with."""

    weights: str = field(default="hub", metadata={"help": "hub (download by name), random, or the path of a file"})
    image_mean: tuple[float, float, float] | None = field(
        default=None, metadata={"help": "mean of each colour after value / 255"}
    )
    image_std: tuple[float, float, float] | None = field(
        default=None, metadata={"help": "deviation of each colour after value / 255"}
    )
    mel_bins: int | None = field(default=None, metadata={"help": "bands of the log-mel picture (128)"})
    shift_ms: float | None = field(default=None, metadata={"help": "step of the log-mel picture in ms (10)"})
    frames: int | None = field(default=None, metadata={"help": "rows of the log-mel picture (102)"})
    fbank_mean: float | None = field(default=None, metadata={"help": "subtracted from the log-mel picture (-4.1426)"})
    fbank_std: float | None = field(
        default=None, metadata={"help": "the log-mel picture is divided by twice this (3.2001)"}
    )
    patch: Literal["rgb_repeat", "one_channel"] = field(
        default="rgb_repeat",
        metadata={
            "help": "sound through the picture's patch kernel: three equal channels, or the kernel summed over RGB"
        },
    )
    position: Literal["interpolate", "crop", "crop_frequency_first"] = field(
        default="interpolate",
        metadata={
            "help": "position vectors of sound: linear along the token axis, or the middle of the picture's grid; "
            "frequency first lays that out across the tokens, as STG-CMA's code does"
        },
    )
