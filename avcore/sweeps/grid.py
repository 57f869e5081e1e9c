"""A grid of runs as written: one YAML file that says what is run, with which seeds, and what is compared.

::

    summary: one line
    task: TASK                       # what all rows share: any argument of a run
    seeds: [0, 1, 2]
    set: [optim.lr=1e-3]
    rows:                            # a list of runs by name, ...
      plain: {method: METHOD}
      narrow: {method: METHOD, set: [parts.METHOD.length=4]}
    vary: {visual: [A, B], optim.lr: [1e-4, 1e-3]}   # ... and their cross product with arguments and settings
    against: plain                   # the row that differences are told from

Methods ship the tables of their papers so, as ``sweeps/NAME.yaml`` beside their recipes; ``METHOD:NAME`` names one.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from itertools import product
from pathlib import Path
from typing import Any

from avcore.config.leaves import Layer, Leaf
from avcore.config.recipes import parse_yaml
from avcore.config.settings import coerce, field_types
from avcore.errors import AVCoreError, ConfigError, did_you_mean, why
from avcore.registry import Registry

__all__ = ["ARGUMENTS", "Grid", "Row", "find_grid", "grid_from", "load_grid", "shipped_grids"]

ARGUMENTS = {
    "method": "--method",
    "task": "--task",
    "recipe": "--recipe",
    "prompts": "--prompts",
    "fusions": "--fusion",
    "streams": "--streams",
    "visual": "--visual",
    "audio": "--audio",
    "text": "--text",
    "text_audio": "--text-audio",
    "data": "--data",
    "protocol": "--protocol",
    "start": "--start",
    "epochs": "--epochs",
}
"""What a grid, a row and ``vary`` may say of a run, each with its option of ``avcore run``."""
OF_TRAINING = ("method", "recipe", "prompts", "fusions", "start", "epochs")
"""Those that mean nothing to a row that is not trained."""
MOST = 10_000
"""Runs of one grid."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: what each of its runs is asked for, which differ in their seed.

    Attributes:
        name: unique in its grid.
        arguments: argument of `avcore.run` -> value.
        set: further settings, ``key=value``.
        evaluate: the splits that are measured at the end.
        seeds: of its runs; a row without training has one, whose seed means nothing.
        zero_shot: frozen backbones and the names of classes, no training.
        published: metric -> what the paper prints in this row.
    """

    name: str
    arguments: Mapping[str, str | int]
    set: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ("test",)
    seeds: tuple[int, ...] = (0,)
    zero_shot: bool = False
    published: Mapping[str, int | float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A folder's name: the row's own, and a digest of what is asked for, so that another wish is another folder."""
        asked = [dict(self.arguments), list(self.set), list(self.evaluate), self.zero_shot]
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        readable = re.sub(r"[^\w.+=-]+", "-", self.name).strip("-.")[:60]
        return f"{readable}-{digest}" if readable else digest

    def command(
        self, seed: int, directory: Path, *, data: str | None, device: str | None, sets: Sequence[str]
    ) -> list[str]:
        """What stands behind ``avcore`` to make, or to go on with, one of its runs in ``directory``.

        Args:
            seed: of the run.
            directory: where it goes.
            data, device, sets: what differs from machine to machine; ``data`` yields to the row's own.
        """
        given = dict(self.arguments) if "data" in self.arguments or data is None else {**self.arguments, "data": data}
        options = [text for name, value in given.items() for text in (ARGUMENTS[name], str(value))]
        settings = [*self.set, *sets]
        if device is not None:
            options += ["--device", device]
        if self.zero_shot:
            start, end = ["eval", "--zero-shot"], [text for split in self.evaluate for text in ("--split", split)]
        else:
            settings.append(f"train.evaluate=[{','.join(self.evaluate)}]")
            start, end = ["run"], ["--seed", str(seed), "--resume"]
        return [*start, *options, *(f"--set={one}" for one in settings), "--out", str(directory), *end]


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What stands at the top of a file, and what of it in a row."""

    method: str | None = None
    task: str | None = None
    recipe: str | None = None
    prompts: str | None = None
    fusions: str | None = None
    streams: str | None = None
    visual: str | None = None
    audio: str | None = None
    text: str | None = None
    text_audio: str | None = None
    data: str | None = None
    protocol: str | None = None
    start: str | None = None
    epochs: int | None = None
    set: tuple[str, ...] = ()
    evaluate: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _RowFile(_Shared):
    zero_shot: bool = False
    published: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _GridFile(_Shared):
    summary: str = ""
    score: str | None = None
    rows: Mapping[str, Any] = field(default_factory=dict)
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    against: str | None = None
    dataset: str | None = None
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid as read.

    Attributes:
        name: of the file, without its ending.
        summary: one line.
        rows: in their order, which is that of the tables.
        score: the metric of the tables; None for the one that selects the best checkpoint.
        groups: further columns: name -> the scores of test whose mean it is.
        against: the row that differences are told from; None for none.
        dataset, source: the data set that published figures are of, and where they are printed.
        notes: lines below the tables.
        tree: the file, as plain data.
    """

    name: str
    summary: str
    rows: tuple[Row, ...]
    score: str | None
    groups: Mapping[str, Sequence[str]]
    against: str | None
    dataset: str | None
    source: str
    notes: tuple[str, ...]
    tree: Mapping[str, Any]

    @property
    def size(self) -> int:
        """How many runs it has."""
        return sum(len(row.seeds) for row in self.rows)


