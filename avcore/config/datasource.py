"""Which data set a run reads, and from where: ``--data``, then ``$AVCORE_DATA/<data set>``, then the task's default."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avcore.config.leaves import Layer, Leaf, Leaves
from avcore.config.settings import blamed, coerce
from avcore.errors import ConfigError
from avcore.specs import DatasetSpec

if TYPE_CHECKING:
    from avcore.registry import Registry

__all__ = ["Source", "choose_source"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, its key in the registry, and leaves for ``data.dataset`` and ``data.root``."""

    spec: DatasetSpec | None
    leaves: Leaves


def choose_source(registry: "Registry", task: str, given: Leaves, *, need_data: bool) -> Source:
    """Choose among the data sets that serve ``task``.

    Args:
        given: what the user set; ``data.dataset`` and ``data.root`` are looked at. A root of null counts as not given.
        need_data: False when nothing will be read, only counted or built: roots may be missing, and so may a data set.
            Then the task's published data set (the first in alphabetical order), or the only one that is no demo, is
            taken for its settings, so that a published recipe is not counted with the demo's.

    Raises:
        AVCoreError: a named root is missing, several data sets would fit, or none does.
    """
    name = coerce(str | None, given["data.dataset"], "data.dataset") if "data.dataset" in given else None
    root = _given_root(given, need_data)
    spec: DatasetSpec | None
    if name is not None:
        with blamed("data.dataset", given["data.dataset"]):
            spec = _serving(registry, task, name)
    elif root is not None:
        spec = _fitting(registry, task, [one for one in registry.datasets_for(task) if not one.demo], root)
    else:
        spec = _installed(registry, task, need_data)
    if spec is None:
        return Source(spec=None, leaves={})
    key = registry.datasets.key_of(spec)
    layer = Layer(f"dataset {key}")
    leaves = {"data.dataset": Leaf(key, layer), "data.root": Leaf(None, layer)}
    if root is None:
        found = _folder(spec)
        if found is not None:
            leaves["data.root"] = Leaf(str(found), Layer("$AVCORE_DATA"))
        elif not spec.provide and need_data:
            raise ConfigError(
                f"No files for data set '{spec.name}': name their folder with --data PATH, or set AVCORE_DATA to the "
                f"folder that holds '{spec.name}'."
            )
    return Source(spec=spec, leaves=leaves)


def _given_root(given: Leaves, need_data: bool) -> Path | None:
    leaf = given.get("data.root")
    if leaf is None or leaf.value is None:
        return None
    root: Path = coerce(Path, leaf, "data.root")
    if need_data and not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise ConfigError(f"The data root '{leaf.value}' {kind} ({leaf.layer.name}).")
    return root


def _folder(spec: DatasetSpec) -> Path | None:
    """``$AVCORE_DATA/<name>`` where it exists."""
    parent = os.environ.get("AVCORE_DATA")
    if not parent:
        return None
    if not Path(parent).is_dir():
        raise ConfigError(f"AVCORE_DATA names '{parent}', which is no folder.")
    folder = Path(os.path.abspath(parent)) / spec.name
    return folder if folder.is_dir() else None


def _listed(registry: "Registry", specs: Iterable[DatasetSpec]) -> str:
    return ", ".join(registry.datasets.key_of(spec) for spec in specs)


def _serving(registry: "Registry", task: str, name: str) -> DatasetSpec:
    spec, serving = registry.datasets[name], registry.datasets_for(task)
    if spec not in serving:
        raise ConfigError(
            f"Data set '{name}' does not serve task '{task}'. Those that do: {_listed(registry, serving) or 'none'}."
        )
    return spec


def _only(registry: "Registry", task: str, specs: list[DatasetSpec]) -> DatasetSpec:
    if not specs:
        raise ConfigError(f"No installed plugin reads files for task '{task}'; install one that does.")
    if len(specs) > 1:
        raise ConfigError(
            f"Several data sets serve task '{task}': choose with --set data.dataset=NAME, one of "
            f"{_listed(registry, specs)}."
        )
    return specs[0]


def _fitting(registry: "Registry", task: str, specs: list[DatasetSpec], root: Path) -> DatasetSpec:
    """Of several data sets the one whose files lie under ``root``."""
    if len(specs) < 2 or not root.is_dir():
        return _only(registry, task, specs)
    there = [one for one in specs if any(next(root.glob(mark), None) for mark in one.marks)]
    unmarked = [one for one in specs if not one.marks]
    if not there and not unmarked:
        known = "; ".join(f"{registry.datasets.key_of(one)}: {' or '.join(one.marks)}" for one in specs)
        raise ConfigError(f"'{root}' holds the files of no data set for task '{task}'. They are known by: {known}.")
    return _only(registry, task, there or unmarked)


def _installed(registry: "Registry", task: str, need_data: bool) -> DatasetSpec | None:
    """The data set under ``$AVCORE_DATA``, else the default one of the task."""
    present = [one for one in registry.datasets_for(task) if not one.demo and _folder(one) is not None]
    if present:
        return _only(registry, task, present)
    default = registry.default_dataset(task)
    serving = registry.datasets_for(task)
    if not need_data:
        real = [one for one in serving if not one.demo]
        published = [one for one in real if one.official]
        return next(iter(published or (real if len(real) == 1 else [])), default)
    if default is None:
        named = f" ({_listed(registry, serving)})" if serving else ""
        raise ConfigError(
            f"No data for task '{task}': name a folder with --data PATH, or set AVCORE_DATA to the folder that holds "
            f"the data sets{named}, or install a plugin that brings a default."
        )
    return default
