"""What frozen streams make of clips and of companions: what of it a run keeps, and where."""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

import avcore.backbones
from avcore.backbones import digest
from avcore.config import StreamConfig
from avcore.data.cache import default_location
from avcore.data.changes import OWN, Change
from avcore.data.kept import Wanted
from avcore.errors import ConfigError
from avcore.model import AVModel
from avcore.specs import STREAMS
from avcore.states import parameter_groups

__all__ = ["KeptFeatures", "bytes_of_clip", "size_in_words"]

FORMAT = 2  # part of every name; to be raised whenever the same features come to be written otherwise

HEADER = 160  # bytes of a file beside its numbers, for each field
BLOCK = 4096  # bytes that a file takes at least
FREE = 0.25  # share of the free disk that ``auto`` may take

Read = Mapping[str, Mapping[str, Wanted | None]]


class KeptFeatures:
    """What is kept, beside the clip cache, of what frozen streams make.

    Of the clips themselves what the head reads (`AVModel.reads`), where no part acts on pictures or sound and training
    changes neither; of companions what the head reads of the frozen streams alone and has named
    (`Head.companion_reads`).

    Args:
        model: with its weights, on its device.
        clips: counts those that a run reads, in all of its splits.

    Raises:
        AVCoreError: ``data.cache_features=true``, where parts act or training augments, and there are no companions.
    """

    def __init__(self, model: AVModel, clips: Callable[[], int]) -> None:
        self.model = model
        self.clips = clips
        head = model.head
        self.reads = {
            name: {stream: tuple(fields) for stream, fields in head.companion_reads[name].items()}
            for name, way in head.companions.items()
            if way == "plain" and name in head.companion_reads
        }
        data = model.config.data
        self.folder = (default_location() if data.cache is None else Path(data.cache)) / "features"
        self._keys: dict[tuple[str, tuple[str, ...]], str] = {}
        self.streams = self._streams()

    def of_clips(self, change: Change) -> dict[str, Wanted]:
        """Where the features of the clips are kept, by stream; not of what is no clip's."""
        made_up = {*change.muted, *change.dropped, *(("audio",) if change.sound == "noise" else ())}
        return {
            stream: Wanted(folder=self.folder, key=self._key(stream, tuple(self.model.reads[stream])))
            for stream in self.streams
            if stream not in made_up
        }

    def of_companions(self, change: Change, *, train: bool) -> Read:
        """What loaders read of each companion: streams, each with where its features are kept, or None."""
        changed = _augmented(self.model) if train else ()
        keep = self.model.config.data.cache_features is True and change == OWN
        return {
            name: {
                stream: Wanted(folder=self.folder, key=self._key(stream, fields))
                if keep and stream not in changed
                else None
                for stream, fields in reads.items()
                if stream in self.model.clips.streams
            }
            for name, reads in self.reads.items()
        }

    def told(self) -> list[str]:
        """A line for whatever is kept: where, and how much a clip takes."""
        lines = []
        if self.streams:
            each, clips = self._bytes_of_clip(self.streams), self.clips()
            who = f"{' and '.join(self.streams)} stream{'s make' if self.streams[1:] else ' makes'}"
            lines.append(
                f"what the frozen {who} of a clip is kept in {self.folder}: {size_in_words(each)} for a clip, "
                f"{size_in_words(each * clips)} for all {clips} (data.cache_features=false does without)"
            )
        if self.model.config.data.cache_features is True:
            lines += [
                f"what the frozen {stream} stream makes of '{name}' is kept in {self.folder}: up to "
                f"{size_in_words(bytes_of_clip(self.model, stream, fields))} for a clip"
                for name, reads in self.reads.items()
                for stream, fields in reads.items()
                if stream in self.model.clips.streams
            ]
        return lines

    def _streams(self) -> tuple[str, ...]:
        """The streams whose features of the clips are kept."""
        config = self.model.config
        if config.data.cache_features is False or next(self.model.clips.parameters()).is_meta:
            return ()
        asked = config.data.cache_features is True
        if refusal := _acted_on(self.model) or _changed(self.model):
            if asked and not self.model.head.companions:
                raise ConfigError(f"data.cache_features=true: {refusal}")
            if _acted_on(self.model):
                return ()
        kept = tuple(stream for stream in self.model.clips if stream not in _augmented(self.model))
        return kept if asked or self._pays(kept) else ()

    def _pays(self, streams: Sequence[str]) -> bool:
        """Whether something trains on features for more than an epoch, and they leave most of the disk free."""
        if self.model.config.train.epochs < 2 or not any(parameter_groups(self.model).values()):
            return False
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        return self._bytes_of_clip(streams) * self.clips() <= FREE * shutil.disk_usage(there).free

    def _bytes_of_clip(self, streams: Sequence[str]) -> int:
        return sum(bytes_of_clip(self.model, stream, self.model.reads[stream]) for stream in streams)

    def _key(self, stream: str, fields: tuple[str, ...]) -> str:
        """What all that features depend on beside pictures and sound hashes to; weights are hashed once."""
        fields = tuple(sorted(fields))
        if (stream, fields) not in self._keys:
            model, own = self.model, self.model.clips[stream]
            told = [
                FORMAT,
                stream,
                fields,
                digest(own.tower),
                [_settings(getattr(model.config, name)) for name in STREAMS],
                repr((own.layout, own.tower.geometry, model.windows if stream == "audio" else None)),
                model.config.train.precision,
                next(own.tower.parameters()).device.type,
                torch.__version__,
                _code(own),
            ]
            self._keys[stream, fields] = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()
        return self._keys[stream, fields]


