"""Typed look-up by name of everything that the loaded plugins declare. Imports no torch.

``registry.prompts["copl.rows"]`` returns the record or fails with the near miss. A name that two distributions offer
fails when it is asked for; ``"distribution:name"`` chooses.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import Any, Generic, Literal, TypeVar, cast

from avcore import builtin
from avcore.discovery import LoadedPlugin, PluginPolicy, avcore_version, declarations, load_plugins
from avcore.errors import AVCoreError, ConfigError, did_you_mean
from avcore.specs import (
    BackboneSpec,
    DatasetSpec,
    FusionSpec,
    HeadSpec,
    MethodSpec,
    PartSpec,
    PromptSpec,
    Spec,
    TaskSpec,
)

__all__ = ["BackboneTable", "PartKind", "Registry", "Table", "load_registry"]

SpecT = TypeVar("SpecT", bound=Spec)
PartKind = Literal["prompts", "fusion"]

NEAR = 5
"""Presets that the message about an unknown backbone lists."""


class Table(Generic[SpecT]):
    """The records of one kind, by name.

    Args:
        noun: the kind in words, for messages (``"prompt"``).
        offers: (distribution, record) pairs.
        plugins: all plugins, so that a failed look-up can name those that are broken or blocked.
    """

    def __init__(self, noun: str, offers: Iterable[tuple[str, SpecT]], plugins: Sequence[LoadedPlugin] = ()) -> None:
        self.noun = noun
        self._offers = list(offers)
        self._plugins = plugins
        self._by_name: dict[str, list[tuple[str, SpecT]]] = {}
        for distribution, spec in self._offers:
            for name in (spec.name, *getattr(spec, "aliases", ())):
                self._by_name.setdefault(name, []).append((distribution, spec))

    def __getitem__(self, name: str) -> SpecT:
        """The record called ``name`` or ``distribution:name``.

        Raises:
            AVCoreError: there is none, or two distributions offer it.
        """
        return self._pick(name)[1]

    def __contains__(self, name: str) -> bool:
        return bool(self._matching(name))

    def __iter__(self) -> Iterator[SpecT]:
        return (spec for _, spec in self._offers)

    def __len__(self) -> int:
        return len(self._offers)

    def names(self) -> list[str]:
        """Every name in alphabetical order, without aliases."""
        return sorted({spec.name for spec in self})

    def unique_names(self) -> list[str]:
        """As `key`, for every record, in the order in which they were declared."""
        return [spec.name if self._alone(spec.name) else f"{origin}:{spec.name}" for origin, spec in self._offers]

    def origin(self, name: str) -> str:
        """The distribution that offers ``name``; raises as look-up does."""
        return self._pick(name)[0]

    def key(self, name: str) -> str:
        """The name to store for what ``name`` finds: no alias, with its distribution only where that is needed."""
        distribution, spec = self._pick(name)
        return spec.name if self._alone(spec.name) else f"{distribution}:{spec.name}"

    def _alone(self, name: str) -> bool:
        return len(self._by_name[name]) == 1

    def _matching(self, name: str) -> list[tuple[str, SpecT]]:
        distribution, _, bare = name.rpartition(":")
        return [offer for offer in self._by_name.get(bare, ()) if distribution in ("", offer[0])]

    def _pick(self, name: str) -> tuple[str, SpecT]:
        found = self._matching(name)
        if not found:
            raise self._unknown(name, self._by_name)
        if len(found) > 1:
            raise self._ambiguous(name, [distribution for distribution, _ in found])
        return found[0]

    def _ambiguous(self, name: str, distributions: Iterable[str]) -> AVCoreError:
        listed = sorted(set(distributions))
        choice = " or ".join(f"'{distribution}:{name}'" for distribution in listed)
        return ConfigError(f"The {self.noun} '{name}' is offered by {' and by '.join(listed)}: write {choice}.")

    def _unknown(self, name: str, choices: Iterable[str]) -> AVCoreError:
        message = f"Unknown {self.noun} '{name}'.{did_you_mean(name, choices)} {self._available(name)}"
        for state in ("broken", "blocked"):
            named = [f"{plugin.distribution} ({plugin.error})" for plugin in self._plugins if plugin.state == state]
            if named:
                message += f" Plugins that are {state}: {'; '.join(named)}: see 'avcore plugins doctor'."
        error = ConfigError(message)
        for plugin in self._plugins:
            if plugin.traceback:
                error.add_note(f"Plugin {plugin.distribution} is broken:\n{plugin.traceback}")
        return error

    def _available(self, name: str) -> str:
        """What there is, for the message about an unknown ``name``."""
        return f"Available: {', '.join(self.names()) or 'none installed'}."


class BackboneTable(Table[BackboneSpec]):
    """Backbone families, and their members by `find`."""

    def find(self, name: str) -> tuple[BackboneSpec, Mapping[str, Any] | None]:
        """The family that knows the backbone ``name``, and its preset, None where only a pattern or the family matches.

        A preset goes before a family's own name, that before a pattern; of several patterns the longest is taken.

        Raises:
            AVCoreError: no family knows it, or those of two distributions do.
        """
        wanted, _, bare = name.rpartition(":")
        ranked: list[tuple[tuple[int, int], str, BackboneSpec]] = []
        for distribution, spec in self._offers:
            if wanted not in ("", distribution):
                continue
            patterns = [len(pattern) for pattern in spec.patterns if fnmatch.fnmatchcase(bare, pattern)]
            if bare in spec.presets:
                ranked.append(((3, 0), distribution, spec))
            elif bare == spec.name:
                ranked.append(((2, 0), distribution, spec))
            elif patterns:
                ranked.append(((1, max(patterns)), distribution, spec))
        if not ranked:
            presets = [preset for spec in self for preset in spec.presets]
            raise self._unknown(name, [*presets, *self.names()])
        best = max(rank for rank, _, _ in ranked)
        first, *others = [(distribution, spec) for rank, distribution, spec in ranked if rank == best]
        if others:
            raise self._ambiguous(bare, [distribution for distribution, _ in (first, *others)])
        return first[1], first[1].presets.get(bare)

    def _available(self, name: str) -> str:
        """The presets most like ``name``, and the families."""
        presets = {preset for spec in self for preset in spec.presets}
        if not presets:
            return super()._available(name)
        bare = name.rpartition(":")[2]
        near = sorted(presets, key=lambda preset: (-SequenceMatcher(None, bare, preset).ratio(), preset))[:NEAR]
        families = ", ".join(self.names())
        return f"Nearest presets: {', '.join(near)}. Families ('avcore plugins show FAMILY' lists all): {families}."


def _core() -> LoadedPlugin:
    """avcore itself as a plugin, without an entry point."""
    return LoadedPlugin(
        distribution="avcore",
        version=avcore_version() or "0",
        module=builtin.__name__,
        specs=declarations(builtin),
        plugin=builtin,
    )


class Registry:
    """Everything that avcore and the loaded plugins declare."""

    def __init__(self, plugins: Iterable[LoadedPlugin]) -> None:
        self.plugins = (_core(), *plugins)

        def offers(kind: str, _: type[SpecT]) -> list[tuple[str, SpecT]]:
            declared = ((plugin.distribution, plugin.specs.get(kind, ())) for plugin in self.plugins)
            return [(distribution, cast(SpecT, spec)) for distribution, specs in declared for spec in specs]

        self.backbones = BackboneTable("backbone", offers("backbones", BackboneSpec), self.plugins)
        self.prompts = Table("prompt", offers("prompts", PromptSpec), self.plugins)
        self.fusions = Table("fusion", offers("fusions", FusionSpec), self.plugins)
        self.heads = Table("head", offers("heads", HeadSpec), self.plugins)
        self.tasks = Table("task", offers("tasks", TaskSpec), self.plugins)
        self.datasets = Table("data set", offers("datasets", DatasetSpec), self.plugins)
        self.methods = Table("method", offers("methods", MethodSpec), self.plugins)

    @classmethod
    def from_modules(cls, modules: Mapping[str, Any]) -> "Registry":
        """Build one by hand from {distribution: module or namespace with hooks}; anything wrong raises."""
        return cls(
            LoadedPlugin(distribution=name, version="0", specs=declarations(module), plugin=module)
            for name, module in modules.items()
        )

    @property
    def tables(self) -> dict[str, Table[Any]]:
        """Kind (as in ``avcore_<kind>``) -> table."""
        return {
            "methods": self.methods,
            "prompts": self.prompts,
            "fusions": self.fusions,
            "backbones": self.backbones,
            "heads": self.heads,
            "tasks": self.tasks,
            "datasets": self.datasets,
        }

    def part(self, name: str) -> PartSpec:
        """The prompt or fusion called ``name``."""
        if name in self.prompts or name not in self.fusions:
            return self.prompts[name]
        return self.fusions[name]

    def default_head(self, task: str) -> HeadSpec:
        """The head that a task names."""
        return self.heads[self.tasks[task].head]

    def datasets_for(self, task: str) -> list[DatasetSpec]:
        """The data sets that serve a task, in alphabetical order."""
        return sorted(self._serving(task, "tasks"), key=lambda spec: spec.name)

    def default_dataset(self, task: str) -> DatasetSpec | None:
        """The data set that a task runs on when the user names no data.

        Raises:
            AVCoreError: two data sets claim to be it.
        """
        found = self._serving(task, "default_for")
        if len(found) > 1:
            listed = " and ".join(f"'{self.datasets.key(spec.name)}'" for spec in found)
            raise ConfigError(
                f"Task '{task}' has several default data sets, {listed}: choose by --set data.dataset=NAME."
            )
        return found[0] if found else None

    def _serving(self, task: str, attribute: str) -> list[DatasetSpec]:
        spec = self.tasks[task]
        names = {spec.name, *spec.aliases}
        return [dataset for dataset in self.datasets if names.intersection(getattr(dataset, attribute))]

    def parts_of(self, names: str | Sequence[str], kind: PartKind) -> tuple[str, ...]:
        """Names of parts from what a user wrote: ``a+b``, ``none``, or a method for all of its prompts or fusions.

        Raises:
            AVCoreError: an unknown name, a method without such parts, or a part of the other kind.
        """
        written = [names] if isinstance(names, str) else names
        listed = [one.strip() for entry in written for one in entry.split("+")]
        if listed == ["none"]:
            return ()
        parts: list[str] = []
        for name in listed:
            parts.extend(self._parts_named(name, kind))
        return tuple(dict.fromkeys(parts))

    def own_part(self, method: str, part: str, kind: PartKind) -> str:
        """How to ask for a part that a method lists: that of the method's own distribution, where it offers one."""
        table: Table[Any] = self.prompts if kind == "prompts" else self.fusions
        own = f"{self.methods.origin(method)}:{part}"
        return table.key(own) if own in table else part

    def _parts_named(self, name: str, kind: PartKind) -> list[str]:
        table: Table[Any] = self.prompts if kind == "prompts" else self.fusions
        other: Table[Any] = self.fusions if kind == "prompts" else self.prompts
        if name in self.methods:
            method = self.methods[name]
            own, others = method.prompts, method.fusions
            if kind == "fusion":
                own, others = others, own
            if own:
                return [table.key(self.own_part(name, part, kind)) for part in own]
            if name not in table:
                offered = ", ".join(others) or "no parts at all"
                raise ConfigError(
                    f"Method '{name}' has no {table.noun}s; it offers {offered} (as --{_option(other)} {name})."
                )
        if name not in table and name in other:
            raise ConfigError(f"'{name}' is a {other.noun}, not a {table.noun}: list it with --{_option(other)}.")
        return [table.key(name)]


def _option(table: Table[Any]) -> str:
    return "prompts" if table.noun == "prompt" else "fusion"


def load_registry() -> Registry:
    """The registry of the installed plugins; loaded once for each setting of the ``AVCORE_*`` plugin variables."""
    return _load_registry(PluginPolicy.from_environment())


@cache
def _load_registry(policy: PluginPolicy) -> Registry:
    return Registry(load_plugins(policy))
