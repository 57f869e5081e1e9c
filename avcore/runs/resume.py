"""Going on with a run: what may have changed since it was stopped, and what must not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avcore.config import Resolved, resolve_config
from avcore.config.leaves import flatten
from avcore.engine.files import read_json
from avcore.engine.optim import WHOLE_COURSES
from avcore.engine.records import commit_of, versions
from avcore.errors import AVCoreError, ConfigError
from avcore.registry import Registry

__all__ = ["describe_versions", "has_run", "is_finished", "refuse_changes", "results_in"]

FREE = ("data.workers", "data.cache", "train.log_every", "train.save_every", "train.nonfinite", "train.nonfinite_limit")
"""Keys that say how the work is done; a change of them leaves what was done as it is."""


def has_run(directory: Path) -> bool:
    """Whether a run was begun in a directory."""
    return (directory / "config.yaml").is_file()


def results_in(directory: Path) -> dict[str, Any]:
    """The content of ``results.json``; empty where there is none.

    Raises:
        AVCoreError: it cannot be read, or is no record of results.
    """
    file = directory / "results.json"
    found = read_json(file) if file.is_file() else {}
    if not isinstance(found, dict):
        raise AVCoreError(f"{file} is damaged: it holds no record of results. Restore it, or start anew.")
    return found


def refuse_changes(resolved: Resolved, directory: Path, registry: Registry) -> list[str]:
    """The keys whose change the run in ``directory`` takes: `FREE` ones, and a ``train.epochs`` that has grown.

    With an ``optim.schedule`` of `WHOLE_COURSES` it may not grow: every learning rate so far depended on it.

    Raises:
        AVCoreError: other keys changed; names them with both values.
    """
    saved = resolve_config(registry, file=directory / "config.yaml")
    before, now = flatten(saved.tree()), flatten(resolved.tree())
    changed = [key for key in dict.fromkeys((*before, *now)) if before.get(key) != now.get(key)]
    free = list(FREE)
    if resolved.config.train.epochs > saved.config.train.epochs and resolved.config.optim.schedule not in WHOLE_COURSES:
        free.append("train.epochs")
    refused = [f"{key} is {now.get(key)!r}, was {before.get(key)!r}" for key in changed if key not in free]
    if refused:
        unless = f"unless optim.schedule is {' or '.join(WHOLE_COURSES)}"
        hint = f"train.epochs may grow, {unless}; " if "train.epochs" in changed else ""
        raise ConfigError(
            f"The run in {directory} can only go on with the settings that it began with: {'; '.join(refused)}. "
            f"Leave them as they were ({hint}avcore run --resume {directory} needs no others), or name another --out."
        )
    return changed


def is_finished(directory: Path, changed: list[str]) -> bool:
    """Whether there is nothing left to do for a run of which these keys changed."""
    return results_in(directory).get("status") == "finished" and "train.epochs" not in changed


def describe_versions(directory: Path) -> list[str]:
    """A line that names what is installed otherwise than for the results in a run directory; none if nothing is."""
    results = results_in(directory)
    before: Mapping[str, str | None] = results.get("versions", {})
    now: dict[str, str | None] = dict(versions()) if before else {}
    facts = {"commit": commit_of(Path(__file__).parent), "threads": torch.get_num_threads()}
    before = {**before, **{key: str(results[key]) for key in facts if key in results}}
    now |= {key: str(value) for key, value in facts.items() if key in results}
    changed = [
        f"{name} {now.get(name, 'missing')} (was {before.get(name, 'missing')})"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    return [f"otherwise than for {directory}, so numbers may differ: {', '.join(changed)}"] if changed else []
