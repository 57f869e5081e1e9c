"""Settings of the backbones; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "ASTSettings",
    "EATSettings",
    "HTSATSettings",
    "PictureSettings",
    "SoundSettings",
    "SwinSettings",
    "ViTSettings",
]


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """How one stream uses a backbone made for pictures. None takes what the weights were trained with."""

    weights: str = field(default="hub", metadata={"help": "hub (download by name), random, or the path of a file"})
    size: int | None = field(
        default=None, metadata={"help": "side of the pictures in px; null takes the model's. Set it where weights are"}
    )
    image_mean: tuple[float, float, float] | None = field(
        default=None, metadata={"help": "mean of each colour after value / 255"}
    )
    image_std: tuple[float, float, float] | None = field(
        default=None, metadata={"help": "deviation of each colour after value / 255"}
    )
    mel_bins: int | None = field(
        default=None, metadata={"help": "bands of the log-mel picture (vit 128; swin, swinv2: the size)"}
    )
    shift_ms: float | None = field(
        default=None, metadata={"help": "step of the log-mel picture in ms (vit 10; swin, swinv2: size steps in 1 s)"}
    )
    frames: int | None = field(
        default=None, metadata={"help": "rows of the log-mel picture (vit 102; swin, swinv2: the size)"}
    )
    fbank_mean: float | None = field(
        default=None, metadata={"help": "subtracted from the log-mel picture (-4.1426; swinv2 -4.9848)"}
    )
    fbank_std: float | None = field(
        default=None, metadata={"help": "the log-mel picture is divided by twice this (3.2001; swinv2 3.70798)"}
    )
    pad_first: bool | None = field(
        default=None, metadata={"help": "rows of zeros that fill the log-mel picture up are normalised too (false)"}
    )


@dataclass(frozen=True, kw_only=True)
class ViTSettings(PictureSettings):
    """How one stream uses a Vision Transformer."""

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
    projection: bool = field(
        default=False,
        metadata={"help": "load a CLIP's map into the space that it shares with text; it counts as frozen weights"},
    )


@dataclass(frozen=True, kw_only=True)
class SwinSettings(PictureSettings):
    """How one stream uses a Swin Transformer, of version 1 or 2."""

    patch: Literal["rgb_repeat", "one_channel"] = field(
        default="rgb_repeat",
        metadata={
            "help": "sound through the picture's patch kernel: three equal channels (LAVISH), or the mean of the "
            "kernel over RGB (STG-CMA)"
        },
    )
    attention: Literal["sdpa", "explicit"] = field(
        default="sdpa",
        metadata={"help": "fused attention, or timm's order of operations, which is slower and equals timm bit by bit"},
    )


@dataclass(frozen=True, kw_only=True)
class SoundSettings:
    """How the audio stream uses a backbone made for sound. Its weights come from a file: there is nothing to fetch."""

    weights: str | None = field(
        default=None, metadata={"help": "path of the published checkpoint, or random; it must be given"}
    )


@dataclass(frozen=True, kw_only=True)
class HTSATSettings(SoundSettings):
    """How the audio stream uses an HTS-AT. None takes what the weights were trained with."""

    repeat_seconds: float | None = field(
        default=None,
        metadata={"help": "a segment's sound is repeated up to this length in s (10); 0 leaves it as it is"},
    )
    attention: Literal["sdpa", "explicit"] = field(
        default="sdpa",
        metadata={"help": "fused attention, or timm's order of operations, which is slower and equals timm bit by bit"},
    )


@dataclass(frozen=True, kw_only=True)
class ASTSettings(SoundSettings):
    """How the audio stream uses an Audio Spectrogram Transformer. None takes what the weights were trained with."""

    frames: int | None = field(
        default=None, metadata={"help": "rows of the log-mel picture, one every 10 ms (1024; a second of sound has 98)"}
    )
    fbank_mean: float | None = field(
        default=None, metadata={"help": "subtracted from the log-mel picture (-4.2677393)"}
    )
    fbank_std: float | None = field(
        default=None, metadata={"help": "the log-mel picture is divided by twice this (4.5689974)"}
    )


@dataclass(frozen=True, kw_only=True)
class EATSettings(SoundSettings):
    """How the audio stream uses an EAT or SSLAM. None takes what the weights were trained with."""

    frames: int | None = field(
        default=None,
        metadata={"help": "rows of the log-mel picture, one every 10 ms (1024, and no more; 1 s of sound has 98)"},
    )
    fbank_mean: float | None = field(default=None, metadata={"help": "subtracted from the log-mel picture (-4.268)"})
    fbank_std: float | None = field(
        default=None, metadata={"help": "the log-mel picture is divided by twice this (4.569)"}
    )
