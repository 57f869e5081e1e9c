"""Configuration trees, kept flat: dotted key -> `Leaf`, a value and the `Layer` that it comes from."""

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avcore.errors import ConfigError

__all__ = ["Layer", "Leaf", "Leaves", "flatten", "nest", "overlay", "plain", "section"]


@dataclass(frozen=True)
class Layer:
    """Where values come from: ``recipe copl/avs``, ``file run.yaml``, ``--set optim.lr=1``.

    ``user`` says that a user wrote them, ``home`` which distribution did: what it offers itself goes before others of
    the same name. ``parts_only``: what it lists are parts, no method is meant by a name. ``wishes``: settings that a
    backbone or a data set does not have are left out.
    """

    name: str
    user: bool = False
    home: str = ""
    parts_only: bool = False
    wishes: bool = False


@dataclass(frozen=True)
class Leaf:
    """A value and its layer."""

    value: Any
    layer: Layer


Leaves = dict[str, Leaf]


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} or {"a.b": 1} -> {"a.b": 1}. An empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        full = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, full))
        else:
            flat[full] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node[last] = value
    return tree


def overlay(below: Leaves, above: Leaves) -> Leaves:
    """Both, where they meet the one above; a value replaces a whole subtree and the other way round."""
    merged = dict(below)
    for key, leaf in above.items():
        inside = [other for other in merged if other.startswith(f"{key}.")]
        if leaf.value == {} and inside:
            continue
        for other in inside:
            del merged[other]
        parts = key.split(".")
        for length in range(1, len(parts)):
            merged.pop(".".join(parts[:length]), None)
        merged[key] = leaf
    return merged


def section(leaves: Leaves, name: str) -> Leaves:
    """The leaves under ``name``, keys relative to it.

    Raises:
        AVCoreError: ``name`` itself was given a value.
    """
    whole = leaves.get(name)
    if whole is not None and whole.value not in (None, {}):
        raise ConfigError(
            f"'{name}' is a section ({whole.layer.name} gives it {whole.value!r}); set a key in it, {name}.KEY: "
            "'avcore config show' lists them."
        )
    return {key[len(name) + 1 :]: leaf for key, leaf in leaves.items() if key.startswith(f"{name}.")}


def plain(value: Any) -> Any:
    """A configuration as YAML and JSON can hold it: dicts, lists, text, numbers, booleans, None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value) if entry.init}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset | set):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
