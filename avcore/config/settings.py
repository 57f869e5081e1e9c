"""From a plain tree to a typed, frozen dataclass, with every mistake traced to the layer that made it.

A tree is kept flat: dotted key -> `Leaf`, a value and the `Layer` it comes from. `build` turns the leaves of a section
into an instance of the dataclass it is given and names key, layer, value and what is allowed when one does not fit.
"""

import ast
import contextlib
import dataclasses
import enum
import inspect
import io
import os
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from avcore.errors import AVCoreError, did_you_mean

__all__ = [
    "Layer",
    "Leaf",
    "Leaves",
    "Setting",
    "build",
    "coerce",
    "describe",
    "flatten",
    "nest",
    "overlay",
    "plain",
    "require",
    "section",
    "unknown_key",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """Where values come from: ``recipe copl/avs``, ``file run.yaml``, ``--set optim.lr=1``.

    ``user`` says that a user wrote them.
    """

    name: str
    user: bool = False


@dataclass(frozen=True)
class Leaf:
    """A value and its layer."""

    value: Any
    layer: Layer


Leaves = dict[str, Leaf]


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Range check for a ``__post_init__``: raise ValueError naming key, allowed values and value unless it holds."""
    if not holds:
        raise ValueError(f"{key} must be {allowed}, not {value!r}")


# --------------------------------------------------------------------------------------------------------------------
# Trees


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
        raise AVCoreError(
            f"'{name}' is a section ({whole.layer.name} gives it {whole.value!r}); set a key in it: {name}.KEY."
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


# --------------------------------------------------------------------------------------------------------------------
# Values


def _members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of ``A | B``, or the type alone."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def expected(kind: Any) -> str:
    """A type in words: ``a number or null``, ``one of 'clean', 'paper'``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(expected(member) for member in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in kind)
    if origin is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis):
        return f"a list of {len(arguments)}: " + ", ".join(expected(member) for member in arguments)
    if origin in (tuple, list, frozenset, Sequence):
        return f"a list, each {expected(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a mapping, each value {expected(arguments[1])}"
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return f"a section with the keys {', '.join(_field_types(kind))}"
    words: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
    }
    words |= {type(None): "null", None: "null", Any: "anything"}
    return words.get(kind, str(kind))


class _MismatchError(Exception):
    """A value does not fit its type."""


