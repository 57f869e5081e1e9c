"""Writes what runs do into MLflow, through the lifecycle hooks.

This module is light: MLflow is imported when a run starts. It offers nothing to choose; runs are logged while the
distribution is installed and not blocked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avcore import hookimpl

if TYPE_CHECKING:
    from avcore import Run
    from avcore_mlflow.tracking import Tracked

_tracked: "dict[Path, Tracked]" = {}
"""The runs under way, by directory: a baseline is a run within another."""


@hookimpl
def avcore_run_started(run: "Run") -> None:
    """Open a run of MLflow, or the one that a resumed run had, and write down the settings."""
    from avcore_mlflow.tracking import Tracked

    _tracked[run.directory] = Tracked(run)


@hookimpl
def avcore_model_assembled(run: "Run", model: Any) -> None:
    """Write down the numbers of parameters."""
    if run.directory in _tracked:
        _tracked[run.directory].count(run.results.params)


@hookimpl
def avcore_step_finished(run: "Run", step: Mapping[str, float]) -> None:
    """Write down a point of each curve, as often as TensorBoard gets one (``train.log_every``)."""
    if run.directory in _tracked:
        _tracked[run.directory].step(step)


@hookimpl
def avcore_evaluated(run: "Run", split: str, scores: Mapping[str, float], step: int) -> None:
    """Write down the scores."""
    if run.directory in _tracked:
        _tracked[run.directory].evaluated(split, scores, step)


@hookimpl
def avcore_checkpoint_saved(run: "Run", path: Path) -> None:
    """Write down where the newest checkpoint is."""
    if run.directory in _tracked:
        _tracked[run.directory].saved(path)


@hookimpl
def avcore_run_finished(run: "Run", status: str) -> None:
    """Write down the results, copy files and pictures, and close the run of MLflow."""
    if run.directory in _tracked:
        _tracked.pop(run.directory).finish(run.results.metrics, status)
