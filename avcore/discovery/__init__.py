"""Find and load plugins, each one alone, so that a broken one takes nothing with it.

pluggy's own loader stops at the first failing import, ignores misspelt hooks and leaves a half-registered plugin live.
Here every entry point is imported by itself, its hooks are called on a plugin manager of its own and its records are
checked; only a plugin that passed all of it is seen by anybody. Imports no torch.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from avcore import hookspecs
from avcore.discovery.blame import culprit
from avcore.discovery.declarations import declarations
from avcore.discovery.lifecycle import Lifecycle
from avcore.discovery.records import FOUNDATIONS, KINDS, LoadedPlugin, PluginPolicy, one_line
from avcore.errors import PluginError, Preempted

__all__ = [
    "KINDS",
    "Lifecycle",
    "LoadedPlugin",
    "PluginPolicy",
    "avcore_version",
    "culprit",
    "declarations",
    "entry_points",
    "load_plugins",
]

_logger = logging.getLogger(__name__)


def avcore_version() -> str | None:
    """The installed version of avcore; None when it runs from a source tree that was never installed."""
    try:
        return importlib.metadata.version("avcore")
    except importlib.metadata.PackageNotFoundError:
        return None


def load_plugins(policy: PluginPolicy | None = None, *, version: str | None = None) -> tuple[LoadedPlugin, ...]:
    """Load every installed plugin, one by one, in the order of distribution names.

    One line on stderr names each plugin that is broken, or that is sound and imports what makes every command slow.

    Args:
        policy: what may be imported; the environment's by default.
        version: the version of avcore that requirements are checked against; the installed one by default.

    Raises:
        AVCoreError: the policy names an unknown distribution, or is strict and something is wrong with a plugin.
    """
    policy = PluginPolicy.from_environment() if policy is None else policy
    version = avcore_version() if version is None else version
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    entries, unreadable = entry_points()
    for entry in entries:
        found.setdefault(_distribution(entry), []).append(entry)
    policy.check([*found, *(plugin.distribution for plugin in unreadable)])

    loaded = []
    for _, entries in sorted(found.items()):
        plugin = _load(entries, policy, version)
        _report(plugin, policy)
        loaded.append(plugin)
    for plugin in unreadable:
        _report(plugin, policy)
    return (*loaded, *unreadable)


def _report(plugin: LoadedPlugin, policy: PluginPolicy) -> None:
    if not plugin.problem:
        return
    named = f"{plugin.distribution} {plugin.version} {plugin.problem}"
    if policy.strict:
        raise PluginError(f"Plugin {named} See 'avcore plugins doctor'.")
    left_out = "left out, " if plugin.state == "broken" else ""
    _logger.warning("plugin %s (%ssee 'avcore plugins doctor')", named, left_out)


# --------------------------------------------------------------------------------------------------------------------
# What is installed


def entry_points() -> tuple[list[importlib.metadata.EntryPoint], list[LoadedPlugin]]:
    """The entry points of plugins, and a record for each distribution whose own cannot be read."""
    group = hookspecs.ENTRY_POINT_GROUP
    try:
        return list(importlib.metadata.entry_points(group=group)), []
    except Exception:
        # One malformed file anywhere in the environment makes the whole listing fail.
        return _entry_points_one_by_one(group)


def _entry_points_one_by_one(group: str) -> tuple[list[importlib.metadata.EntryPoint], list[LoadedPlugin]]:
    entries: list[importlib.metadata.EntryPoint] = []
    unreadable: list[LoadedPlugin] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name = _metadata(distribution, "name")
        if name in seen:
            continue
        if name:
            seen.add(name)
        try:
            entries += [entry for entry in distribution.entry_points if entry.group == group]
        except Exception as error:
            if f"[{group}]" in _text(distribution, "entry_points.txt"):
                record = LoadedPlugin(
                    distribution=name or "unknown",
                    version=_metadata(distribution, "version") or "unknown",
                    origin=_origin(distribution),
                    state="broken",
                    error=f"its entry_points.txt cannot be read: {one_line(error)}",
                    traceback=traceback.format_exc(),
                )
                unreadable.append(record)
    return entries, unreadable


def _metadata(distribution: importlib.metadata.Distribution | None, key: Literal["name", "version"]) -> str:
    """What the metadata say; ``""`` where they are missing, as of a distribution half removed, or not UTF-8."""
    with contextlib.suppress(UnicodeDecodeError):
        return (getattr(distribution, key) if distribution else None) or ""
    return ""


def _text(distribution: importlib.metadata.Distribution, file: str) -> str:
    try:
        return distribution.read_text(file) or ""
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return _metadata(entry.dist, "name") or _module(entry)


def _module(entry: importlib.metadata.EntryPoint) -> str:
    """The module that it names, or the whole value where that is no reference."""
    found = entry.pattern.match(entry.value)
    return str(found["module"]) if found else entry.value


def _origin(distribution: importlib.metadata.Distribution | None) -> str:
    if distribution is None:
        return ""
    with contextlib.suppress(ValueError, AttributeError, KeyError):
        source = json.loads(distribution.read_text("direct_url.json") or "{}")
        if source.get("dir_info", {}).get("editable"):
            return str(source["url"]).removeprefix("file://")
    return str(distribution.locate_file(""))


# --------------------------------------------------------------------------------------------------------------------
# One plugin


def _load(entries: list[importlib.metadata.EntryPoint], policy: PluginPolicy, version: str | None) -> LoadedPlugin:
    entry = entries[0]
    record = LoadedPlugin(
        distribution=_distribution(entry),
        version=_metadata(entry.dist, "version") or "unknown",
        entry_point=entry.name,
        module=entry.value,
        origin=_origin(entry.dist),
    )
    if objection := policy.objection(record.distribution):
        return dataclasses.replace(record, state="blocked", error=objection)
    before = frozenset(sys.modules)
    start = time.perf_counter()
    try:
        if len(entries) > 1:
            listed = ", ".join(sorted(f"{one.name} = {one.value}" for one in entries))
            raise PluginError(f"it has {len(entries)} entry points in '{entry.group}' ({listed}); one is allowed.")
        if not entry.pattern.match(entry.value):
            raise PluginError(f"its entry point '{entry.name}' is '{entry.value}'; it must name a module.")
        if entry.dist is not None and version is not None:
            _check_requirement(_requires(entry.dist), version)
        # What a plugin prints must not end up in what a command prints, which may be JSON.
        with contextlib.redirect_stdout(sys.stderr):
            plugin = entry.load()
            specs = declarations(plugin)
    except (KeyboardInterrupt, Preempted):
        raise
    except BaseException as error:
        _forget(_module(entry), before)
        record = dataclasses.replace(record, state="broken", error=one_line(error), traceback=traceback.format_exc())
    else:
        record = dataclasses.replace(record, specs=specs, plugin=plugin)
    heavy = tuple(name for name in FOUNDATIONS if name in sys.modules and name not in before)
    return dataclasses.replace(record, import_ms=(time.perf_counter() - start) * 1000, heavy=heavy)


def _forget(module: str, before: frozenset[str]) -> None:
    """Take what a broken plugin imported of its own package out again, so that nobody meets half of it."""
    package = module.partition(".")[0]
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == package:
            del sys.modules[name]


def _requires(distribution: importlib.metadata.Distribution) -> list[str]:
    try:
        return distribution.requires or []
    except UnicodeDecodeError as error:
        raise PluginError(f"its METADATA cannot be read: {error}.") from error


def _check_requirement(requires: Iterable[str], version: str) -> None:
    for text in requires:
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ours = canonicalize_name(requirement.name) == "avcore" and applies
        if ours and not requirement.specifier.contains(version, prereleases=True):
            raise PluginError(f"it requires {requirement}, but avcore {version} is installed.")
