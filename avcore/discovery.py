"""Find and load plugins, each one alone, so that a broken one takes nothing with it.

pluggy's own loader stops at the first failing import, ignores misspelt hooks and leaves a half-registered plugin live.
Here every entry point is imported by itself, its hooks are called on a plugin manager of its own and its records are
checked; only a plugin that passed all of it is seen by anybody. Imports no torch.
"""

import dataclasses
import importlib.metadata
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from avcore import hookspecs
from avcore.errors import AVCoreError, did_you_mean
from avcore.specs import (
    BackboneSpec,
    ClipSettings,
    DatasetSpec,
    FusionSpec,
    HeadSpec,
    MethodSpec,
    PromptSpec,
    Spec,
    TaskSpec,
)

__all__ = ["KINDS", "Lifecycle", "LoadedPlugin", "PluginPolicy", "avcore_version", "declarations", "load_plugins"]

KINDS: Mapping[str, type[Spec]] = {
    "backbones": BackboneSpec,
    "prompts": PromptSpec,
    "fusions": FusionSpec,
    "heads": HeadSpec,
    "tasks": TaskSpec,
    "datasets": DatasetSpec,
    "methods": MethodSpec,
}
"""What a plugin can declare: ``avcore_<kind>`` returns records of this type."""

# Keys that a run's configuration keeps beside the settings of a spec of this kind.
_RESERVED: Mapping[str, frozenset[str]] = {
    "backbones": frozenset({"backbone"}),
    "prompts": frozenset({"streams"}),
    "heads": frozenset({"name"}),
    "datasets": frozenset({"dataset", "root", "workers", "cache"}),
}
_HEAVY = ("torch", "timm", "numpy", "av")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_REFERENCE = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True, kw_only=True)
class LoadedPlugin:
    """What became of one installed plugin.

    Attributes:
        distribution, version: of the installed package.
        entry_point: its name in the group ``avcore.plugins``.
        module: the light module that it points to.
        state: ``ok``; ``broken`` (see ``error`` and ``traceback``); ``blocked`` (not imported, ``error`` says by what).
        import_ms: time of the import and of the declarations, ms.
        heavy: packages that the light module should not have imported, and did.
        specs: what it declares, kind -> records; empty unless ``ok``.
        plugin: the imported module; None unless ``ok``.
    """

    distribution: str
    version: str
    entry_point: str = ""
    module: str = ""
    state: Literal["ok", "broken", "blocked"] = "ok"
    error: str = ""
    traceback: str = field(default="", repr=False)
    import_ms: float = 0.0
    heavy: tuple[str, ...] = ()
    specs: Mapping[str, tuple[Spec, ...]] = field(default_factory=dict, repr=False)
    plugin: Any = field(default=None, repr=False, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many records of each kind it declares."""
        return {kind: len(self.specs.get(kind, ())) for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class PluginPolicy:
    """Which plugins may be imported, and whether a broken one stops everything.

    Attributes:
        allow: canonical distribution names; None allows all.
        block: canonical distribution names that are never imported; wins over ``allow``.
        strict: a broken plugin raises.
    """

    allow: frozenset[str] | None = None
    block: frozenset[str] = frozenset()
    strict: bool = False

    @classmethod
    def from_environment(cls) -> "PluginPolicy":
        """Read ``AVCORE_PLUGINS``, ``AVCORE_BLOCK`` (comma-separated) and ``AVCORE_STRICT_PLUGINS`` (1)."""

        def names(variable: str) -> frozenset[str]:
            listed = os.environ.get(variable, "").split(",")
            return frozenset(canonicalize_name(name.strip()) for name in listed if name.strip())

        return cls(
            allow=names("AVCORE_PLUGINS") or None,
            block=names("AVCORE_BLOCK"),
            strict=os.environ.get("AVCORE_STRICT_PLUGINS", "") not in ("", "0"),
        )

    def objection(self, distribution: str) -> str:
        """Why a distribution may not be imported, or ``""``."""
        name = canonicalize_name(distribution)
        if name in self.block:
            return "blocked by --block or AVCORE_BLOCK"
        if self.allow is not None and name not in self.allow:
            return "not among AVCORE_PLUGINS"
        return ""

    def check(self, installed: Iterable[str]) -> None:
        """Raise AVCoreError for a name that no installed plugin has."""
        known = {str(canonicalize_name(name)) for name in installed}
        for source, names in (("AVCORE_PLUGINS", self.allow or ()), ("--block or AVCORE_BLOCK", self.block)):
            for name in sorted(set(names) - known):
                raise AVCoreError(
                    f"{source} names '{name}', but no such plugin is installed.{did_you_mean(name, known)} "
                    f"Installed: {', '.join(sorted(known)) or 'none'}."
                )


def avcore_version() -> str | None:
    """The installed version of avcore; None when it runs from a source tree that was never installed."""
    try:
        return importlib.metadata.version("avcore")
    except importlib.metadata.PackageNotFoundError:
        return None


def load_plugins(policy: PluginPolicy | None = None, *, version: str | None = None) -> tuple[LoadedPlugin, ...]:
    """Load every installed plugin, one by one, in the order of distribution names.

    Args:
        policy: what may be imported; the environment's by default.
        version: the version of avcore that requirements are checked against; the installed one by default.

    Raises:
        AVCoreError: the policy names an unknown distribution, or is strict and a plugin is broken.
    """
    policy = PluginPolicy.from_environment() if policy is None else policy
    version = avcore_version() if version is None else version
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for entry in importlib.metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP):
        found.setdefault(entry.dist.name if entry.dist else entry.module, []).append(entry)
    policy.check(found)

    loaded = []
    for _, entries in sorted(found.items()):
        plugin = _load(entries, policy, version)
        if plugin.state == "broken":
            if policy.strict:
                raise AVCoreError(f"Plugin {plugin.distribution} {plugin.version} is broken: {plugin.error}")
            sys.stderr.write(
                f"avcore: warning: plugin {plugin.distribution} {plugin.version} is broken and left out: "
                f"{plugin.error} (see 'avcore plugins doctor')\n"
            )
        loaded.append(plugin)
    return tuple(loaded)


def _load(entries: list[importlib.metadata.EntryPoint], policy: PluginPolicy, version: str | None) -> LoadedPlugin:
    entry = entries[0]
    record = LoadedPlugin(
        distribution=entry.dist.name if entry.dist else entry.module,
        version=entry.dist.version if entry.dist else "unknown",
        entry_point=entry.name,
        module=entry.value,
    )
    if objection := policy.objection(record.distribution):
        return dataclasses.replace(record, state="blocked", error=objection)
    before = {name for name in _HEAVY if name in sys.modules}
    start = time.perf_counter()
    try:
        if len(entries) > 1:
            listed = ", ".join(sorted(f"{one.name} = {one.value}" for one in entries))
            raise AVCoreError(f"it has {len(entries)} entry points in '{entry.group}' ({listed}); one is allowed.")
        if entry.dist is not None and version is not None:
            _check_requirement(entry.dist.requires or [], version)
        plugin = entry.load()
        specs = declarations(plugin)
    except (Exception, SystemExit) as error:
        return dataclasses.replace(
            record, state="broken", error=_one_line(error), traceback=traceback.format_exc(), import_ms=_since(start)
        )
    heavy = tuple(name for name in _HEAVY if name in sys.modules and name not in before)
    return dataclasses.replace(record, import_ms=_since(start), heavy=heavy, specs=specs, plugin=plugin)


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AVCoreError) else f"{type(error).__name__}: {text}"


def _check_requirement(requires: Iterable[str], version: str) -> None:
    for text in requires:
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ours = canonicalize_name(requirement.name) == "avcore" and applies
        if ours and not requirement.specifier.contains(version, prereleases=True):
            raise AVCoreError(f"it requires {requirement}, but avcore {version} is installed.")


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def declarations(plugin: Any) -> dict[str, tuple[Spec, ...]]:
    """Call the declaration hooks of one plugin, a module or namespace, and check what they return.

    Raises:
        AVCoreError: an unknown hook, a forgotten ``@hookimpl``, a wrong argument or a wrong record.
        Exception: whatever a hook raises.
    """
    manager = _manager()
    try:
        manager.register(plugin, name="plugin")
    except pluggy.PluginValidationError as error:
        raise AVCoreError(str(error)) from error
    _check_hooks(manager, plugin)
    specs: dict[str, tuple[Spec, ...]] = {}
    for kind, record in KINDS.items():
        hook = f"avcore_{kind}"
        caller = getattr(manager.hook, hook)
        if caller.get_hookimpls():
            results = caller()
            if not results:
                raise AVCoreError(f"{hook} returned None; it must return a list of {record.__name__}.")
            specs[kind] = _checked(hook, kind, results[0])
    return specs


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    callers = vars(manager.hook)
    known = [name for name, caller in callers.items() if isinstance(caller, pluggy.HookCaller) and caller.has_spec()]
    for name, caller in callers.items():
        if not isinstance(caller, pluggy.HookCaller):
            continue
        if not caller.has_spec():
            raise AVCoreError(f"it implements the unknown hook '{name}'.{did_you_mean(name, known)}")
        if any(impl.wrapper or impl.hookwrapper for impl in caller.get_hookimpls()):
            raise AVCoreError(f"its hook '{name}' is a wrapper; avcore calls each plugin's hooks alone.")
        if callable(getattr(plugin, name, None)) and not caller.get_hookimpls():
            raise AVCoreError(f"its function '{name}' lacks the decorator @hookimpl.")


def _checked(hook: str, kind: str, result: Any) -> tuple[Spec, ...]:
    expected = KINDS[kind].__name__
    if isinstance(result, Spec | str) or not isinstance(result, Iterable):
        raise AVCoreError(f"{hook} returned a {type(result).__name__}; it must return a list of {expected}.")
    specs: list[Spec] = []
    taken: set[str] = set()
    for spec in result:
        if not isinstance(spec, KINDS[kind]):
            raise AVCoreError(f"{hook} returned a {type(spec).__name__} among its records; it must be a {expected}.")
        for name in (spec.name, *getattr(spec, "aliases", ())):
            if name in taken:
                raise AVCoreError(f"{hook} returned two records named '{name}'.")
            taken.add(name)
        if problem := _problem(kind, spec):
            raise AVCoreError(f"{hook}: {expected} '{spec.name}': {problem}")
        specs.append(spec)
    return tuple(specs)


def _problem(kind: str, spec: Spec) -> str:
    """What is wrong with a record, or ``""``."""
    if not isinstance(spec.name, str) or not _NAME.fullmatch(spec.name) or spec.name == "none":
        return "the name must be made of letters, digits, '_', '-' and '.', and not be 'none'."
    if kind != "methods" and not _REFERENCE.fullmatch(spec.build):
        return f"build is '{spec.build}'; it must have the form 'package.module:Name'."
    config = spec.config
    if not isinstance(config, type) or not dataclasses.is_dataclass(config):
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
    return ""


class Lifecycle:
    """Calls the lifecycle hooks of all sound plugins during one run.

    A hook that raises is switched off for that plugin until the end of the run, with one RuntimeWarning; the run and
    the other plugins go on.
    """

    def __init__(self, plugins: Iterable[LoadedPlugin]) -> None:
        self._manager = _manager()
        self._off: set[tuple[str, str]] = set()
        for plugin in plugins:
            if plugin.state == "ok" and plugin.plugin is not None:
                self._manager.register(plugin.plugin, name=plugin.distribution)

    def call(self, name: str, **arguments: Any) -> None:
        """Call hook ``name`` (``avcore_run_started``, ...) of every plugin that has it and is not switched off."""
        for impl in reversed(getattr(self._manager.hook, name).get_hookimpls()):
            if (impl.plugin_name, name) in self._off:
                continue
            wanted = {key: arguments[key] for key in impl.argnames}
            try:
                impl.function(**wanted)
            except Exception as error:
                self._off.add((impl.plugin_name, name))
                warnings.warn(
                    f"Plugin {impl.plugin_name}: its hook {name} failed and is off for the rest of the run: "
                    f"{_one_line(error)}",
                    RuntimeWarning,
                    stacklevel=2,
                )
