"""Transforms of pictures and of sound, made from data: what ``train.augment`` lists.

A list entry is the name of a transform with its parameters, ``{name: RandomHorizontalFlip, p: 0.5}``. Only names that
stand here are taken; torchvision and torchaudio are imported when a list is not empty.
"""

import contextlib
import inspect
import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from avcore import compat
from avcore.config.leaves import Layer, Leaf
from avcore.config.settings import coerce, expected, members, require
from avcore.errors import ConfigError, did_you_mean

__all__ = ["MOVING", "POLICIES", "AugmentConfig", "Entry", "Listed", "MixConfig", "listed_transforms"]

Entry = Mapping[str, Any]

MOVING = frozenset(
    {
        "CenterCrop",
        "ElasticTransform",
        "Pad",
        "RandomAffine",
        "RandomCrop",
        "RandomHorizontalFlip",
        "RandomPerspective",
        "RandomResize",
        "RandomResizedCrop",
        "RandomRotation",
        "RandomShortestSize",
        "RandomVerticalFlip",
        "RandomZoomOut",
        "Resize",
        "ScaleJitter",
    }
)
"""torchvision's transforms of pictures that move pixels, and those of masks with them."""
SHADING = frozenset(
    {
        "ColorJitter",
        "GaussianBlur",
        "GaussianNoise",
        "Grayscale",
        "RandomAdjustSharpness",
        "RandomAutocontrast",
        "RandomChannelPermutation",
        "RandomEqualize",
        "RandomErasing",
        "RandomGrayscale",
        "RandomInvert",
        "RandomPhotometricDistort",
        "RandomPosterize",
        "RandomSolarize",
    }
)
"""Those that leave every pixel where it is."""
POLICIES = frozenset({"AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide"})
"""Those that draw among both kinds, and cannot move masks."""
NESTING = frozenset({"RandomApply", "RandomChoice", "RandomOrder"})
"""Those that hold a list of others, ``transforms``."""
SOUND = frozenset({"FrequencyMasking", "SpecAugment", "TimeMasking"})
"""torchaudio's transforms of log-mel pictures."""
PICTURES = MOVING | SHADING | POLICIES | NESTING

_ANY_SIZE = (224, 224)
_TRIED = (2, 64, 96)
"""(T, F, frames) of the silence that transforms of sound are tried on: they check nothing when they are made."""


@dataclass(frozen=True)
class Listed:
    """A transform and the entry that it was made from.

    Attributes:
        at: where the entry stands, such as ``visual[0]``.
        names: of it, and of the transforms that it holds.
        module: the transform.
    """

    at: str
    names: frozenset[str]
    module: Any


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Sound mixed with that of another clip of the split, r x + (1 - r) y; pictures and targets stay."""

    p: float = 0.0  # share of the clips whose sound is mixed, drawn in each epoch; 0 mixes none
    alpha: float = 10.0  # r is drawn from Beta(alpha, alpha), anew for each segment

    def __post_init__(self) -> None:
        require(0 <= self.p <= 1, "p", self.p, "from 0 to 1")
        require(0 < self.alpha < math.inf, "alpha", self.alpha, "above 0 and finite")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to pictures and sound in training, with one draw for each clip and epoch.

    Attributes:
        visual: transforms of torchvision.transforms.v2, one after the other: {name: RandomHorizontalFlip, p: 0.5}
        audio: transforms of torchaudio, of log-mel pictures: {name: FrequencyMasking, freq_mask_param: 24}
        mix: sound mixed with another clip's
    """

    visual: tuple[Mapping[str, Any], ...] = ()
    audio: tuple[Mapping[str, Any], ...] = ()
    mix: MixConfig = field(default_factory=MixConfig)

    def __post_init__(self) -> None:
        listed_transforms("visual", self.visual)
        listed_transforms("audio", self.audio)


def listed_transforms(
    stream: Literal["visual", "audio"],
    entries: Sequence[Entry],
    *,
    size: tuple[int, int] = _ANY_SIZE,
    certain: bool = False,
) -> list[Listed]:
    """The transforms of a list.

    Args:
        stream: whose.
        entries: each a ``name`` and parameters.
        size: rows and columns, where a transform takes a ``size`` and the entry gives none.
        certain: those that happen with probability ``p`` happen always: to try them.

    Raises:
        ValueError: an unknown name or parameter, or a value that does not fit; begins with the place,
            ``visual[0].p``.
    """
    if not entries:
        return []
    compat.install()
    import torch

    # Models are built on the meta device, where tensors that a module makes at its first import would stay.
    with torch.device("cpu"):
        if stream == "visual":
            from torchvision.transforms import v2 as offered
        else:
            from torchaudio import transforms as offered
        made = _Maker(offered, PICTURES if stream == "visual" else SOUND, size, certain).all(stream, entries)
        if stream == "audio":
            _try(made, torch.zeros(_TRIED))
    return made


