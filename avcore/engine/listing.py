"""The runs that lie in a folder, read without loading a model, as far as they can be read. Imports no torch."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from avcore.config.names import full_names_in
from avcore.config.recipes import parse_yaml
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError, why
from avcore.registry import Registry

__all__ = ["ListedRun", "find_runs", "read_run"]

T = TypeVar("T")

MARKS = ("config.yaml", "results.json", "log.txt", "checkpoints")
"""What a run writes into its directory; any of it tells a run from a folder of runs."""
DEPTH = 3
"""Folders within folders that are searched for runs."""
STAMP = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """What a run directory says of itself; None where it says nothing.

    Attributes:
        directory: where it lies.
        problem: why it cannot be used as it is; empty where it can.
        results, config: as far as they could be read.
        epochs: completed with the latest checkpoint, of those asked for: (done, asked for).
        started: when (UTC).
    """

    directory: Path
    problem: str = ""
    results: RunResult | None = None
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    epochs: tuple[int | None, int | None] = (None, None)
    started: datetime | None = None

    @property
    def status(self) -> str:
        """As in its results; ``broken`` when there is a problem."""
        return "broken" if self.problem or self.results is None else self.results.status

    def names_in(self, registry: Registry) -> Registry:
        """The installed plugins by the names that the run recorded; as they are where one is not installed any more."""
        with suppress(AVCoreError):
            return registry.recorded(full_names_in(self.config.get("full_names") or {}, f"run {self.directory}"))
        return registry

    @property
    def task(self) -> str | None:
        """What was learnt."""
        return self.results.task if self.results else _entry(self.config, str, "task")

    @property
    def label(self) -> str | None:
        """The method, or the names of its parts; None for the head alone."""
        if self.results:
            return self.results.label
        parts = [str(name) for key in ("prompts", "fusions") for name in _entry(self.config, list, key) or ()]
        return _entry(self.config, str, "method") or "+".join(parts) or None

    @property
    def dataset(self) -> str | None:
        """On what."""
        return self.results.dataset if self.results else _entry(self.config, str, "data", "dataset")


def find_runs(root: Path) -> list[Path]:
    """The directories of runs in a folder, those of several seeds as one; the folder itself if it is a run.

    Raises:
        AVCoreError: there is no such folder.
    """
    if not root.is_dir():
        raise AVCoreError(f"There is no folder '{root}': name the one that holds runs.")
    return [root] if _is_run(root) else sorted(_search(root, DEPTH))


def _search(folder: Path, depth: int) -> Iterator[Path]:
    for child in folder.iterdir():
        if child.name.startswith(".") or not child.is_dir():
            continue
        try:
            if _is_run(child):
                yield child
            elif depth > 1 and not child.is_symlink():
                yield from _search(child, depth - 1)
        except OSError:
            # It may be a run; reading it says what is wrong.
            yield child


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in MARKS)


def read_run(directory: Path) -> ListedRun:
    """Read what a run directory says of itself. Whatever is missing or damaged is its ``problem``, and no error."""
    problems: list[str] = []
    results = _read(directory / "results.json", _results, problems)
    many = any(directory.glob("seed-*/config.yaml")) and (results is None or results.seeds)
    config = {} if many else _read(directory / "config.yaml", _config, problems) or {}
    return ListedRun(
        directory=directory,
        problem="; ".join(problems),
        results=results,
        config=config,
        epochs=(_epochs_done(directory), _entry(config, int, "train", "epochs")),
        started=_started(directory),
    )


def _results(text: str) -> RunResult:
    return RunResult.from_json(json.loads(text), "results.json")


def _config(text: str) -> Mapping[str, Any]:
    return parse_yaml(text, "config.yaml")


def _read(path: Path, parse: Callable[[str], T], problems: list[str]) -> T | None:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"no {path.name}")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {why(error)}")
    except AVCoreError as error:
        problems.append(str(error).rstrip("."))
    except (ValueError, RecursionError):
        problems.append(f"{path.name} is damaged")
    return None


def _entry(tree: Any, kind: type[T], *keys: str) -> T | None:
    """``tree[key][key]...`` where it is of that kind."""
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, kind) else None


def _epochs_done(directory: Path) -> int | None:
    found = []
    for path in directory.glob("checkpoints/step-*/state.json"):
        done = _entry(_read(path, json.loads, []), int, "epoch")
        found += [] if done is None else [done]
    return max(found, default=None)


def _started(directory: Path) -> datetime | None:
    """The time in its name, else that of its configuration, which is written first."""
    if stamp := STAMP.search(directory.name):
        return datetime.strptime(stamp[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    file = directory / "config.yaml"
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).replace(microsecond=0)
    except OSError:
        return None
