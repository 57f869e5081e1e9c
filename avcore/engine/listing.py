"""The runs that lie in a folder, read without loading a model, as far as they can be read. Imports no torch."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from avcore.config.recipes import parse_yaml
from avcore.errors import AVCoreError, why

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
        status: as in its results; ``broken`` when it cannot be used as it is: ``problem`` says why.
        method: of the parts; their names where no method was asked for.
        score: the metric that selects the best checkpoint, on ``split``, which is ``test`` where that was measured.
        epochs: completed with the latest checkpoint, of those asked for: (done, asked for).
        started: when (UTC).
        seconds: that it took, s.
        seeds: of a folder that holds one run for each.
        config, results: as far as they could be read.
    """

    directory: Path
    status: str
    problem: str = ""
    task: str | None = None
    method: str | None = None
    dataset: str | None = None
    split: str | None = None
    metric: str | None = None
    score: float | None = None
    epochs: tuple[int | None, int | None] = (None, None)
    started: datetime | None = None
    seconds: float | None = None
    seeds: tuple[int, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    results: Mapping[str, Any] = field(default_factory=dict, repr=False)


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
    """Read what a run directory says of itself. Whatever is missing or damaged makes it ``broken``, and no error."""
    problems: list[str] = []
    results = _read(directory / "results.json", json.loads, problems)
    seeds = results.get("seeds")
    many = isinstance(seeds, list) and any(directory.glob("seed-*/config.yaml"))
    config = {} if many else _read(directory / "config.yaml", lambda text: parse_yaml(text, "it"), problems)
    status = _entry(results, str, "status")
    if results and status is None:
        problems.append("results.json has no status")
    parts = [name for key in ("prompts", "fusions") for name in _names(results.get(key, config.get(key)))]
    return ListedRun(
        directory=directory,
        status="broken" if problems else str(status),
        problem="; ".join(problems),
        task=_entry(results, str, "task") or _entry(config, str, "task"),
        method=_entry(results, str, "method") or _entry(config, str, "method") or "+".join(parts) or None,
        dataset=_entry(results, str, "dataset") or _entry(config, str, "data", "dataset"),
        **_score(results),
        epochs=(_epochs_done(directory), _entry(config, int, "train", "epochs")),
        started=_started(directory),
        seconds=_number(results.get("seconds")),
        seeds=tuple(seed for seed in seeds if isinstance(seed, int)) if isinstance(seeds, list) else (),
        config=config,
        results=results,
    )


def _read(path: Path, parse: Any, problems: list[str]) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"no {path.name}")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {why(error)}")
    except (ValueError, AVCoreError):
        problems.append(f"{path.name} is damaged")
    else:
        if isinstance(content, dict):
            return content
        problems.append(f"{path.name} is damaged")
    return {}


def _entry(tree: Mapping[str, Any], kind: type[T], *keys: str) -> T | None:
    """``tree[key][key]...`` where it is of that kind."""
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, kind) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _score(results: Mapping[str, Any]) -> dict[str, Any]:
    metrics = results.get("metrics")
    if not isinstance(metrics, Mapping):
        return {}
    for split in sorted(metrics, key=lambda split: split != "test"):
        scores = metrics[split] if isinstance(metrics[split], Mapping) else {}
        # What was not measured here, or was not named, leaves the first metric.
        named = [name for name in scores if name == results.get("score_name")]
        for name, value in ((name, scores[name]) for name in (*named, *scores)):
            if _number(value) is not None:
                return {"split": split, "metric": name, "score": _number(value)}
    return {}


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
