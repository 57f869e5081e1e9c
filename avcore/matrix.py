"""Which prompts and fusions run together on which backbones, and why the others do not.

Layouts, needs and ``finishes`` decide, and what the parts themselves refuse when their layers are made for a layout:
no weights, no forward, default settings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

from avcore.assemble import streams_of
from avcore.config import StreamConfig
from avcore.errors import AVCoreError
from avcore.mounting import ListedPart, StreamSet, check_together, copy_backbone_parts, mount_part
from avcore.registry import PartKind, Registry, Table
from avcore.specs import STREAMS, BackboneSpec

__all__ = ["SHARED", "Combination", "backbone_pairs", "combinations", "fusion_sets", "prompt_sets"]

SHARED = "shared"
"""The name of sound's backbone where it shares the pictures'."""
SEGMENTS = 2
"""T of the layouts; what a part refuses does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One row: a set of prompts and one of fusions, as ``--prompts`` and ``--fusion`` take them, on two backbones.

    ``reason`` says why it is refused; empty where ``ok``.
    """

    prompts: str
    fusions: str
    visual: str
    audio: str
    ok: bool = field(init=False)
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ok", not self.reason)


def prompt_sets(registry: Registry) -> list[str]:
    """What ``--prompts`` may say: ``none``, each method with prompts, each prompt of no method."""
    return _sets(registry, registry.prompts, "prompts")


def fusion_sets(registry: Registry) -> list[str]:
    """What ``--fusion`` may say, as `prompt_sets`."""
    return _sets(registry, registry.fusions, "fusions")


def _sets(registry: Registry, table: Table[Any], kind: PartKind) -> list[str]:
    methods = [
        registry.to_ask(registry.methods, key)
        for key in registry.methods.unique_names()
        if getattr(registry.methods[key], kind)
    ]
    owned = {part for method in methods for part in _parts(registry, method, kind)}
    return ["none", *methods, *(registry.to_ask(table, key) for key in table.unique_names() if key not in owned)]


def _parts(registry: Registry, name: str, kind: PartKind) -> tuple[str, ...]:
    """The parts of a set; none for a method whose own names are unknown or ambiguous, which its rows then say."""
    try:
        return registry.parts_of(name, kind)
    except AVCoreError:
        return ()


def backbone_pairs(registry: Registry, visual: str | None = None, audio: str | None = None) -> list[tuple[str, str]]:
    """Pairs of backbones, the second `SHARED` where sound has none of its own.

    Args:
        registry: where families are looked up.
        visual, audio: the backbones of each stream; without them the first member of every family, sound sharing the
            pictures' or on a family that serves sound alone.
    """
    families = list(registry.backbones)
    seeing = [visual] if visual else [_first(spec) for spec in families if "visual" in spec.streams]
    hearing = [audio] if audio else [SHARED, *(_first(spec) for spec in families if spec.streams == ("audio",))]
    return [(one, other) for one in seeing for other in hearing]


def _first(spec: BackboneSpec) -> str:
    return next(iter(spec.presets), spec.name)


def combinations(registry: Registry, pairs: Sequence[tuple[str, str]]) -> Iterator[Combination]:
    """Every combination on every pair of backbones.

    Raises:
        AVCoreError: a backbone is unknown, or serves another stream only.
    """
    prompts, fusions = prompt_sets(registry), fusion_sets(registry)
    for visual, audio in pairs:
        bench = _Bench(registry, _streams(registry, visual, audio))
        for prompt_set, fusion_set in product(prompts, fusions):
            reason = bench.refusal(prompt_set, fusion_set)
            yield Combination(prompts=prompt_set, fusions=fusion_set, visual=visual, audio=audio, reason=reason)


def _streams(registry: Registry, visual: str, audio: str) -> StreamSet:
    chosen = {}
    for stream, name in zip(STREAMS, (visual, audio), strict=True):
        own = None if name == SHARED else name
        spec = registry.backbones.find(visual if own is None else own)[0]
        chosen[stream] = StreamConfig(backbone=own, settings=spec.config())
    return streams_of(chosen["visual"], chosen["audio"], registry, segments=SEGMENTS)


class _Bench:
    """Parts tried one by one on the same streams; each is made once, whatever it is combined with."""

    def __init__(self, registry: Registry, streams: StreamSet) -> None:
        self.registry = registry
        self.streams = streams
        self._tried: dict[str, str] = {}

    def refusal(self, prompts: str, fusions: str) -> str:
        """Why these sets of parts do not run together; empty where they do."""
        try:
            listed = [self._listed(name, self.registry.prompts) for name in self.registry.parts_of(prompts, "prompts")]
            listed += [self._listed(name, self.registry.fusions) for name in self.registry.parts_of(fusions, "fusions")]
            check_together(listed)
        except AVCoreError as error:
            return str(error)
        return next((reason for part in listed if (reason := self._alone(part))), "")

    def _listed(self, name: str, table: Table[Any]) -> ListedPart:
        return ListedPart(name, table[name], table[name].config(), plugin=self.registry.plugin(table, name))

    def _alone(self, part: ListedPart) -> str:
        key = part.name
        if key not in self._tried:
            try:
                with torch.device("meta"):
                    copy_backbone_parts(mount_part(part, self.streams, 0), self.streams.towers)
            except AVCoreError as error:
                self._tried[key] = str(error)
            else:
                self._tried[key] = ""
        return self._tried[key]
