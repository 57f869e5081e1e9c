"""The settings of a run as a JSON Schema (draft 2020-12), for editors and for programs that write configurations.

It knows names, types, choices, defaults and help. Ranges, and what two settings ask of each other, are checked when a
configuration is resolved. A configuration in it is nested as ``avcore config show --yaml`` prints it.
"""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

from avcore.config.describe import describe
from avcore.config.leaves import nest
from avcore.config.records import Chosen, DataConfig, OptimConfig, PlanConfig, RunConfig, StreamConfig, TrainConfig
from avcore.config.settings import field_types
from avcore.specs import STREAMS, TEXTS, PromptSpec

if TYPE_CHECKING:
    from avcore.registry import Registry

__all__ = ["core_schema", "run_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", type(None): "null"}
_SCALE = {"type": "number", "default": 1.0, "description": "factor of its learning rate, optim.lr"}
_STREAMS = {
    "enum": ["both", *STREAMS, *TEXTS],
    "default": "both",
    "description": "streams that it is put into",
}
# Sections whose keys belong to what a run chooses; the others are dataclasses of the core.
_CHOSEN = {**dict.fromkeys((*STREAMS, *TEXTS), StreamConfig), "head": Chosen, "data": DataConfig}
_CORE = {"plan": PlanConfig, "optim": OptimConfig, "train": TrainConfig}


def core_schema() -> dict[str, Any]:
    """The schema of what every run has; sections that belong to plugins take any key."""
    sections = {name: {**_section(own), "additionalProperties": True} for name, own in _CHOSEN.items()}
    return _whole({**sections, "parts": {"type": "object"}, "task_options": {"type": "object"}}, "A run of avcore")


def run_schema(config: RunConfig, registry: "Registry") -> dict[str, Any]:
    """The schema of runs with the parts, backbones, head, task and data set of ``config``."""
    registry = registry.recorded(config.full_names)
    sections = {
        **{name: _section(StreamConfig, type(getattr(config, name).settings)) for name in (*STREAMS, *TEXTS)},
        "head": _section(Chosen, type(config.head.settings)),
        "data": _section(DataConfig, type(config.data.settings)),
        "parts": _parts(config, registry),
        "task_options": _section(type(config.task_options)),
    }
    names = "+".join((*config.prompts, *config.fusions)) or "the head alone"
    return _whole(sections, f"A run of avcore: {names}, task {config.task}")


def _whole(sections: Mapping[str, Any], title: str) -> dict[str, Any]:
    core = {name: _section(own) for name, own in _CORE.items()}
    elsewhere = {"part_streams", "part_scales", *core, *sections}
    scalars = {name: entry for name, entry in _properties(RunConfig).items() if name not in elsewhere}
    # On the command line and in a file, a text may stand for a list of parts.
    for name in ("prompts", "fusions"):
        scalars[name] = {**scalars[name], "type": ["array", "string", "null"]}
    return {"$schema": DIALECT, "title": title, **_closed({**scalars, **sections, **core})}


def _parts(config: RunConfig, registry: "Registry") -> dict[str, Any]:
    """One section for each part; the dots in its name are levels."""
    flat: dict[str, _Leaf] = {}
    for name, settings in config.parts.items():
        properties = {"lr_scale": _SCALE, **_properties(type(settings))}
        if isinstance(registry.part(name), PromptSpec):
            properties = {"streams": _STREAMS, **properties}
        flat |= {f"{name}.{key}": _Leaf(entry) for key, entry in properties.items()}
    return _nested(nest(flat))


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """The schema of a setting, told apart from a level of names above it."""

    schema: dict[str, Any]


def _nested(tree: Mapping[str, Any]) -> dict[str, Any]:
    return _closed({key: item.schema if isinstance(item, _Leaf) else _nested(item) for key, item in tree.items()})


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _section(*classes: type) -> dict[str, Any]:
    """The fields of several dataclasses side by side; a field ``settings`` stands for those of the next."""
    properties: dict[str, Any] = {}
    for cls in classes:
        properties |= {name: entry for name, entry in _properties(cls).items() if name != "settings"}
    return _closed(properties)


def _properties(cls: type) -> dict[str, dict[str, Any]]:
    kinds = field_types(cls)
    required = {entry.name for entry in dataclasses.fields(cls) if _has_no_default(entry)}
    properties = {}
    for setting in describe(cls):
        entry = _schema(kinds[setting.name])
        if setting.help:
            entry["description"] = setting.help
        if setting.name not in required:
            entry["default"] = setting.default
        properties[setting.name] = entry
    return properties


def _has_no_default(entry: "dataclasses.Field[Any]") -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _schema(kind: Any) -> dict[str, Any]:
    """What `avcore.config.settings.coerce` takes as ``kind``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return {}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(member) for member in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis):
        items = [_schema(member) for member in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (tuple, list, frozenset, Sequence):
        return {"type": "array", "items": _schema(arguments[0])}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _section(kind)
    return {"type": _SIMPLE[kind]}
