"""One run of avcore as a run of MLflow."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import yaml  # type: ignore[import-untyped]

from avcore import Run

__all__ = ["MARKER", "Tracked", "flattened"]

MARKER = "mlflow-run-id"
"""The file in a run's directory that says which run of MLflow it is, for when it is resumed."""
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
BATCH = 100
"""Settings that MLflow takes at once."""


class Tracked:
    """Where and how is MLflow's affair: ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and its other variables.

    Args:
        run: has just started; its directory holds ``config.yaml``. Within another run that is tracked, or under
            ``mlflow.start_run()`` of whoever started it, it becomes a child.
    """

    def __init__(self, run: Run) -> None:
        self.directory = run.directory
        self.every = max(1, run.config.train.log_every)
        self.done = 0  # optimiser steps
        marker = run.directory / MARKER
        if marker.is_file():
            self.id = mlflow.start_run(run_id=marker.read_text().strip(), nested=True).info.run_id
            return
        self.id = mlflow.start_run(run_name=run.directory.name, nested=True).info.run_id
        try:
            mlflow.set_tag("avcore.directory", str(run.directory.resolve()))
            settings = list(flattened(yaml.safe_load((run.directory / "config.yaml").read_text(encoding="utf-8"))))
            for first in range(0, len(settings), BATCH):
                mlflow.log_params(dict(settings[first : first + BATCH]), run_id=self.id)
            marker.write_text(self.id + "\n")
        except BaseException:
            # Otherwise what is logged next would become its child.
            mlflow.end_run(STATUS["failed"])
            raise

    def count(self, params: Mapping[str, Any]) -> None:
        """Numbers of parameters, as ``results.json`` has them."""
        totals = {f"parameters/{name}": float(params[name]) for name in ("total", "trainable", "frozen")}
        parts = {f"parameters/{name}": float(part["parameters"]) for name, part in params["parts"].items()}
        self._log(totals | parts, self.done)

    def step(self, scalars: Mapping[str, float]) -> None:
        """Losses, learning rates and gradient norm of an optimiser step; ``step`` counts from 0."""
        self.done = int(scalars["step"]) + 1
        if scalars["step"] % self.every == 0:
            # In a store of files a name is a path: "loss" could not be one beside "loss/mask".
            curves = {f"train/{name.replace('/', '.')}": value for name, value in scalars.items() if name != "step"}
            mlflow.log_metrics(curves, step=int(scalars["step"]), run_id=self.id)

    def evaluated(self, split: str, scores: Mapping[str, float], step: int) -> None:
        """Scores of a split, at the step of the weights that were evaluated."""
        self._log({f"{split}/{name}": value for name, value in scores.items()}, step)

    def saved(self, path: Path) -> None:
        """A checkpoint is complete. It stays where it is."""
        mlflow.MlflowClient().set_tag(self.id, "avcore.checkpoint", str(path.resolve()))

    def finish(self, metrics: Mapping[str, Mapping[str, float]], status: str) -> None:
        """The scores of ``results.json``, those of the best weights, under ``best/``; files and pictures; the end."""
        try:
            for split, scores in metrics.items():
                self.evaluated(f"best/{split}", scores, self.done)
            for name in ("config.yaml", "results.json"):
                mlflow.log_artifact(str(self.directory / name), run_id=self.id)
            if (pictures := self.directory / "pictures").is_dir():
                mlflow.log_artifacts(str(pictures), "pictures", run_id=self.id)
        finally:
            mlflow.end_run(STATUS[status])

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        mlflow.log_metrics(dict(metrics), step=step, run_id=self.id)


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their full name, as ``--set`` takes them; lists as JSON."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
