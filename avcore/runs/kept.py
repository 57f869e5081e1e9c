"""What a run reads of companions, and where it keeps what frozen streams make of them."""

import hashlib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

import avcore.backbones
from avcore.backbones import digest
from avcore.config import StreamConfig
from avcore.data.cache import default_location
from avcore.data.kept import Wanted
from avcore.model import AVModel
from avcore.specs import STREAMS, StreamLayout

__all__ = ["Companions"]

FORMAT = 1  # part of every name; to be raised whenever the same features come to be written otherwise

Read = Mapping[str, Mapping[str, Wanted | None]]


class Companions:
    """What the head of a model reads of companions, and what of it is kept beside the clip cache.

    Only what the head reads of the frozen streams alone and has named (`Head.companion_reads`) is kept.

    Args:
        model: with its weights, on its device.
    """

    def __init__(self, model: AVModel) -> None:
        self.model = model
        head = model.head
        self.reads = {
            name: {stream: tuple(fields) for stream, fields in head.companion_reads[name].items()}
            for name, way in head.companions.items()
            if way == "plain" and name in head.companion_reads
        }
        data = model.config.data
        self.folder = (default_location() if data.cache is None else Path(data.cache)) / "features"
        self._keys: dict[tuple[str, tuple[str, ...]], str] = {}

    def read(self, *, keep: Collection[str]) -> Read:
        """What loaders read of each companion: streams, each with where its features are kept if it is in ``keep``."""
        return {
            name: {
                stream: Wanted(folder=self.folder, key=self._key(stream, fields)) if stream in keep else None
                for stream, fields in reads.items()
                if stream in self.model.clips.streams
            }
            for name, reads in self.reads.items()
        }

    def told(self) -> list[str]:
        """A line for each stream whose features are kept: where, and how much a clip takes."""
        size = 2 if self.model.config.train.precision == "bf16" else 4
        return [
            f"what the frozen {stream} stream makes of '{name}' is kept in {self.folder}: up to "
            f"{_bytes_of_clip(self.model.clips[stream].layout, fields, size) / 2**20:.1f} MiB for a clip"
            for name, reads in self.reads.items()
            for stream, fields in reads.items()
            if stream in self.model.clips.streams
        ]

    def _key(self, stream: str, fields: tuple[str, ...]) -> str:
        """What all that features depend on beside pictures and sound hashes to; weights are hashed once."""
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


def _bytes_of_clip(layout: StreamLayout, fields: Sequence[str], size: int) -> int:
    """How much the features of one clip take, with numbers of ``size`` bytes."""
    last = layout.blocks[-1]
    maps = sum(stage.width * stage.grid[0] * stage.grid[1] for stage in layout.tapped)
    numbers = {"pooled": layout.width, "tokens": last.tokens * last.width, "raw_tokens": last.tokens * last.width}
    return size * layout.segments * sum({**numbers, "maps": maps}[field] for field in fields)


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
