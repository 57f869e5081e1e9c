"""Checks of methods and their recipes."""

import inspect
import math
from functools import partial

import torch

from avcore.config import Recipe, demo_tasks_of, load_recipe, recipes_of, resolve_config
from avcore.config.leaves import flatten
from avcore.config.names import names_of
from avcore.errors import AVCoreError, did_you_mean
from avcore.report.parameters import COUNTS, MILLION, is_count
from avcore.specs import STREAMS, TEXT, resolve
from avcore.testing.cases import MethodCase
from avcore.testing.cases.backbones import random_weights
from avcore.testing.checks import Skipped, check, refusal
from avcore.testing.checks.backbones import offline


@check("method", "parts")
def parts(case: MethodCase) -> None:
    """The prompts and fusions that the method lists exist; one without any is a head, which its defaults name."""
    spec = case.spec
    head = flatten(spec.defaults).get("head.name")
    assert spec.prompts or spec.fusions or head, (
        f"Method '{spec.name}' lists neither prompts nor fusions, and its defaults name no head (head.name): whatever "
        "head a task has would be trained under its name."
    )
    assert head is None or head in case.registry.heads, (
        f"The defaults of method '{spec.name}' name the head '{head}', which nobody offers."
    )
    for name in spec.prompts:
        assert name in case.registry.prompts, f"Method '{spec.name}' lists the prompt '{name}', which nobody offers."
    for name in spec.fusions:
        assert name in case.registry.fusions, f"Method '{spec.name}' lists the fusion '{name}', which nobody offers."


@check("method", "summary")
def summary(case: MethodCase) -> None:
    """There is a summary of one line and a source."""
    spec = case.spec
    assert spec.summary, f"Method '{spec.name}' has no summary: 'avcore plugins list' shows one line of it."
    assert "\n" not in spec.summary, f"The summary of '{spec.name}' has several lines; give it one."
    assert spec.paper, f"Method '{spec.name}' names no paper: say where it comes from."


@check("method", "recipes")
def recipes(case: MethodCase) -> None:
    """Every recipe for a task that is installed makes a configuration, without an unknown key or backbone."""
    for recipe in _recipes(case):
        try:
            config = resolve_config(
                case.registry,
                method=case.spec.name,
                task=recipe.task,
                recipe=recipe.variant,
                need_data=False,
            ).config
            for name in names_of(config).get("backbones", ()):
                _backbone(case, name)
        except AVCoreError as error:
            raise AssertionError(f"Recipe {recipe.name}: {error}") from error


@check("method", "recipes on demos")
def recipes_on_demos(case: MethodCase) -> None:
    """What the method sets on the demos of a task is read and makes a configuration, without an unknown key."""
    tasks = [task for task in demo_tasks_of(case.spec) if task in case.registry.tasks]
    tried = [(task, demo.name) for task in tasks for demo in case.registry.datasets_for(task) if demo.demo]
    for task, demo in tried:
        try:
            resolve_config(
                case.registry, method=case.spec.name, task=task, sets=[f"data.dataset={demo}"], need_data=False
            )
        except AVCoreError as error:
            raise AssertionError(f"Recipe {case.spec.name}/{task}.demo on {demo}: {error}") from error
    if not tried:
        raise Skipped("It has no recipe for the demo of a task that is installed.")


@check("method", "published numbers")
def published_numbers(case: MethodCase) -> None:
    """Each published number has a metric, a finite value and a source, and a score the data set that it is of."""
    rows = [(recipe.name, row) for recipe in _recipes(case) for row in recipe.published]
    if not rows:
        raise Skipped(f"The recipes of '{case.spec.name}' publish no number.")
    for name, row in rows:
        value = row["value"]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        assert number, f"Recipe {name}: the value of {row['metric']} is {value!r}, no number."
        assert str(row["metric"]).strip(), f"Recipe {name}: a published number names no metric."
        assert str(row["source"] or "").strip(), f"Recipe {name}: {row['metric']} names no source."
        if not is_count(str(row["metric"]), (*case.registry.prompts.names(), *case.registry.fusions.names())):
            assert row.get("dataset"), (
                f"Recipe {name}: {row['metric']} names no dataset, so that no run shows it beside its own scores."
            )


