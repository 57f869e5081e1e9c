"""From leaves to a typed, frozen dataclass, with every mistake traced to the layer that made it.

`build` turns the leaves of a section into an instance of the dataclass it is given and names key, layer, value and what
is allowed when one does not fit.
"""

import contextlib
import dataclasses
import difflib
import enum
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from avcore.config.leaves import Layer, Leaf, Leaves, flatten, nest, plain
from avcore.errors import AVCoreError, ConfigError, did_you_mean

__all__ = [
    "blamed",
    "build",
    "check_default",
    "coerce",
    "expected",
    "field_types",
    "require",
    "unknown_key",
    "unknown_section",
]

T = TypeVar("T")


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Range check for a ``__post_init__``: raise ValueError naming key, allowed values and value unless it holds."""
    if not holds:
        raise ValueError(f"{key} must be {allowed}, not {value!r}")


# --------------------------------------------------------------------------------------------------------------------
# Values


def members(kind: Any) -> tuple[Any, ...]:
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
        return f"a section with the keys {', '.join(field_types(kind))}"
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


SWITCHES = {"on": True, "yes": True, "off": False, "no": False}
"""Words that YAML reads as true or false; where one is a choice, whoever writes it means the word."""


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
        words = [choice for choice in arguments if value is SWITCHES.get(choice)] if isinstance(value, bool) else []
        if len(words) == 1:
            return words[0]
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
        if str in members(kind) and isinstance(leaf.value, bool | int | float):
            quoting = f" Quote it to make it text: {key}=\"'{leaf.value}'\"."
        raise ConfigError(
            f"'{key}' is {leaf.value!r} ({leaf.layer.name}); it must be {expected(kind)}.{quoting}"
        ) from None


# --------------------------------------------------------------------------------------------------------------------
# Dataclasses


def field_types(cls: type) -> dict[str, Any]:
    """Field -> type of a configuration dataclass; raises AVCoreError where an annotation cannot be read."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise ConfigError(f"The types of {cls.__module__}.{cls.__qualname__} cannot be read: {error}.") from None
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(cls) if entry.init}


def unknown_key(key: str, leaf: Leaf, allowed: Iterable[str], candidates: Iterable[str] = ()) -> AVCoreError:
    """The error for ``key``; ``allowed`` are the names beside it, ``candidates`` full keys elsewhere to suggest."""
    parent, _, last = key.rpartition(".")
    allowed = list(allowed)
    elsewhere = {candidate.rpartition(".")[2]: candidate for candidate in reversed([*candidates])}
    near = did_you_mean(last, allowed)
    if near and parent:
        near = near.replace("'", f"'{parent}.", 1)
    elif not near:
        found = difflib.get_close_matches(last, elsewhere, n=1)
        near = f" Did you mean '{elsewhere[found[0]]}'?" if found else ""
    where = f"Keys of '{parent}'" if parent else "Keys"
    return ConfigError(f"Unknown key '{key}' ({leaf.layer.name}).{near} {where}: {', '.join(allowed) or 'none'}.")


def unknown_section(key: str, leaf: Leaf, sections: Sequence[str], known: Sequence[str]) -> AVCoreError:
    """The error for a ``key`` that begins with no section; ``known`` are full keys, so that it is suggested whole."""
    first, dot, rest = key.partition(".")
    whole = [*known, *(f"{name}.{rest}" for name in sections)]
    near = did_you_mean(key, whole) if dot else ""
    if not near:
        return unknown_key(first, leaf, sections, known)
    return ConfigError(f"Unknown key '{key}' ({leaf.layer.name}).{near} Keys: {', '.join(sections)}.")


@contextlib.contextmanager
def blamed(key: str, leaf: Leaf) -> Iterator[None]:
    """Add the key and the layer of a name to the error of looking it up."""
    try:
        yield
    except AVCoreError as error:
        error.args = (f"{str(error).rstrip('.')} ({key}, {leaf.layer.name}).",)
        raise


def build(cls: type[T], leaves: Leaves, at: str, *, beside: Sequence[str] = ()) -> T:
    """Make ``cls`` from the leaves of section ``at``; what is not given keeps its default.

    Args:
        beside: further keys of the section, handled elsewhere, to be listed as allowed.

    Raises:
        AVCoreError: an unknown key, a wrong type or a value out of range; names key, layer, value and what is allowed.
    """
    kinds = field_types(cls)
    groups: dict[str, Leaves] = {}
    for key, leaf in leaves.items():
        first, _, rest = key.partition(".")
        if first not in kinds:
            raise unknown_key(f"{at}.{first}", leaf, [*beside, *kinds])
        groups.setdefault(first, {})[rest] = leaf
    given = {name: _value(kinds[name], group, f"{at}.{name}") for name, group in groups.items()}
    try:
        made = cls(**given)
    except (ValueError, AVCoreError) as error:
        raise _refused(error, at, {name: next(iter(group.values())).layer for name, group in groups.items()}) from error
    for name, kind in kinds.items():
        if name not in given:
            check_default(cls, name, kind, getattr(made, name))
    return made


def check_default(cls: type, name: str, kind: Any, value: Any) -> None:
    """Refuse a default that is not of its own type: the ``config.yaml`` of a run with it could not be read again."""
    try:
        _fit(kind, plain(value))
    except _MismatchError:
        where = f"{cls.__module__}.{cls.__qualname__}"
        raise ConfigError(
            f"The default of '{name}' in {where} is {value!r}; it must be {expected(kind)}. Tell its author."
        ) from None


def _refused(error: Exception, at: str, given: Mapping[str, Layer]) -> AVCoreError:
    """The message of a ``__post_init__`` with the full key and the layers of the settings that it speaks of."""
    message = str(error).rstrip(".")
    first = re.match(r"\w+", message)
    if isinstance(error, ValueError):
        message = f"{at}.{message}" if first and first[0] in given else f"{at}: {message}"
    spoken_of = [name for name in given if re.search(rf"\b{re.escape(name)}\b", message)]
    layers = dict.fromkeys(given[name].name for name in spoken_of or given)
    return ConfigError(f"{message} ({', '.join(layers)}).")


def _value(kind: Any, group: Leaves, key: str) -> Any:
    whole = group.get("")
    if whole is not None:
        return coerce(kind, whole, key)
    for member in members(kind):
        if dataclasses.is_dataclass(member) and isinstance(member, type):
            return build(member, group, key)
    tree = nest({name: leaf.value for name, leaf in group.items()})
    return coerce(kind, Leaf(tree, next(iter(group.values())).layer), key)
