"""Typed look-up by name of everything that the loaded plugins declare. Imports no torch.

``registry.prompts["copl.rows"]`` returns the record or fails with the near miss. A name that two distributions offer
fails when it is asked for; ``"distribution:name"``, its full name, chooses. What a run or an adapter recorded as full
names is read back by `Registry.recorded`, whatever has been installed since.
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
PartKind = Literal["prompts", "fusions"]

NEAR = 5
"""Presets that the message about an unknown backbone lists."""


class Table(Generic[SpecT]):
    """The records of one kind, by name.

    Args:
        noun: the kind in words, for messages (``"prompt"``).
        offers: (distribution, record) pairs.
        plugins: all plugins, so that a failed look-up can name those that are broken or blocked.
        recorded: full names; each decides whose its name is when it is asked for without a distribution.
    """

    def __init__(
        self,
        noun: str,
        offers: Iterable[tuple[str, SpecT]],
        plugins: Sequence[LoadedPlugin] = (),
        recorded: Iterable[str] = (),
    ) -> None:
        self.noun = noun
        self._recorded = {bare: distribution for distribution, _, bare in (one.rpartition(":") for one in recorded)}
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
        return [self._shortest(*offer) for offer in self._offers]

    def origin(self, name: str) -> str:
        """The distribution that offers ``name``; raises as look-up does."""
        return self._pick(name)[0]

    def origins(self, name: str) -> list[str]:
        """Every distribution that ``name`` may mean one of, in alphabetical order."""
        return sorted({distribution for distribution, _ in self._matching(name)})

    def offers(self, name: str) -> bool:
        """Whether look-up finds ``name``."""
        try:
            self.origin(name)
        except AVCoreError:
            return False
        return True

    def key(self, name: str) -> str:
        """The name to store for what ``name`` finds: no alias, with its distribution only where that is needed."""
        return self._shortest(*self._pick(name))

    def key_of(self, spec: SpecT) -> str:
        """As `key`, of a record of this table, whoever else offers its name."""
        return next(self._shortest(origin, one) for origin, one in self._offers if one is spec)

    def full_name(self, name: str) -> str:
        """``distribution:name`` of what ``name`` finds."""
        return f"{self.origin(name)}:{self.key(name).rpartition(':')[2]}"

    def is_recorded(self, name: str) -> bool:
        """Whether ``name``, without a distribution, was recorded as that of one."""
        return name in self._recorded

    def _shortest(self, distribution: str, spec: SpecT) -> str:
        found = self._matching(spec.name)
        alone = len(found) == 1 and found[0][0] == distribution
        return spec.name if alone else f"{distribution}:{spec.name}"

    def _matching(self, name: str) -> list[tuple[str, SpecT]]:
        wanted, bare = self._split(name)
        return [offer for offer in self._by_name.get(bare, ()) if wanted in ("", offer[0])]

    def _split(self, name: str) -> tuple[str, str]:
        """The distribution that is asked, ``""`` for any, and the name without it."""
        distribution, _, bare = name.rpartition(":")
        return distribution or self._recorded.get(bare, ""), bare

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
        if self.is_recorded(name):
            origin = self._recorded[name]
            message = (
                f"The {self.noun} '{name}' was recorded as that of {origin}, which does not offer it here: install the "
                f"{origin} that did, or choose another by its full name, 'DISTRIBUTION:NAME'."
            )
        else:
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
        _, spec, preset = self._member(name)
        return spec, preset

    def origin(self, name: str) -> str:
        """The distribution that offers the family or its member ``name``; raises as `find` does."""
        return self._member(name)[0]

    def key(self, name: str) -> str:
        """As `Table.key`, of families and their members."""
        distribution, bare = self.origin(name), name.rpartition(":")[2]
        try:
            alone = self.origin(bare) == distribution
        except AVCoreError:
            alone = False
        return bare if alone else f"{distribution}:{bare}"

    def _member(self, name: str) -> tuple[str, BackboneSpec, Mapping[str, Any] | None]:
        """Distribution, family and preset, as `find` chooses them."""
        wanted, bare = self._split(name)
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
        return *first, first[1].presets.get(bare)

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
    """Everything that avcore and the loaded plugins declare.

    Args:
        plugins: those loaded, without avcore itself.
        full_names: kind (as in `tables`) -> full names that decide whose a name is.
    """

    def __init__(self, plugins: Iterable[LoadedPlugin], full_names: Mapping[str, Sequence[str]] | None = None) -> None:
        self.plugins = (_core(), *plugins)
        self._full_names = {kind: tuple(names) for kind, names in (full_names or {}).items()}

        def offers(kind: str, _: type[SpecT]) -> list[tuple[str, SpecT]]:
            declared = ((plugin.distribution, plugin.specs.get(kind, ())) for plugin in self.plugins)
            return [(distribution, cast(SpecT, spec)) for distribution, specs in declared for spec in specs]

        def table(noun: str, kind: str, spec: type[SpecT]) -> Table[SpecT]:
            return Table(noun, offers(kind, spec), self.plugins, self._full_names.get(kind, ()))

        self.backbones = BackboneTable(
            "backbone", offers("backbones", BackboneSpec), self.plugins, self._full_names.get("backbones", ())
        )
        self.prompts = table("prompt", "prompts", PromptSpec)
        self.fusions = table("fusion", "fusions", FusionSpec)
        self.heads = table("head", "heads", HeadSpec)
        self.tasks = table("task", "tasks", TaskSpec)
        self.datasets = table("data set", "datasets", DatasetSpec)
        self.methods = table("method", "methods", MethodSpec)

    @classmethod
    def from_modules(cls, modules: Mapping[str, Any]) -> "Registry":
        """Build one by hand from {distribution: module or namespace with hooks}; anything wrong raises."""
        return cls(
            LoadedPlugin(distribution=name, version="0", specs=declarations(module), plugin=module)
            for name, module in modules.items()
        )

    def recorded(self, full_names: Mapping[str, Sequence[str]]) -> "Registry":
        """The same plugins, where names are those of the distributions that they were recorded with.

        Args:
            full_names: kind (as in `tables`) -> ``distribution:name``, such as `RunConfig.full_names`. A name that is
                not in them means what it means here.
        """
        wanted = {kind: tuple(names) for kind, names in full_names.items()}
        return self if wanted == self._full_names else Registry(self.plugins[1:], wanted)

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

    def plugin(self, table: Table[Any], name: str) -> str:
        """Distribution and version of what offers ``name``, such as ``avcore-x 0.1.0``."""
        origin = table.origin(name)
        version = next(plugin.version for plugin in self.plugins if plugin.distribution == origin)
        return f"{origin} {version}"

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
            # Of several, that of a run which goes on.
            known = [spec for spec in found if self.datasets.is_recorded(self.datasets.key_of(spec))]
            found = known or found
        if len(found) > 1:
            listed = " and ".join(f"'{self.datasets.key_of(spec)}'" for spec in found)
            raise ConfigError(
                f"Task '{task}' has several default data sets, {listed}: choose by --set data.dataset=NAME."
            )
        return found[0] if found else None

    def _serving(self, task: str, attribute: str) -> list[DatasetSpec]:
        spec = self.tasks[task]
        names = {spec.name, *spec.aliases}
        return [dataset for dataset in self.datasets if names.intersection(getattr(dataset, attribute))]

    def parts_of(
        self, names: str | Sequence[str], kind: PartKind, *, home: str = "", parts_only: bool = False
    ) -> tuple[str, ...]:
        """Names of parts from what a user wrote: ``a+b``, ``none``, or a method for all of its prompts or fusions.

        Args:
            names: what was written.
            kind: whether prompts or fusions are meant.
            home: the distribution that wrote it; what it offers itself goes before others of the same name.
            parts_only: no name means a method.

        Raises:
            AVCoreError: an unknown name, one that a method and a part of different distributions share, a method
                without such parts, or a part of the other kind.
        """
        written = [names] if isinstance(names, str) else names
        listed = [one.strip() for entry in written for one in entry.split("+")]
        if listed == ["none"]:
            return ()
        table = self._parts(kind)
        parts: list[str] = []
        for name in listed:
            if parts_only:
                parts.append(table.key(name))
            else:
                parts.extend(self._parts_named(self._own(name, table, home), kind))
        return tuple(dict.fromkeys(parts))

    def own_part(self, method: str, part: str, kind: PartKind) -> str:
        """How to ask for a part that a method lists: that of the method's own distribution, where it offers one.

        Raises:
            AVCoreError: it offers none, and the name is both a method's and a part's of other distributions.
        """
        table = self._parts(kind)
        own = f"{self.methods.origin(method)}:{part}"
        if own in table:
            return table.key(own)
        try:
            self._refuse_shared(part, kind)
        except AVCoreError as error:
            error.args = (f"Method '{method}' lists a name that is not clear. {error}",)
            raise
        return part

    def to_ask(self, table: Table[Any], name: str) -> str:
        """As `Table.key` of a method or part, but in full also where a method and a part share the name."""
        key = table.key(name)
        kinds: tuple[PartKind, ...] = ("prompts", "fusions")
        for kind in kinds:
            try:
                self._refuse_shared(key, kind)
            except AVCoreError:
                return table.full_name(name)
        return key

    def _parts(self, kind: PartKind) -> Table[Any]:
        return self.prompts if kind == "prompts" else self.fusions

    def _own(self, name: str, table: Table[Any], home: str) -> str:
        own = f"{home}:{name}"
        return own if home and (own in self.methods or own in table) else name

    def _refuse_shared(self, name: str, kind: PartKind) -> None:
        """Raise where ``name`` is a part and a method with parts of that kind, of different distributions."""
        table = self._parts(kind)
        parts = table.origins(name)
        methods = (
            [origin for origin in self.methods.origins(name) if _listed_by(self.methods[f"{origin}:{name}"], kind)]
            if ":" not in name
            else []
        )
        if parts and methods and parts != methods:
            choice = " or ".join(f"'{distribution}:{name}'" for distribution in sorted({*parts, *methods}))
            raise ConfigError(
                f"'{name}' is the method of {' and of '.join(methods)} and the {table.noun} of "
                f"{' and of '.join(parts)}: write {choice}."
            )

    def _parts_named(self, name: str, kind: PartKind) -> list[str]:
        table = self._parts(kind)
        other: Table[Any] = self.fusions if kind == "prompts" else self.prompts
        # A recorded name is a part's, and whoever offers a method of that name now changes nothing of it.
        if table.is_recorded(name) and table.origins(name) != self.methods.origins(name):
            return [table.key(name)]
        self._refuse_shared(name, kind)
        if name in self.methods:
            method = self.methods[name]
            if own := _listed_by(method, kind):
                return [table.key(self.own_part(name, part, kind)) for part in own]
            if name not in table:
                others = _listed_by(method, "fusions" if kind == "prompts" else "prompts")
                offered = ", ".join(others) or "no parts at all"
                raise ConfigError(
                    f"Method '{name}' has no {table.noun}s; it offers {offered} (as --{_option(other)} {name})."
                )
        if name not in table and name in other:
            raise ConfigError(f"'{name}' is a {other.noun}, not a {table.noun}: list it with --{_option(other)}.")
        return [table.key(name)]


def _listed_by(method: MethodSpec, kind: PartKind) -> Sequence[str]:
    return method.prompts if kind == "prompts" else method.fusions


def _option(table: Table[Any]) -> str:
    return "prompts" if table.noun == "prompt" else "fusion"


def load_registry() -> Registry:
    """The registry of the installed plugins; loaded once for each setting of the ``AVCORE_*`` plugin variables."""
    return _load_registry(PluginPolicy.from_environment())


@cache
def _load_registry(policy: PluginPolicy) -> Registry:
    return Registry(load_plugins(policy))
