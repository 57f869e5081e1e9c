"""Going on with a run: what may have changed since it was stopped, and what must not."""

from pathlib import Path

import torch

from avcore.config import Resolved, resolve_config
from avcore.config.leaves import flatten
from avcore.engine.optim import WHOLE_COURSES
from avcore.engine.records import commit_of, versions
from avcore.engine.result import RunResult
from avcore.errors import ConfigError, typed
from avcore.registry import Registry
from avcore.runs.offers import refuse_other_majors

__all__ = [
    "describe_versions",
    "has_run",
    "is_finished",
    "refuse_changes",
    "refuse_other_release",
    "results_in",
]

FREE = ("data.workers", "data.cache", "train.log_every", "train.save_every", "train.nonfinite", "train.nonfinite_limit")
"""Keys that say how the work is done; a change of them leaves what was done as it is."""


def has_run(directory: Path) -> bool:
    """Whether a run was begun in a directory."""
    return (directory / "config.yaml").is_file()


def results_in(directory: Path) -> RunResult | None:
    """The content of ``results.json``; None where there is none.

    Raises:
        AVCoreError: it cannot be read, or is not as it was written.
    """
    file = directory / "results.json"
    return RunResult.read(file) if file.is_file() else None


def refuse_other_release(directory: Path, registry: Registry) -> None:
    """Refuse to go on with a run that another major version of avcore, or of a plugin that it needs, began."""
    if results := results_in(directory):
        refuse_other_majors(f"The run {directory}", results.plugins, results.versions, registry)


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
            f"Leave them as they were ({hint}avcore run --resume {typed(directory)} needs no others), or name another "
            "--out."
        )
    return changed


def is_finished(directory: Path, changed: list[str]) -> bool:
    """Whether there is nothing left to do for a run of which these keys changed."""
    results = results_in(directory)
    return results is not None and results.status == "finished" and "train.epochs" not in changed


def describe_versions(directory: Path) -> list[str]:
    """A line that names what is installed otherwise than for the results in a run directory; none if nothing is."""
    results = results_in(directory)
    if results is None:
        return []
    before = {**results.versions, "commit": str(results.commit), "threads": str(results.threads)}
    commit = str(commit_of(Path(__file__).parent))
    now = {**versions(), "commit": commit, "threads": str(torch.get_num_threads())}
    changed = [
        f"{name} {now.get(name, 'missing')} (was {before.get(name, 'missing')})"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    return [f"otherwise than for {directory}, so numbers may differ: {', '.join(changed)}"] if changed else []
