"""Methods and tasks with two processes: gradients reach every parameter in each, and both end with the same values."""

import json
import multiprocessing
import os
import socket
import traceback
from itertools import product
from pathlib import Path

import pytest
import torch

import avcore
from avcore.config import recipes_of
from avcore.config.leaves import flatten
from avcore.ranks import from_all
from avcore.registry import load_registry
from avcore.states import trainable_state

REGISTRY = load_registry()
METHODS = REGISTRY.methods.names()
# Heads that the method brings, which are not for every task.
OF_HEADS = {name for name in METHODS if "head.name" in flatten(REGISTRY.methods[name].defaults)}
TASKS = [task for task in REGISTRY.tasks.names() if (spec := REGISTRY.default_dataset(task)) is not None and spec.demo]
CLIPS = {"train": 6, "val": 1, "test": 2}
SETS = ("train.batch_size=3", "train.eval_batch_size=2", "train.evaluate=[test]", "train.eval_every=1")
FOUR = ("data.segments=4",)
FEWER = {"ave": FOUR, "ave-weak": FOUR, "avvp": FOUR, "avqa": ("train.batch_size=8",)}


@pytest.fixture(autouse=True)
def calm(small_demo: pytest.MonkeyPatch) -> None:
    """The installed plugins instead of the toy world."""


def chosen() -> list[tuple[str, str]]:
    """Every method on one task and every task with one method; all of both where AVCORE_ALL_PAIRS is set.

    That a parameter gets a gradient follows from part and head, and is looked at for all in one process.
    """
    pairs = [
        (method, task)
        for method, task in product(METHODS, TASKS)
        if method not in OF_HEADS or (task, None) in recipes_of(REGISTRY.methods[method])
    ]
    if os.environ.get("AVCORE_ALL_PAIRS"):
        return pairs
    found: list[tuple[str, str]] = []
    for method in METHODS:
        tasks = [task for one, task in pairs if one == method]
        met = [task for _, task in found]
        found.append((method, min(tasks, key=met.count)))
    return found


def one_of_two(rank: int, port: int, pairs: list[tuple[str, str]], folder: Path) -> None:
    """Train all pairs, one after the other; the first process writes what went wrong."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    wrong = {}
    for method, task in pairs:
        try:
            sets = (*SETS, *FEWER.get(task, ()))
            out = folder / f"{method}-{task}"
            run = avcore.run(method, task=task, epochs=1, baseline=False, set=sets, out=out, quiet=True)
            state = {name: value.double().sum().item() for name, value in trainable_state(run.model).items()}
            first, second = from_all(state)
            differ = [name for name in first if first[name] != second[name]]
            said = f"values differ: {differ}" if differ else ""
        except Exception:
            said = traceback.format_exc()
        if said:
            wrong[f"{method} on {task}"] = said
    if rank == 0:
        (folder / "wrong.json").write_text(json.dumps(wrong))
    torch.distributed.destroy_process_group()


def test_every_method_and_every_task_trains_with_two_processes(tmp_path: Path) -> None:
    pairs = chosen()
    assert {task for _, task in pairs} == set(TASKS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Rendered and decoded once, by this one.
    for task in TASKS:
        method = next(method for method, other in pairs if other == task)
        avcore.run(
            method, task=task, epochs=0, baseline=False, set=FEWER.get(task, ()), out=tmp_path / task, quiet=True
        )
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=one_of_two, args=(rank, port, pairs, tmp_path)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(280)
    assert [process.exitcode for process in started] == [0, 0]
    assert json.loads((tmp_path / "wrong.json").read_text()) == {}