def load_grid(file: Path) -> Grid:
    """Read a file.

    Raises:
        AVCoreError: it cannot be read, or a key or a value is none; names the file and the key.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise AVCoreError(f"Cannot read {file}: {why(error)}. Name a file that says what is to be run.") from error
    return grid_from(parse_yaml(text, str(file)), file.stem, str(file))


def shipped_grids(registry: Registry) -> dict[str, Traversable]:
    """The grids that installed methods ship, by ``METHOD:NAME``."""
    found = {}
    for spec in registry.methods:
        folder = importlib.resources.files(spec.recipes) / "sweeps" if spec.recipes else None
        if folder is not None and folder.is_dir():
            for file in sorted(folder.iterdir(), key=lambda one: one.name):
                if file.name.endswith(".yaml"):
                    found[f"{registry.methods.key_of(spec)}:{file.name.removesuffix('.yaml')}"] = file
    return found


def find_grid(name: str, registry: Registry) -> Grid:
    """The grid in a file, or the one that a method ships as ``METHOD:NAME``.

    Raises:
        AVCoreError: there is neither; names the nearest that is shipped.
    """
    if Path(name).is_file():
        return load_grid(Path(name))
    shipped = shipped_grids(registry)
    if name in shipped:
        text = shipped[name].read_text(encoding="utf-8")
        return grid_from(parse_yaml(text, name), name.replace(":", "-"), name)
    raise AVCoreError(
        f"There is no file '{name}', and no installed method ships such a sweep.{did_you_mean(name, shipped)} "
        "'avcore sweep --list' names those that are shipped."
    )


def grid_from(tree: Mapping[str, Any], name: str, source: str) -> Grid:
    """A grid out of plain data; see `load_grid` for what it raises."""
    file = _GridFile(**_checked(_GridFile, tree, source, ""))
    rows = {key: _RowFile(**_checked(_RowFile, row or {}, source, f"rows.{key}.")) for key, row in file.rows.items()}
    shared = {key: getattr(file, key) for key in field_types(_Shared) if key in tree}
    made = []
    for key, row in (rows or {"": _RowFile()}).items():
        own = {name for name in field_types(_Shared) if name in (file.rows.get(key) or {})}
        for words, arguments, settings in _varied(file.vary, source):
            merged = {**shared, **{name: getattr(row, name) for name in own}, **arguments}
            made.append(_row(", ".join(filter(None, (key, *words))), row, file, merged, settings, source))
    _refuse_unfit(made, file, source)
    return Grid(
        name=name,
        summary=file.summary,
        rows=tuple(made),
        score=file.score,
        groups=file.groups,
        against=file.against,
        dataset=file.dataset,
        source=file.source,
        notes=file.notes,
        tree=dict(tree),
    )


def _row(name: str, row: _RowFile, file: _GridFile, merged: Mapping[str, Any], settings: Any, source: str) -> Row:
    arguments = {key: merged[key] for key in ARGUMENTS if merged.get(key) is not None}
    if "task" not in arguments:
        raise ConfigError(f"{source}: row '{name}' has no task: write task: NAME at the top or in the row.")
    seeds = merged.get("seeds") or (0,)
    if row.zero_shot:
        seeds = seeds[:1]
        if unused := [key for key in OF_TRAINING if getattr(row, key) is not None]:
            raise ConfigError(f"{source}: rows.{name} has zero_shot and {', '.join(unused)}: leave one of them out.")
        arguments = {key: value for key, value in arguments.items() if key not in OF_TRAINING}
    return Row(
        name=name,
        arguments=arguments,
        set=(*file.set, *row.set, *settings),
        evaluate=tuple(merged.get("evaluate") or ("test",)),
        seeds=tuple(seeds),
        zero_shot=row.zero_shot,
        published=row.published,
    )


def _varied(vary: Mapping[str, Sequence[Any]], source: str) -> Iterator[tuple[list[str], dict[str, Any], list[str]]]:
    """The cross product: words for the row's name, arguments, settings."""
    for key, values in vary.items():
        if "." not in key and key not in (*ARGUMENTS, "baseline", "trivial", "shapley", "frozen"):
            near = did_you_mean(key, ARGUMENTS)
            raise ConfigError(
                f"{source}: vary.{key} is no argument of a run and no setting.{near} Arguments: "
                f"{', '.join(ARGUMENTS)}; a setting is written as optim.lr."
            )
        if not values:
            raise ConfigError(f"{source}: vary.{key} is empty: give a value or more, or leave it out.")
    for chosen in product(*vary.values()):
        pairs = dict(zip(vary, chosen, strict=True))
        words = [str(value) if key in ARGUMENTS else f"{key}={_written(value)}" for key, value in pairs.items()]
        arguments = {
            key: coerce(field_types(_Shared)[key], Leaf(value, Layer(source)), f"vary.{key}")
            for key, value in pairs.items()
            if key in ARGUMENTS
        }
        yield words, arguments, [f"{key}={_written(value)}" for key, value in pairs.items() if key not in ARGUMENTS]


