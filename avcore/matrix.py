"""Which prompts and fusions run together on which backbones, and why the others do not.

Layouts, needs and ``finishes`` decide, what the parts themselves refuse, and one forward of each set of parts on each
pair of backbones, from shapes alone: no weights, default settings. Where both sets of a row run by themselves, so do
they together; where one does not and a method lists parts of both, they are tried together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

from avcore.assemble import model_of, streams_of
from avcore.config import StreamConfig
from avcore.discovery.signatures import blamed
from avcore.errors import AVCoreError, ConfigError, did_you_mean
from avcore.gradients import try_parts
from avcore.mounting import ListedPart, StreamSet, check_together
from avcore.registry import PartKind, Registry, Table
from avcore.shapes import WithoutValues
from avcore.specs import STREAMS, BackboneSpec, MethodSpec, Windows

__all__ = ["SHARED", "Combination", "backbone_pairs", "combinations", "fusion_sets", "origin_of", "prompt_sets"]

SHARED = "shared"
"""The name of sound's backbone where it shares the pictures'."""
SEGMENTS = 5
"""T of the layouts: odd, and another number than that of the clips tried."""
WINDOWS = Windows(length=1.0, margin=1.0)
"""Of the sound, a second for each segment."""


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
    return _sets(registry, "prompts")


def fusion_sets(registry: Registry) -> list[str]:
    """What ``--fusion`` may say, as `prompt_sets`."""
    return _sets(registry, "fusions")


def origin_of(registry: Registry, name: str, kind: PartKind) -> str:
    """The distribution that offers a set, as `prompt_sets` and `fusion_sets` name it; ``""`` for ``none``."""
    if name == "none":
        return ""
    return registry.methods.origin(name) if _is_method(registry, name, kind) else _table(registry, kind).origin(name)


def _table(registry: Registry, kind: PartKind) -> Table[Any]:
    return registry.prompts if kind == "prompts" else registry.fusions


def _is_method(registry: Registry, name: str, kind: PartKind) -> bool:
    return name in registry.methods and bool(getattr(registry.methods[name], kind))


def _sets(registry: Registry, kind: PartKind) -> list[str]:
    table = _table(registry, kind)
    methods = [
        registry.to_ask(registry.methods, key)
        for key in registry.methods.unique_names()
        if getattr(registry.methods[key], kind)
    ]
    # A part that a method of another distribution lists still is its own author's.
    owned = {
        part
        for method in methods
        for part in _parts(registry, method, kind)
        if table.origin(part) == registry.methods.origin(method)
    }
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


def combinations(registry: Registry, pairs: Sequence[tuple[str, str]], only: str = "") -> Iterator[Combination]:
    """Every combination on every pair of backbones.

    Args:
        registry: where names are looked up.
        pairs: of backbones.
        only: the name of a set, of a part or of a distribution: combinations that it has a part in; empty for all.

    Raises:
        AVCoreError: a backbone is unknown, or serves another stream only; nothing is called ``only``.
    """
    sets = list(product(prompt_sets(registry), fusion_sets(registry)))
    if only:
        sets = _chosen(registry, sets, only)
    for visual, audio in pairs:
        bench = _Bench(registry, _streams(registry, visual, audio))
        for prompt_set, fusion_set in sets:
            reason = bench.refusal(prompt_set, fusion_set)
            yield Combination(prompts=prompt_set, fusions=fusion_set, visual=visual, audio=audio, reason=reason)


def _chosen(registry: Registry, sets: Sequence[tuple[str, str]], only: str) -> list[tuple[str, str]]:
    kinds: tuple[PartKind, ...] = ("prompts", "fusions")
    called: dict[tuple[PartKind, str], set[str]] = {}
    for kind, one in dict.fromkeys((kind, one) for both in sets for kind, one in zip(kinds, both, strict=True)):
        names = {one, *_parts(registry, one, kind)} - {"none"}
        origin = origin_of(registry, one, kind)
        full = {name if ":" in name else f"{_table(registry, kind).origin(name)}:{name}" for name in names - {one}}
        called[kind, one] = {*names, *full, *([origin, f"{origin}:{one.rpartition(':')[2]}"] if origin else [])}
    chosen = [both for both in sets if any(only in called[key] for key in zip(kinds, both, strict=True))]
    if not chosen:
        known = set().union(*called.values())
        raise ConfigError(
            f"--only {only}: no set, part or distribution with parts is called so.{did_you_mean(only, known)} "
            f"Sets: {', '.join(dict.fromkeys(one for _, one in called))}."
        )
    return chosen


def _streams(registry: Registry, visual: str, audio: str) -> StreamSet:
    chosen = {}
    for stream, name in zip(STREAMS, (visual, audio), strict=True):
        own = None if name == SHARED else name
        spec = registry.backbones.find(visual if own is None else own)[0]
        chosen[stream] = StreamConfig(backbone=own, settings=spec.config())
    return streams_of(chosen["visual"], chosen["audio"], registry, segments=SEGMENTS, windows=WINDOWS)


class _Bench:
    """Sets of parts tried on the same streams, each once, whatever it is combined with."""

    def __init__(self, registry: Registry, streams: StreamSet) -> None:
        self.registry = registry
        self.streams = streams
        self._tried: dict[tuple[str, ...], str] = {(): ""}

    def refusal(self, prompts: str, fusions: str) -> str:
        """Why these sets of parts do not run together; empty where they do."""
        try:
            first, second = self._listed(prompts, "prompts"), self._listed(fusions, "fusions")
            check_together([*first, *second])
        except AVCoreError as error:
            return str(error)
        alone = self._try(first) or self._try(second)
        if alone and first and second and self._belong_together(first, second):
            return self._try([*first, *second])
        return alone

    def _listed(self, name: str, kind: PartKind) -> list[ListedPart]:
        table = _table(self.registry, kind)
        return [
            ListedPart(part, table[part], table[part].config(), plugin=self.registry.plugin(table, part))
            for part in self.registry.parts_of(name, kind)
        ]

    def _belong_together(self, first: Sequence[ListedPart], second: Sequence[ListedPart]) -> bool:
        """A method lists parts of both: those may be made to stand beside each other only."""

        def lists(method: MethodSpec, kind: PartKind, parts: Sequence[ListedPart]) -> bool:
            return any(part.spec.name in getattr(method, kind) for part in parts)

        return any(lists(one, "prompts", first) and lists(one, "fusions", second) for one in self.registry.methods)

    def _try(self, listed: Sequence[ListedPart]) -> str:
        key = tuple(part.name for part in listed)
        if key not in self._tried:
            try:
                # A plugin's fault must not take the rows of the others with it. A run shows its traceback.
                with blamed(listed[0].plugin, "forward", " and ".join(key)):
                    with WithoutValues():
                        model = model_of(self.streams, listed, WINDOWS)
                    with torch.device("meta"):
                        try_parts(model)
            except AVCoreError as error:
                self._tried[key] = str(error)
            else:
                self._tried[key] = ""
        return self._tried[key]
