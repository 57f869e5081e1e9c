"""Between merged leaves and a `RunConfig`, section by section, in both directions."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avcore.config.leaves import Layer, Leaf, Leaves, nest, plain, section
from avcore.config.records import (
    Chosen,
    DataConfig,
    OptimConfig,
    PartStreams,
    PlanConfig,
    RunConfig,
    StreamConfig,
    TrainConfig,
)
from avcore.config.settings import blamed, build, coerce, unknown_section
from avcore.errors import ConfigError, did_you_mean
from avcore.specs import STREAMS, TEXT, TEXTS, PromptSpec, Spec

if TYPE_CHECKING:
    from avcore.registry import PartKind, Registry, Table

__all__ = ["Sections", "to_tree"]

_CHECKS = ("shapley", "baseline", "trivial", "frozen")
_SCALARS = ("task", "method", "recipe", "streams", "protocol", "seed", "device", "deterministic", *_CHECKS)
_SECTIONS = (*STREAMS, *TEXTS, "plan", "parts", "head", "task_options", "data", "optim", "train")
_TOP = (*_SCALARS[:3], "prompts", "fusions", *_SCALARS[3:], *_SECTIONS)
_CORE_KEYS = (
    *(f"plan.{entry.name}" for entry in dataclasses.fields(PlanConfig)),
    *(f"optim.{entry.name}" for entry in dataclasses.fields(OptimConfig)),
    *(f"train.{entry.name}" for entry in dataclasses.fields(TrainConfig)),
    *(f"data.{entry.name}" for entry in dataclasses.fields(DataConfig) if entry.name != "settings"),
    "train.augment.visual",
    "train.augment.audio",
    "train.augment.mix.p",
    "train.augment.mix.alpha",
    "visual.backbone",
    "audio.backbone",
    "text.backbone",
    "text_audio.backbone",
    "head.name",
)


class Sections:
    """Turns merged leaves into a `RunConfig`, section by section."""

    def __init__(self, registry: "Registry", leaves: Leaves, task: str) -> None:
        self.registry = registry
        self.leaves = leaves
        self.task = task
        for key, leaf in leaves.items():
            if key.partition(".")[0] not in _TOP:
                raise unknown_section(key, leaf, _TOP, _CORE_KEYS)

    def run_config(self) -> RunConfig:
        """The typed configuration; raises AVCoreError naming key and layer of whatever does not fit."""
        visual = self._stream("visual", None)
        audio = self._stream("audio", visual.backbone)
        self._check_chosen(visual, audio)
        made: dict[str, Any] = {
            "prompts": self._part_names("prompts"),
            "fusions": self._part_names("fusions"),
            "visual": visual,
            "audio": audio,
            "head": self.head(),
            "task_options": build(
                self.registry.tasks[self.task].config, section(self.leaves, "task_options"), "task_options"
            ),
            "data": self._data(),
            "plan": build(PlanConfig, section(self.leaves, "plan"), "plan"),
            "optim": build(OptimConfig, section(self.leaves, "optim"), "optim"),
            "train": build(TrainConfig, section(self.leaves, "train"), "train"),
        }
        made |= {name: self._text(name, made["head"]) for name in TEXTS}
        made["parts"], made["part_streams"], made["part_scales"] = self._parts((*made["prompts"], *made["fusions"]))
        scalars = {
            entry.name: coerce(entry.type, self.leaves[entry.name], entry.name)
            for entry in dataclasses.fields(RunConfig)
            if entry.name in _SCALARS and entry.name in self.leaves
        }
        try:
            return RunConfig(**scalars, **made)
        except ValueError as error:
            key = str(error).split()[0]
            raise ConfigError(f"{error} ({self.leaves[key].layer.name}).") from None

    def _check_chosen(self, visual: StreamConfig, audio: StreamConfig) -> None:
        """Refuse a run without a backbone; one of sound alone may name that of sound, or one that both would share."""
        leaf = self.leaves.get("streams")
        alone = leaf is not None and leaf.value == "audio"
        if visual.backbone is None and not (alone and audio.backbone):
            stream = "audio" if alone else "visual"
            known = sorted(
                preset for spec in self.registry.backbones if stream in spec.streams for preset in spec.presets
            )
            raise ConfigError(f"No backbone: give --{stream} NAME. Available: {', '.join(known) or 'none installed'}.")

    def _part_names(self, kind: "PartKind") -> tuple[str, ...]:
        leaf = self.leaves.get(kind)
        if leaf is None or leaf.value is None:
            return ()
        names = coerce(str | tuple[str, ...], leaf, kind)
        with blamed(kind, leaf):
            return self.registry.parts_of(names, kind, home=leaf.layer.home, parts_only=leaf.layer.parts_only)

    def _stream(self, stream: str, trunk: str | None) -> StreamConfig:
        """A stream; ``trunk`` is the backbone whose settings apply where the stream has none of its own."""
        leaves = section(self.leaves, stream)
        leaf = leaves.pop("backbone", Leaf(None, Layer("default")))
        name = coerce(str | None, leaf, f"{stream}.backbone")
        family = name or trunk
        if family is None:
            return StreamConfig()
        with blamed(f"{stream}.backbone", leaf):
            spec, _ = self.registry.backbones.find(family)
            name = name and self.registry.backbones.key(name)
        settings = self._settings(spec, self.registry.backbones, leaves, stream, beside=("backbone",))
        weights = getattr(settings, "weights", None)
        if isinstance(weights, str) and Path(weights).expanduser().is_file():
            settings = dataclasses.replace(settings, weights=os.path.abspath(os.path.expanduser(weights)))
        return StreamConfig(backbone=name, settings=settings)

    def _text(self, stream: str, head: Chosen) -> StreamConfig:
        """An encoder of sentences that the head asks for; none for a head that asks for none.

        That of ``text`` is needed then, and others may be named; what is compared with sound, where sound runs.
        """
        leaf = self.leaves.get(f"{stream}.backbone", Leaf(None, Layer("default")))
        streams = self.leaves.get("streams", Leaf("both", Layer("default")))
        silent = stream != TEXT and streams.value == "visual"
        wanted = stream in self.registry.heads[head.name].calls(head.settings) and not silent
        if wanted and leaf.value is None and stream == TEXT:
            known = sorted(name for spec in self.registry.backbones if TEXT in spec.streams for name in spec.presets)
            raise ConfigError(
                f"Head '{head.name}' reads sentences: give --text NAME. Available: "
                f"{', '.join(known) or 'none installed'}."
            )
        if silent and leaf.value is not None and leaf.layer.user:
            raise ConfigError(
                f"--text-audio {leaf.value}: no sound runs that it could be compared with ({streams.layer.name}). "
                "Leave it out."
            )
        if not wanted and leaf.value is not None and leaf.layer.user:
            option, which = (stream.replace("_", "-"), "" if stream == TEXT else " for sound")
            may = callable(self.registry.heads[head.name].encoders)
            how = (
                f", or choose a setting of the head with which it does: avcore plugins show {head.name}" if may else ""
            )
            raise ConfigError(
                f"--{option} {leaf.value}: head '{head.name}' reads no sentences{which}. Leave it out{how}."
            )
        return self._stream(stream, None) if wanted and leaf.value is not None else StreamConfig()

    def head(self) -> Chosen:
        """The head and its settings."""
        leaves = section(self.leaves, "head")
        leaf = leaves.pop("name")
        chosen = coerce(str, leaf, "head.name")
        with blamed("head.name", leaf):
            name = self.registry.heads.key(chosen)
        return Chosen(
            name=name,
            settings=self._settings(self.registry.heads[name], self.registry.heads, leaves, "head", beside=("name",)),
        )

    def _data(self) -> DataConfig:
        leaves = section(self.leaves, "data")
        own = {entry.name for entry in dataclasses.fields(DataConfig)} - {"settings"}
        config = build(DataConfig, {key: leaf for key, leaf in leaves.items() if key in own}, "data")
        rest = {key: leaf for key, leaf in leaves.items() if key not in own}
        if config.dataset is None:
            return config
        spec = self.registry.datasets[config.dataset]
        settings = self._settings(spec, self.registry.datasets, rest, "data", beside=tuple(sorted(own)))
        return dataclasses.replace(config, settings=settings)

    def _settings(self, spec: Spec, table: "Table[Any]", leaves: Leaves, at: str, *, beside: Sequence[str]) -> Any:
        """The settings of ``spec``; those that a plugin's layer holds for another of the table are left out."""
        own = _field_names(spec)
        others = {name for other in table for name in _field_names(other)} - own

        def belongs(first: str, layer: Layer) -> bool:
            return layer.user or (first in own if layer.wishes else first not in others)

        leaves = {key: leaf for key, leaf in leaves.items() if belongs(key.partition(".")[0], leaf.layer)}
        return build(spec.config, leaves, at, beside=beside)

    def _parts(self, listed: Sequence[str]) -> tuple[dict[str, Any], dict[str, PartStreams], dict[str, float]]:
        groups: dict[str, Leaves] = {name: {} for name in listed}
        # A part that is listed with its distribution answers to its own name too, as recipes write it.
        known_as = {name.rpartition(":")[2]: name for name in listed} | {name: name for name in listed}
        # A part that is not listed may begin with the name of one that is.
        names = {*known_as, *self.registry.prompts.names(), *self.registry.fusions.names()}
        for key, leaf in section(self.leaves, "parts").items():
            owner = max((name for name in names if key.startswith(f"{name}.")), key=len, default=None)
            if key in listed and leaf.value in (None, {}):
                continue
            if owner in known_as:
                groups[known_as[owner]][key[len(owner) + 1 :]] = leaf
            elif leaf.layer.user or self._is_mistaken(key):
                known = [f"{name}.{field}" for name in listed for field in _field_names(self.registry.part(name))]
                near = did_you_mean(key, known).replace("'", "'parts.", 1)
                raise ConfigError(
                    f"'parts.{key}' ({leaf.layer.name}) belongs to no part of this run.{near} "
                    f"Its parts: {', '.join(listed) or 'none'}."
                )
        parts: dict[str, Any] = {}
        streams: dict[str, PartStreams] = {}
        scales: dict[str, float] = {}
        for name, leaves in groups.items():
            spec = self.registry.part(name)
            beside: tuple[str, ...] = ("lr_scale",)
            leaf = leaves.pop("lr_scale", Leaf(1.0, Layer("default")))
            scales[name] = coerce(float, leaf, f"parts.{name}.lr_scale")
            if not 0 <= scales[name] < math.inf:
                raise ConfigError(
                    f"parts.{name}.lr_scale must be 0 or more and finite, not {leaf.value!r} ({leaf.layer.name})."
                )
            if isinstance(spec, PromptSpec):
                beside = ("streams", *beside)
                leaf = leaves.pop("streams", Leaf("both", Layer("default")))
                streams[name] = coerce(PartStreams, leaf, f"parts.{name}.streams")
            parts[name] = build(spec.config, leaves, f"parts.{name}", beside=beside)
        return parts, streams, scales

    def _is_mistaken(self, key: str) -> bool:
        """Whether a plugin's setting is for no installed part, although parts of that plugin or method are installed.

        A data set may hold settings for methods that are not.
        """
        names = [*self.registry.prompts.names(), *self.registry.fusions.names()]
        family = key.partition(".")[0]
        known = any(family == name.partition(".")[0] for name in names)
        return known and not any(key.startswith(f"{name}.") for name in names)


