"""The declarations of one plugin: its hooks are called alone, and every record is checked before anybody sees it."""

import dataclasses
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Set
from types import FunctionType, ModuleType, UnionType
from typing import Any

import pluggy

from avcore import hookspecs
from avcore.discovery.records import KINDS, one_line
from avcore.errors import PluginError, did_you_mean
from avcore.specs import (
    AS_OWN,
    STREAMS,
    TEXT,
    TEXTS,
    BackboneSpec,
    ClipSettings,
    FusionSpec,
    HeadSpec,
    Need,
    PartSpec,
    Spec,
)

__all__ = ["declarations", "hook_manager"]

# Keys that a run's configuration keeps beside the settings of a spec of this kind.
_RESERVED: Mapping[str, frozenset[str]] = {
    "backbones": frozenset({"backbone"}),
    "prompts": frozenset({"streams", "lr_scale"}),
    "fusions": frozenset({"lr_scale"}),
    "heads": frozenset({"name"}),
    "datasets": frozenset({"dataset", "root", "workers", "cache", "broken", "broken_limit"}),
}
# What parameters are counted as beside parts.
_COMPONENTS = frozenset({*STREAMS, *TEXTS, "head", "align"})
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_REFERENCE = re.compile(r"[\w.]+:\w+")
_WORDS = {str: "text", bool: "True or False", type: "a class"}