@check("method", "published backbones")
def published_backbones(case: MethodCase) -> None:
    """The backbones and the data sets that published numbers name exist."""
    if not case.registry.backbones:
        raise Skipped("No backbone is installed.")
    for recipe in _recipes(case):
        for row in recipe.published:
            for key in (*STREAMS, TEXT, "dataset"):
                name = str(row.get(key) or "")
                unknown = refusal(partial(_named, case, key, name)) if name else None
                assert unknown is None, (
                    f"Recipe {recipe.name}: no run shows the published {row['metric']}, for its '{key}': {unknown}"
                )


@check("method", "published metrics")
def published_metrics(case: MethodCase) -> None:
    """A published number is of a score that the task's metrics give, or of a count of parameters."""
    counted = (*case.registry.prompts.names(), *case.registry.fusions.names())
    scores = [
        (recipe, metric)
        for recipe in _recipes(case)
        for metric in (str(row["metric"]) for row in recipe.published)
        if not is_count(metric, counted)
    ]
    names = {task: case.metrics_of(task) for task in {recipe.task for recipe, _ in scores}}
    counts = [*COUNTS, *(f"{one}{MILLION}" for one in COUNTS)]
    for recipe, metric in scores:
        known = sorted(names[recipe.task])
        assert not known or metric in known, (
            f"Recipe {recipe.name}: a number of '{metric}' is published, which is no score of the task and no count of "
            f"parameters, so that no run shows it.{did_you_mean(metric, [*known, *counts])} Scores: "
            f"{', '.join(known)}."
        )
    if not any(names.values()):
        raise Skipped("It publishes no score of a task whose metrics can be asked for their names.")


@check("method", "converter")
def converter(case: MethodCase) -> None:
    """The converter of published checkpoints can be imported and takes a state and a model."""
    if not case.spec.converter:
        raise Skipped(f"Method '{case.spec.name}' has no converter.")
    try:
        function = resolve(case.spec.converter)
    except AVCoreError as error:
        raise AssertionError(f"The converter of '{case.spec.name}': {error}") from error
    try:
        inspect.signature(function).bind({}, None)
    except TypeError as error:
        raise AssertionError(
            f"'{case.spec.converter}' cannot be called as convert(state, model): {error}. See MethodSpec."
        ) from error


def _named(case: MethodCase, key: str, name: str) -> None:
    """Find what a published number is of; raises AVCoreError where there is no such thing."""
    if key == "dataset":
        case.registry.datasets.origin(name)
    else:
        _backbone(case, name)


def _backbone(case: MethodCase, name: str) -> None:
    """Find a backbone; one that only the pattern of a family knows is made, without weights.

    Raises:
        AVCoreError: there is none of this name.
    """
    spec, preset = case.registry.backbones.find(name)
    bare = name.rpartition(":")[2]
    if preset is None and bare != spec.name:
        with torch.device("meta"), offline():
            spec.load()(spec.config(**random_weights(spec)), name=bare, preset=None)


def _recipes(case: MethodCase) -> list[Recipe]:
    """Those for tasks that are installed.

    Raises:
        Skipped: there are none.
    """
    try:
        listed = recipes_of(case.spec)
        served = [(task, variant) for task, variant in listed if task in case.registry.tasks]
        key = case.registry.methods.key(case.spec.name)
        found = [load_recipe(case.registry, key, task, variant) for task, variant in served]
    except AVCoreError as error:
        raise AssertionError(str(error)) from error
    if not found:
        tasks = ", ".join(sorted({task for task, _ in listed}))
        raise Skipped(f"No task of its recipes ({tasks}) is installed." if listed else "It has no recipes.")
    return [recipe for recipe in found if recipe is not None]