def _field_names(spec: Spec) -> set[str]:
    return {entry.name for entry in dataclasses.fields(spec.config)}


def to_tree(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain nested values, laid out as in a file for ``--config``."""
    tree: dict[str, Any] = {key: plain(getattr(config, key)) for key in _TOP if key not in _SECTIONS}
    for stream in (*STREAMS, *TEXTS):
        chosen: StreamConfig = getattr(config, stream)
        if stream in STREAMS or chosen.backbone is not None:
            tree[stream] = {"backbone": chosen.backbone, **plain(chosen.settings)}
    tree["parts"] = nest(
        {
            name: {
                **({"streams": config.part_streams[name]} if name in config.part_streams else {}),
                "lr_scale": config.part_scales.get(name, 1.0),
                **plain(settings),
            }
            for name, settings in config.parts.items()
        }
    )
    tree["head"] = {"name": config.head.name, **plain(config.head.settings)}
    tree["task_options"] = plain(config.task_options)
    data = plain(config.data)
    tree["data"] = {**{key: value for key, value in data.items() if key != "settings"}, **data["settings"]}
    tree["plan"] = plain(config.plan)
    tree["optim"], tree["train"] = plain(config.optim), plain(config.train)
    tree["full_names"] = plain(config.full_names)
    return tree
