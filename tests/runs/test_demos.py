"""Every installed method trains on the demo of every task that has one, with no data and nothing said."""

from itertools import product
from math import isfinite
from pathlib import Path

import pytest

import avcore
from avcore.config import recipes_of, resolve_config
from avcore.config.leaves import flatten
from avcore.engine.checkpoint import CheckpointStore
from avcore.registry import load_registry

REGISTRY = load_registry()
METHODS = REGISTRY.methods.names()
# Heads of the task's own, or one that the method brings and that is not for every task.
OF_HEADS = {name for name in METHODS if "head.name" in flatten(REGISTRY.methods[name].defaults)}
TASKS = [task for task in REGISTRY.tasks.names() if (spec := REGISTRY.default_dataset(task)) is not None and spec.demo]
# As many training clips as kinds: the classes of a data set are those that its files have.
CLIPS = {"train": 6, "val": 1, "test": 1}
SHORT = ("train.batch_size=3", "train.eval_batch_size=1", "train.evaluate=[test]", "train.eval_every=1")
# Fewer pictures of a clip; a head lets four of them speak for it.
FOUR = ("data.segments=4",)
FEWER = {"ave": FOUR, "ave-weak": FOUR, "avvp": FOUR}
# Questions, of which there are 22.
FEWER["avqa"] = ("train.batch_size=8",)


def is_for(method: str, task: str) -> bool:
    """A method with a head of its own is for the tasks of its recipes, every other one for all."""
    return method not in OF_HEADS or (task, None) in recipes_of(REGISTRY.methods[method])


@pytest.fixture(autouse=True)
def calm(small_demo: pytest.MonkeyPatch) -> None:
    """The installed plugins instead of the toy world."""


def test_every_method_has_tasks_to_meet() -> None:
    assert {"copl", "dgsct", "lavish", "stfp", "stgcma"} <= set(METHODS)
    assert {"avs", "avs-ms3", "ave", "ave-weak", "avar", "avvp", "avqa", "fewshot"} <= set(TASKS)


def test_the_weak_demo_has_the_loss_of_its_few_clips_whatever_a_recipe_says() -> None:
    found = {
        method: resolve_config(REGISTRY, method=method, task="ave-weak").tree()
        for method in METHODS
        if is_for(method, "ave-weak")
    }
    # These have heads of their own.
    for method in ("dgsct", "avmoe"):
        assert "head.loss" not in flatten(found.pop(method))
    assert {flatten(tree)["head.loss"] for tree in found.values()} == {"bce_softmax"}


@pytest.mark.parametrize(("method", "task"), [pair for pair in product(METHODS, TASKS) if is_for(*pair)])
def test_a_method_trains_on_the_demo(method: str, task: str, tmp_path: Path) -> None:
    sets = (*SHORT, *FEWER.get(task, ()))
    run = avcore.run(method, task=task, epochs=1, baseline=False, set=sets, out=tmp_path / "run", quiet=True)
    results = run.results
    assert results.status == "finished"
    assert results.dataset.startswith("demo-")
    assert CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").progress.step == 2
    assert all(isfinite(score) for score in results.metrics["test"].values())
    spec = REGISTRY.methods[method]
    assert all(results.params["parts"][part]["trainable"] for part in (*spec.prompts, *spec.fusions))
