"""The plugin under test, with nothing beside it but what it requires itself."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from avcore.discovery import LoadedPlugin, PluginPolicy, declarations, entry_points, load_plugins
from avcore.errors import AVCoreError
from avcore.registry import Registry
from avcore.specs import BackboneSpec, DatasetSpec, Spec

__all__ = ["DataRoot", "Subject"]

DataRoot = str | Path | Callable[[Path], str | Path]
"""A folder of data, or a function that makes one inside the folder it is given and returns its root."""


@dataclass(frozen=True)
class Subject:
    """A plugin under test.

    Attributes:
        plugin: it.
        required: the plugins that its distribution requires, and so on.
        data: name of a data set -> where its files are.
        sets: name of a part, head, task, backbone or data set -> settings that it is checked with, ``key=value``.
        installed: it is an installed distribution, not a module at hand.
        roots: name of a data set -> the folder of its files, as far as it is known by now.
    """

    plugin: LoadedPlugin
    required: tuple[LoadedPlugin, ...] = ()
    data: Mapping[str, DataRoot] = field(default_factory=dict)
    sets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    installed: bool = True
    roots: dict[str, Path] = field(default_factory=dict, repr=False)

    @classmethod
    def of_distribution(cls, name: str, **given: Any) -> "Subject":
        """The installed distribution ``name``; ``given`` are ``data`` and ``sets``.

        Raises:
            AVCoreError: no installed plugin has that name.
        """
        wanted = canonicalize_name(name)
        installed = {
            str(canonicalize_name(entry.dist.name)): entry.dist for entry in entry_points()[0] if entry.dist is not None
        }
        needed: list[str] = [wanted]
        for one in needed:
            for text in (installed[one].requires or []) if one in installed else []:
                requirement = Requirement(text)
                other = str(canonicalize_name(requirement.name))
                applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
                if applies and other in installed and other not in needed:
                    needed.append(other)
        loaded = {
            str(canonicalize_name(plugin.distribution)): plugin
            for plugin in load_plugins(PluginPolicy(allow=frozenset(needed)))
        }
        return cls(loaded[wanted], tuple(loaded[one] for one in needed[1:]), **given)

    @classmethod
    def of_module(cls, module: Any, name: str = "at-hand", **given: Any) -> "Subject":
        """A light module, or a namespace with hooks, that no distribution holds: everything but its packaging."""
        plugin = LoadedPlugin(distribution=name, version="0", specs=declarations(module), plugin=module)
        return cls(plugin, installed=False, **given)

    @property
    def modules(self) -> dict[str, Any]:
        """Distribution -> light module, of the plugin and of those that it requires."""
        return {one.distribution: one.plugin for one in (self.plugin, *self.required) if one.plugin is not None}

    def beside(self, kit: Mapping[str, Any]) -> Registry:
        """The plugin, what it requires and parts of the kit, and of other plugins what none of these offers.

        Other plugins take no part, but for the tasks, parts, heads and data sets that this one may be for: what one
        offers under a name that is taken, or that another offers too, is left out, and so is a default for a task
        that has one.

        Args:
            kit: distribution -> module or namespace with hooks.
        """
        alone = Registry.from_modules({**kit, **self.modules})
        if not self.installed:
            return alone
        loaded = load_plugins(dataclasses.replace(PluginPolicy.from_environment(), strict=False))
        others = [one for one in loaded if one.state == "ok" and one.distribution not in self.modules]
        return Registry([*alone.plugins[1:], *_without_clashes(others, alone.plugins)])

    def specs(self, kind: str) -> tuple[Any, ...]:
        """What the plugin declares of a kind, as in ``avcore_<kind>``."""
        return tuple(self.plugin.specs.get(kind, ()))

    def sets_of(self, *names: str) -> tuple[str, ...]:
        """The settings to check the things of these names with."""
        return tuple(text for name in names for text in self.sets.get(name, ()))

    def check_names(self) -> None:
        """Raise AVCoreError where ``data`` or ``sets`` names what neither the plugin nor what it requires declares."""
        known: set[str] = set()
        for plugin in (self.plugin, *self.required):
            known |= {spec.name for specs in plugin.specs.values() for spec in specs if isinstance(spec, Spec)}
        for key, names in (("data", self.data), ("sets", self.sets)):
            for name in names:
                if name not in known:
                    raise AVCoreError(
                        f"{key} names '{name}', which {self.plugin.distribution} does not declare. "
                        f"It declares: {', '.join(sorted(known)) or 'nothing'}."
                    )

    @cached_property
    def folder(self) -> Path:
        """A folder for files that checks make; it goes when the subject goes."""
        return Path(self._temporary.name)

    @cached_property
    def _temporary(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(prefix="avcore-check-")


def _without_clashes(others: Sequence[LoadedPlugin], own: Sequence[LoadedPlugin]) -> Iterator[LoadedPlugin]:
    """What other plugins offer under names of their own."""
    taken = {name for plugin in own for name in _names(plugin)}
    often = Counter(name for plugin in others for name in set(_names(plugin)))
    taken |= {name for name, count in often.items() if count > 1}
    defaults = {task for plugin in own for one in plugin.specs.get("datasets", ()) for task in _defaults(one)}
    for plugin in others:
        specs = {}
        for kind, found in plugin.specs.items():
            kept = [one for one in found if not taken.intersection(_names_of(kind, one))]
            for number, one in enumerate(kept):
                if isinstance(one, DatasetSpec):
                    free = tuple(task for task in one.default_for if task not in defaults)
                    kept[number] = dataclasses.replace(one, default_for=free)
                    defaults |= {*free}
            specs[kind] = tuple(kept)
        yield dataclasses.replace(plugin, specs=specs)


def _names(plugin: LoadedPlugin) -> Iterator[tuple[str, str]]:
    for kind, found in plugin.specs.items():
        for one in found:
            yield from _names_of(kind, one)


def _names_of(kind: str, spec: Spec) -> set[tuple[str, str]]:
    """Of what kind it is, and each name; methods and parts share theirs."""
    presets = spec.presets if isinstance(spec, BackboneSpec) else ()
    kind = "parts" if kind in ("methods", "prompts", "fusions") else kind
    return {(kind, name) for name in (spec.name, *getattr(spec, "aliases", ()), *presets)}


def _defaults(spec: Spec) -> tuple[str, ...]:
    return spec.default_for if isinstance(spec, DatasetSpec) else ()