def bytes_of_clip(model: AVModel, stream: str, fields: Sequence[str]) -> int:
    """How much of the disk the features of one clip take: a file for each segment, in whole blocks."""
    layout, size = model.clips[stream].layout, 2 if model.config.train.precision == "bf16" else 4
    last = layout.blocks[-1]
    maps = sum(stage.width * stage.grid[0] * stage.grid[1] for stage in layout.tapped)
    numbers = {"pooled": layout.width, "tokens": last.tokens * last.width, "raw_tokens": last.tokens * last.width}
    file = size * sum({**numbers, "maps": maps}[field] for field in fields) + HEADER * len(fields)
    return layout.segments * math.ceil(file / BLOCK) * BLOCK


def size_in_words(count: int) -> str:
    """A number of bytes, for a person."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else f"{count / 2**10:.0f} KiB"


def _acted_on(model: AVModel) -> str:
    """Which part acts on pictures or sound, or reads on their way; empty where none does."""
    for part in model.clips.instances:
        return (
            f"part '{part.name}' acts on the {' and '.join(part.streams)} stream{'s' if part.streams[1:] else ''} or "
            "reads within, which therefore must run in each step: nothing can be kept. Leave the part out, or write "
            "data.cache_features=auto."
        )
    return ""


def _changed(model: AVModel) -> str:
    """Which setting gives a stream other pictures or sound in each epoch; empty where none does."""
    for stream, key in _augmented(model).items():
        nothing = "null" if key == "data.drop" else "0" if key.endswith(".p") else "[]"
        return (
            f"{key} changes what the {stream} stream is given in each epoch, so that what it makes of a clip cannot be "
            f"kept. Leave that out (--set {key}={nothing}), or write "
            "data.cache_features=auto."
        )
    return ""


def _augmented(model: AVModel) -> dict[str, str]:
    """The streams that training augments or drops, each with the setting that does."""
    augment = model.config.train.augment
    audio = "train.augment.audio" if augment.audio else "train.augment.mix.p" if augment.mix.p > 0 else ""
    found = {"visual": "train.augment.visual" if augment.visual else "", "audio": audio}
    found |= dict.fromkeys(model.config.data.dropped, "data.drop")
    return {stream: key for stream, key in found.items() if key and stream in model.clips.streams}


def _settings(stream: StreamConfig) -> dict[str, Any]:
    """All of a stream but the path of its weights, which their digest stands for."""
    settings: Any = stream.settings
    told = asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else {}
    return {**told, "weights": None, "backbone": stream.backbone}


def _code(stream: torch.nn.Module) -> str:
    """A digest of the source of everything that a stream is made of, but of torch, whose version stands for it."""
    names = {type(module).__module__ for module in stream.modules()}
    names |= {name for name in sys.modules if name == "avcore.streams" or name.startswith(avcore.backbones.__name__)}
    made = hashlib.sha256()
    for name in sorted(name for name in names if name.partition(".")[0] != "torch"):
        package, file = sys.modules.get(name.partition(".")[0]), getattr(sys.modules.get(name), "__file__", None)
        made.update(f"{name} {getattr(package, '__version__', '')}\n".encode())
        made.update(Path(file).read_bytes() if file else b"")
    return made.hexdigest()