def _fit(kind: Any, value: Any) -> Any:
    """``value`` as ``kind``; raises _MismatchError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _fit_any(arguments, value)
    if origin is Literal:
        for choice in arguments:
            if choice == value and type(choice) is type(value):
                return choice
        raise _MismatchError
    if origin in (tuple, list, frozenset, Sequence):
        return _fit_list(origin, arguments, value)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {_fit_key(arguments[0], key): _fit(arguments[1], item) for key, item in value.items()}
    if isinstance(kind, type):
        return _fit_class(kind, value)
    raise _MismatchError


def _fit_any(kinds: Sequence[Any], value: Any) -> Any:
    # An exact type goes before a conversion: with `int | float`, 1 stays whole.
    for kind in sorted(kinds, key=lambda kind: kind is not type(value)):
        with contextlib.suppress(_MismatchError):
            return _fit(kind, value)
    raise _MismatchError


def _fit_list(origin: Any, arguments: Sequence[Any], value: Any) -> Any:
    if not isinstance(value, list | tuple | set | frozenset):
        raise _MismatchError
    if origin is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis):
        if len(value) != len(arguments):
            raise _MismatchError
        return tuple(_fit(kind, item) for kind, item in zip(arguments, value, strict=True))
    container = tuple if origin is Sequence else origin
    return container(_fit(arguments[0], item) for item in value)


def _fit_key(kind: Any, key: Any) -> Any:
    try:
        return int(key) if kind is int else _fit(kind, key)
    except ValueError:
        raise _MismatchError from None


def _fit_class(kind: type, value: Any) -> Any:
    if kind is type(None) and value is None:
        return None
    if kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
    elif kind is float and isinstance(value, int | float):
        return float(value)
    elif kind is Path and isinstance(value, str | Path) and str(value):
        return Path(os.path.abspath(os.path.expanduser(value)))
    elif issubclass(kind, enum.Enum) and value in [member.value for member in kind]:
        return kind(value)
    elif dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        layer = Layer("a list or mapping")
        return build(kind, {key: Leaf(item, layer) for key, item in flatten(value).items()}, kind.__name__)
    elif kind in (int, str) and isinstance(value, kind):
        return value
    raise _MismatchError


def coerce(kind: Any, leaf: Leaf, key: str) -> Any:
    """The value of a leaf as type ``kind``; relative paths become absolute.

    Raises:
        AVCoreError: it does not fit.
    """
    try:
        return _fit(kind, leaf.value)
    except _MismatchError:
        quoting = ""
        if str in _members(kind) and isinstance(leaf.value, bool | int | float):
            quoting = f" Quote it to make it text: {key}=\"'{leaf.value}'\"."
        raise AVCoreError(
            f"'{key}' is {leaf.value!r} ({leaf.layer.name}); it must be {expected(kind)}.{quoting}"
        ) from None


# --------------------------------------------------------------------------------------------------------------------
# Dataclasses


def _field_types(cls: type) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise AVCoreError(f"The types of {cls.__module__}.{cls.__qualname__} cannot be read: {error}.") from None
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(cls) if entry.init}


def unknown_key(key: str, leaf: Leaf, allowed: Iterable[str], candidates: Iterable[str] = ()) -> AVCoreError:
    """The error for ``key``; ``allowed`` are the names beside it, ``candidates`` full keys elsewhere to suggest."""
    parent, _, last = key.rpartition(".")
    allowed = list(allowed)
    elsewhere = [candidate for candidate in candidates if candidate.rpartition(".")[2] == last]
    near = did_you_mean(last, allowed)
    if near and parent:
        near = near.replace("'", f"'{parent}.", 1)
    elif not near and elsewhere:
        near = f" Did you mean '{elsewhere[0]}'?"
    where = f"Keys of '{parent}'" if parent else "Keys"
    return AVCoreError(f"Unknown key '{key}' ({leaf.layer.name}).{near} {where}: {', '.join(allowed) or 'none'}.")


def build(cls: type[T], leaves: Leaves, at: str, *, beside: Sequence[str] = ()) -> T:
    """Make ``cls`` from the leaves of section ``at``; what is not given keeps its default.

    Args:
        beside: further keys of the section, handled elsewhere, to be listed as allowed.

    Raises:
        AVCoreError: an unknown key, a wrong type or a value out of range; names key, layer, value and what is allowed.
    """
    kinds = _field_types(cls)
    groups: dict[str, Leaves] = {}
    for key, leaf in leaves.items():
        first, _, rest = key.partition(".")
        if first not in kinds:
            raise unknown_key(f"{at}.{first}", leaf, [*beside, *kinds])
        groups.setdefault(first, {})[rest] = leaf
    given = {name: _value(kinds[name], group, f"{at}.{name}") for name, group in groups.items()}
    try:
        return cls(**given)
    except (ValueError, AVCoreError) as error:
        raise _refused(error, at, {name: next(iter(group.values())).layer for name, group in groups.items()}) from error


def _refused(error: Exception, at: str, given: Mapping[str, Layer]) -> AVCoreError:
    """The message of a ``__post_init__`` with the full key and the layers of the settings that it speaks of."""
    message = str(error).rstrip(".")
    first = re.match(r"\w+", message)
    if isinstance(error, ValueError):
        message = f"{at}.{message}" if first and first[0] in given else f"{at}: {message}"
    spoken_of = [name for name in given if re.search(rf"\b{re.escape(name)}\b", message)]
    layers = dict.fromkeys(given[name].name for name in spoken_of or given)
    return AVCoreError(f"{message} ({', '.join(layers)}).")


def _value(kind: Any, group: Leaves, key: str) -> Any:
    whole = group.get("")
    if whole is not None:
        return coerce(kind, whole, key)
    for member in _members(kind):
        if dataclasses.is_dataclass(member) and isinstance(member, type):
            return build(member, group, key)
    tree = nest({name: leaf.value for name, leaf in group.items()})
    return coerce(kind, Leaf(tree, next(iter(group.values())).layer), key)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a configuration dataclass, as shown to people."""

    name: str
    type: str
    default: Any
    help: str


def describe(cls: type) -> list[Setting]:
    """The fields of a configuration dataclass with their defaults and help.

    The help of a field is the first of these: ``field(metadata={"help": ...})``; a comment behind it on the same line
    (``length: int = 10  # rows per block``); its entry under ``Attributes:`` in the docstring of the class.
    """
    kinds = _field_types(cls)
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            texts.update(_attributes(base))
            texts.update(_comments(base))
    listed = []
    for entry in dataclasses.fields(cls):
        if entry.init:
            default = entry.default
            if entry.default_factory is not dataclasses.MISSING:
                default = entry.default_factory()
            listed.append(
                Setting(
                    name=entry.name,
                    type=expected(kinds[entry.name]),
                    default=None if default is dataclasses.MISSING else plain(default),
                    help=entry.metadata.get("help") or texts.get(entry.name, ""),
                )
            )
    return listed


def _attributes(cls: type) -> dict[str, str]:
    """Field -> its entry under ``Attributes:`` of the docstring; ``a, b: text`` speaks of both."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    if "Attributes:" not in lines:
        return {}
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Attributes:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = re.match(r"    ([\w, ]+): (.*)", line)
        if entry:
            names = [name.strip() for name in entry[1].split(",")]
        for name in names:
            found[name] = entry[2] if entry else f"{found[name]} {line.strip()}".strip()
    return found


def _comments(cls: type) -> dict[str, str]:
    """Field -> the comments on the lines of its definition. Empty for a class made without source."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    by_line = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    definition = ast.parse(source).body[0]
    found: dict[str, str] = {}
    for node in definition.body if isinstance(definition, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            text = " ".join(by_line[line] for line in lines if line in by_line)
            if text and not text.startswith(("type:", "noqa")):
                found[node.target.id] = text
    return found