def _written(value: Any) -> str:
    """A value as ``--set`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _checked(kind: type, tree: Any, source: str, at: str) -> dict[str, Any]:
    """The keys of a section, each of its type.

    Raises:
        ConfigError: it is no section, or a key is unknown or of another type.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source}: {at.rstrip('.')} is {tree!r}; it must be a mapping of keys and values.")
    kinds = field_types(kind)
    for key in tree:
        if key not in kinds:
            raise ConfigError(
                f"{source}: unknown key '{at}{key}'.{did_you_mean(str(key), kinds)} Keys: {', '.join(kinds)}."
            )
    layer = Layer(source)
    return {key: coerce(kinds[key], Leaf(value, layer), f"{at}{key}") for key, value in tree.items()}


def _refuse_unfit(rows: Sequence[Row], file: _GridFile, source: str) -> None:
    names = [row.name for row in rows]
    if not file.rows and not file.vary:
        raise ConfigError(f"{source} has no rows: name runs under rows:, or write vary: {{method: [...]}}.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{source}: two rows are called '{twice}': leave one value of vary out.")
    if file.against is not None and file.against not in names:
        near = did_you_mean(file.against, names)
        raise ConfigError(f"{source}: against: '{file.against}' is no row.{near} Rows: {', '.join(names)}.")
    for row in rows:
        if len(set(row.seeds)) != len(row.seeds):
            raise ConfigError(f"{source}: seeds {list(row.seeds)} of '{row.name}' name one twice.")
        if row.published and not (file.source and file.dataset):
            raise ConfigError(f"{source}: '{row.name}' has published figures: say dataset: and source: at the top.")
    if (size := sum(len(row.seeds) for row in rows)) > MOST:
        raise ConfigError(f"{source} asks for {size:,} runs; {MOST:,} are the most: split it into several files.")
