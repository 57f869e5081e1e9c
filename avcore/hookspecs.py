"""The contract between avcore and its plugins: all of it.

A plugin is a distribution with one entry point in the group ``avcore.plugins`` whose value is a *light* module: a
module that implements some of the declarations below and imports neither torch, timm, numpy nor av. avcore calls each
declaration once when it loads plugins; the records name the code that is imported on first use.

The lifecycle hooks are called on rank 0, outside compiled code, with detached tensors. One that raises is switched off
for the rest of the run, with one warning.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from avcore.specs import (
    BackboneSpec,
    DatasetSpec,
    FusionSpec,
    HeadSpec,
    MethodSpec,
    PromptSpec,
    TaskSpec,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ENTRY_POINT_GROUP", "hookimpl"]

PROJECT = "avcore"
ENTRY_POINT_GROUP = "avcore.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of the same name."""


# mypy cannot see that a hook specification has no body to return from.
@hookspec
def avcore_backbones() -> Iterable[BackboneSpec]:  # type: ignore[empty-body]
    """Declare frozen encoders: families with named presets, their input geometry and layouts.

    Called once when plugins are loaded. Since 0.1.
    """


@hookspec
def avcore_prompts() -> Iterable[PromptSpec]:  # type: ignore[empty-body]
    """Declare parts that act on one stream. Called once when plugins are loaded. Since 0.1."""


@hookspec
def avcore_fusions() -> Iterable[FusionSpec]:  # type: ignore[empty-body]
    """Declare parts that read both streams. Called once when plugins are loaded. Since 0.1."""


@hookspec
def avcore_heads() -> Iterable[HeadSpec]:  # type: ignore[empty-body]
    """Declare heads: features to output, loss and prediction. Called once when plugins are loaded. Since 0.1."""


@hookspec
def avcore_tasks() -> Iterable[TaskSpec]:  # type: ignore[empty-body]
    """Declare tasks: targets, metrics, drawing, the default head. Called once when plugins are loaded. Since 0.1."""


@hookspec
def avcore_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """Declare readers of data sets, at most one default for each task. Called once at load. Since 0.1."""


@hookspec
def avcore_methods() -> Iterable[MethodSpec]:  # type: ignore[empty-body]
    """Declare published methods: named lists of parts, with recipes. Called once when plugins are loaded. Since 0.1."""


@hookspec
def avcore_run_started(run: Any) -> None:
    """A run is about to train.

    ``run`` has ``config`` (a `RunConfig`), ``directory`` (a path) and ``results`` (an `avcore.RunResult`, replaced as
    more is known: ``params`` from here on, ``metrics`` and ``seconds`` at the end). Since 0.1.
    """


@hookspec
def avcore_model_assembled(run: Any, model: "nn.Module") -> None:
    """The model of a run stands, on its device, before the first step. Since 0.1."""


@hookspec
def avcore_step_finished(run: Any, step: Mapping[str, float]) -> None:
    """An optimiser step is done.

    ``step`` has ``step``, ``epoch``, ``loss``, each loss term as ``loss/NAME`` and each learning rate as ``lr/GROUP``.
    Since 0.1.
    """


@hookspec
def avcore_evaluated(run: Any, split: str, scores: Mapping[str, float], step: int) -> None:
    """A split has been evaluated, after ``step`` optimiser steps of the checkpoint that it was read for. Since 0.1."""


@hookspec
def avcore_checkpoint_saved(run: Any, path: Path) -> None:
    """A checkpoint is complete on disk. Since 0.1."""


@hookspec
def avcore_run_finished(run: Any, status: str) -> None:
    """A run ended; ``status`` is ``finished``, ``interrupted`` or ``failed``. Since 0.1."""