def hook_manager() -> pluggy.PluginManager:
    """A plugin manager that knows the hooks and holds no plugin yet."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def declarations(plugin: Any) -> dict[str, tuple[Spec, ...]]:
    """Call the declaration hooks of one plugin, a module or namespace, and check what they return.

    Raises:
        AVCoreError: an unknown hook, a forgotten ``@hookimpl``, a wrong argument or a wrong record.
        Exception: whatever a hook raises.
    """
    manager = hook_manager()
    try:
        manager.register(plugin, name="plugin")
    except pluggy.PluginValidationError as error:
        raise PluginError(str(error)) from error
    _check_hooks(manager, plugin)
    specs: dict[str, tuple[Spec, ...]] = {}
    for kind, record in KINDS.items():
        hook = f"avcore_{kind}"
        caller = getattr(manager.hook, hook)
        if caller.get_hookimpls():
            results = caller()
            if not results:
                raise PluginError(f"{hook} returned None; it must return a list of {record.__name__}.")
            specs[kind] = _checked(hook, kind, results[0])
    return specs


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    callers = vars(manager.hook)
    known = [name for name, caller in callers.items() if isinstance(caller, pluggy.HookCaller) and caller.has_spec()]
    for name, caller in callers.items():
        if not isinstance(caller, pluggy.HookCaller):
            continue
        if not caller.has_spec():
            raise PluginError(f"it implements the unknown hook '{name}'.{did_you_mean(name, known)}")
        if any(impl.wrapper or impl.hookwrapper for impl in caller.get_hookimpls()):
            raise PluginError(f"its hook '{name}' is a wrapper; avcore calls each plugin's hooks alone.")
        if callable(getattr(plugin, name, None)) and not caller.get_hookimpls():
            raise PluginError(f"its function '{name}' lacks the decorator @hookimpl.")
    for name, value in vars(plugin).items() if isinstance(plugin, ModuleType) else ():
        own = isinstance(value, FunctionType) and value.__module__ == plugin.__name__
        if own and name.startswith("avcore_") and name not in callers and did_you_mean(name, known):
            raise PluginError(f"its function '{name}' is no hook.{did_you_mean(name, known)}")


def _checked(hook: str, kind: str, result: Any) -> tuple[Spec, ...]:
    expected = KINDS[kind].__name__
    if isinstance(result, Spec | str) or not isinstance(result, Iterable):
        raise PluginError(f"{hook} returned a {type(result).__name__}; it must return a list of {expected}.")
    specs: list[Spec] = []
    taken: set[str] = set()
    for spec in result:
        if not isinstance(spec, KINDS[kind]):
            raise PluginError(f"{hook} returned a {type(spec).__name__} among its records; it must be a {expected}.")
        if problem := _mistyped(KINDS[kind], spec) or _problem(kind, spec):
            raise PluginError(f"{hook}: {expected} '{spec.name}': {problem}")
        for name in (spec.name, *getattr(spec, "aliases", ())):
            if name in taken:
                raise PluginError(f"{hook} returned two records named '{name}'.")
            taken.add(name)
        specs.append(spec)
    return tuple(specs)


def _mistyped(record: type[Spec], spec: Spec) -> str:
    """Which field of a record is not of its type, or ``""``: a text in place of a tuple would be read by letters."""
    hints = typing.get_type_hints(record)
    for entry in dataclasses.fields(record):
        value = getattr(spec, entry.name)
        if not _fits(hints[entry.name], value):
            return f"{entry.name} is {value!r}; it must be {_in_words(hints[entry.name])}."
    return ""


def _fits(kind: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (tuple, frozenset):
        return isinstance(value, origin) and all(isinstance(item, arguments[0]) for item in value)
    if origin is UnionType:
        return any(_fits(one, value) for one in arguments)
    if origin is Callable:
        return callable(value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            isinstance(key, str) and _fits(arguments[1], item) for key, item in value.items()
        )
    return kind is Any or isinstance(value, kind)


def _in_words(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is UnionType:
        return " or ".join(map(_in_words, typing.get_args(kind)))
    if origin in (tuple, frozenset):
        return f"a {origin.__name__} of texts"
    if origin is Callable:
        return "a function"
    if origin is Mapping:
        return f"a mapping with texts as keys{'' if typing.get_args(kind)[1] is Any else ' and mappings as values'}"
    return _WORDS[kind]


def _problem(kind: str, spec: Spec) -> str:
    """What is wrong with a record, or ``""``."""
    if not _NAME.fullmatch(spec.name) or spec.name == "none":
        return "the name must be made of letters, digits, '_', '-' and '.', and not be 'none'."
    if kind != "methods" and not _REFERENCE.fullmatch(spec.build):
        return f"build is '{spec.build}'; it must have the form 'package.module:Name'."
    if isinstance(spec, PartSpec) and spec.name in _COMPONENTS:
        return f"no part may be called '{spec.name}': that is a component of every model."
    config = spec.config
    if not dataclasses.is_dataclass(config):
        return f"config must be a dataclass, not {config!r}."
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"config {config.__name__} must be frozen: @dataclass(frozen=True, kw_only=True)."
    if kind == "datasets" and not issubclass(config, ClipSettings):
        return f"config {config.__name__} must derive from avcore.specs.ClipSettings."
    for entry in dataclasses.fields(config):
        if entry.init and entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            return f"config {config.__name__} has no default for '{entry.name}'."
        if entry.name in _RESERVED.get(kind, ()):
            return f"config {config.__name__} may not have a field '{entry.name}': avcore keeps that key."
    if isinstance(spec, BackboneSpec) and not (spec.streams and set(spec.streams) <= {*STREAMS, TEXT}):
        return f"streams is {spec.streams!r}; it must list {', '.join(STREAMS)} or {TEXT}, or several of them."
    if isinstance(spec, FusionSpec) and not set(spec.as_own) <= set(AS_OWN):
        return f"as_own is {spec.as_own!r}; it may list {', '.join(AS_OWN)}."
    return _unusable(spec)


def _unusable(spec: Spec) -> str:
    """What fails as soon as somebody uses the default settings of a record, or ``""``."""
    name = spec.config.__name__
    try:
        typing.get_type_hints(spec.config)
    except Exception as error:
        return f"the types of config {name} cannot be read: {one_line(error)}."
    try:
        settings = spec.config()
    except Exception as error:
        return f"config {name} refuses its own defaults: {one_line(error)}."
    if isinstance(spec, HeadSpec):
        try:
            calls = spec.calls(settings)
        except Exception as error:
            return f"encoders fails for the default settings: {one_line(error)}."
        if not set(calls) <= set(TEXTS):
            return f"encoders is {calls!r}; it may list {' and '.join(TEXTS)}."
        try:
            brings = spec.brings(settings)
        except Exception as error:
            return f"defaults fails for the default settings: {one_line(error)}."
        return "" if isinstance(brings, Mapping) else f"defaults is {brings!r}; it must be a mapping of settings."
    if not isinstance(spec, PartSpec):
        return ""
    try:
        needs = spec.requires(settings)
    except Exception as error:
        return f"requires fails for the default settings: {one_line(error)}."
    if not isinstance(needs, Set) or not all(isinstance(need, Need) for need in needs):
        return f"requires returned {needs!r}; it must return a set of Need."
    return ""