@dataclass(frozen=True)
class _Maker:
    offered: Any
    allowed: frozenset[str]
    size: tuple[int, int]
    certain: bool

    def all(self, at: str, entries: Sequence[Entry]) -> list[Listed]:
        return [self.one(f"{at}[{index}]", entry) for index, entry in enumerate(entries)]

    def one(self, at: str, entry: Entry) -> Listed:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):
            raise ValueError(f"{at} must be {{name: NAME}} with its parameters, not {entry!r}")
        if name not in self.allowed:
            raise ValueError(
                f"{at}.name: '{name}' is none of the transforms that may be listed.{did_you_mean(name, self.allowed)} "
                f"They are {', '.join(sorted(self.allowed))}"
            )
        cls = getattr(self.offered, name)
        taken = {key: one for key, one in inspect.signature(cls).parameters.items() if key != "inplace"}
        given = {key: value for key, value in entry.items() if key != "name"}
        for key in given:
            if key not in taken:
                near = did_you_mean(key, taken)
                raise ValueError(f"{at}.{key}: {name} has no parameter '{key}'.{near} It takes {', '.join(taken)}")
        if "size" in taken:
            given.setdefault("size", self.size)
        lacking = [key for key, one in taken.items() if one.default is one.empty and key not in given]
        if lacking:
            raise ValueError(f"{at}: {name} needs {' and '.join(lacking)}")
        kinds = _kinds(cls)
        for key, value in given.items():
            given[key] = self._value(f"{at}.{key}", kinds.get(key, Any), value)
        names = {name}
        if name in NESTING:
            inner = self.all(f"{at}.transforms", given["transforms"])
            names |= {name for one in inner for name in one.names}
            given["transforms"] = [one.module for one in inner]
        if self.certain and "p" in taken and name != "RandomChoice":
            given["p"] = 1.0
        if "fill" in taken:
            from torchvision.tv_tensors import Mask

            # What is listed is for pictures; masks are shifted so that 0 is what their task wants there.
            given["fill"] = {Mask: 0, "others": given.get("fill", taken["fill"].default)}
        return Listed(at, frozenset(names), _made(cls, given, at))

    def _value(self, key: str, kind: Any, value: Any) -> Any:
        """A plain value in the type of the parameter; a list is left to the transform, whose annotations are narrow."""
        if key.endswith(".transforms"):
            require(isinstance(value, list | tuple) and bool(value), key, value, "a list of transforms")
        choices = [member for member in members(kind) if isinstance(member, type) and issubclass(member, Enum)]
        kind = choices[0] if choices else kind  # of InterpolationMode | str | int the names are meant
        if isinstance(value, list | tuple | Mapping) or not all(_is_plain(member) for member in members(kind)):
            return value
        try:
            fitting = coerce(kind, Leaf(value, Layer("")), key)
        except ConfigError:
            raise ValueError(f"{key} must be {expected(kind)}, not {value!r}") from None
        if self.allowed is SOUND:
            require(fitting >= 0, key, value, "0 or more")
        return fitting


def _kinds(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        return {}


def _is_plain(kind: Any) -> bool:
    return kind in (bool, int, float, str, type(None)) or (isinstance(kind, type) and issubclass(kind, Enum))


def _made(cls: type, given: Mapping[str, Any], at: str) -> Any:
    try:
        return cls(**given)
    except Exception as error:
        raise ValueError(f"{at}{_culprit(cls, given, str(error))} does not fit {cls.__name__}: {error}") from error


def _culprit(cls: type, given: Mapping[str, Any], message: str) -> str:
    """``.key`` of the parameter that the message names or without which all is well; empty for the whole entry."""
    for key in given:
        if len(given) == 1 or re.match(rf"`?{key}\b", message):
            return f".{key}"
    for key in given:
        with contextlib.suppress(Exception):
            cls(**{other: value for other, value in given.items() if other != key})
            return f".{key}"
    return ""


def _try(listed: Sequence[Listed], example: Any) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        for one in listed:
            try:
                one.module(example)
            except Exception as error:
                raise ValueError(f"{one.at} fails on log-mel pictures: {error}") from error
