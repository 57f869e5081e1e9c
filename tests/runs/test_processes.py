"""Runs in processes of their own: the codes with which they leave, and kills at random moments."""

import importlib
import json
import multiprocessing
import os
import re
import signal
import socket
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import avcore
from avcore.engine.checkpoint import CheckpointStore
from avcore.states import trainable_state

ROOT = Path(__file__).parents[2]
ARGUMENTS = ("run", "--plugin", "rowing", "--task", "listen", "--set", "train.save_every=1")


@pytest.fixture
def command(monkeypatch, toy_cache, finished):
    """The command line with the toy world; ``finished`` has filled the cache."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "runs"))
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "benchmarks"))
    return partial(importlib.import_module("separate").avcore_with_the_toy_world, str(toy_cache))


@pytest.fixture
def context():
    """Processes that are forked from one that has imported what takes long, and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["avcore.runs", "torch.utils.tensorboard"])
    return context


def blocks(process, number):
    """Whether a process leaves a signal pending."""
    mask = re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return bool(int(mask[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("to_all", [False, True], ids=["to the run", "to its workers too"])
def test_a_signalled_process_leaves_with_its_code_and_a_checkpoint(command, context, tmp_path, number, code, to_all):
    arguments = [*ARGUMENTS, "--out", str(tmp_path / "run"), "--epochs", "5000", "--set", "data.workers=2"]
    process = context.Process(target=command, args=(arguments,))
    process.start()
    while not list(tmp_path.glob("run/checkpoints/step-*")):
        assert process.is_alive()
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) >= 2
    # One that is only just forked, for the evaluation, is not yet what is told to leave signals to the run.
    while to_all and not all(blocks(int(each), number) for each in workers):
        assert process.is_alive()
        time.sleep(0.02)
    for each in [*(workers if to_all else []), process.pid]:
        os.kill(int(each), number)
        # A worker that died of it would be missed by now.
        time.sleep(0.2 * to_all)
    process.join(60)
    assert process.exitcode == code
    assert CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").progress.step > 0


def test_a_real_disk_that_refuses_costs_one_line_and_no_work(command, context, tmp_path):
    disk, said = tmp_path / "disk", tmp_path / "said.json"
    disk.mkdir()
    target = importlib.import_module("separate").on_a_disk_of_its_own
    process = context.Process(target=target, args=(command, str(disk), str(said)))
    process.start()
    process.join(300)
    if not said.exists() and process.exitcode == 0:
        pytest.skip("this machine lets this user mount nothing")
    found = json.loads(said.read_text())
    assert [code for code, _ in found.values()] == [0, 2, 2, 0]
    assert (found["sound"][1], found["sound again"][1]) == ("", "")
    for stage, reason in (("read-only", "Read-only file system"), ("full", "No space left on device")):
        line = found[stage][1]
        assert line.startswith("avcore: error: Cannot ")
        assert line.count("\n") == 1
        assert f"{disk}/run" in line
        assert line.endswith(f": {reason}.\n")


@pytest.fixture
def begun(command, context):
    """Starts a command line as several processes of one run."""

    def begin(world, *arguments, command=command):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        target = partial(importlib.import_module("separate").one_of, world)
        started = [context.Process(target=target, args=(command, rank, port, arguments)) for rank in range(world)]
        for process in started:
            process.start()
        return started

    return begin


@pytest.fixture
def several(begun):
    """Runs a command line as several processes of one run; their codes."""

    def run(*given, **named):
        started = begun(*given, **named)
        for process in started:
            process.join(120)
        return [process.exitcode for process in started]

    return run


# Adam makes steps of full size of a gradient that is nothing but rounding, as that of a gate may be.
SGD = ["optim.optimizer=sgd", "optim.lr=0.005", "optim.head_lr=0.005"]
NARROW = ("--prompts", "narrow", "--task", "listen", "--epochs", "17", *(f"--set={setting}" for setting in SGD))


@pytest.fixture
def alone(start, tmp_path):
    """51 steps of one process, in batches of 4, with batch normalisation in a part."""
    return start(None, prompts="narrow", out=tmp_path / "one", epochs=17, set=SGD)


def losses(directory):
    """Of every step, from TensorBoard's file."""
    events = EventAccumulator(str(directory)).Reload()
    found = [event.value for event in events.Scalars("train/loss")]
    assert len(found) == 51
    return found


def test_a_run_goes_on_with_another_number_of_processes(several, start, world, alone, tmp_path):
    directory = tmp_path / "moved"
    world.INTERRUPT_AT[:] = [25]
    with pytest.raises(KeyboardInterrupt):
        start(None, prompts="narrow", out=directory, epochs=17, set=SGD)
    world.INTERRUPT_AT.clear()
    assert several(2, "run", "--resume", str(directory)) == [0, 0]
    moved = avcore.load_run(directory)
    assert moved.results.metrics == alone.results.metrics
    own = trainable_state(alone.model)
    for name, value in trainable_state(moved.model).items():
        torch.testing.assert_close(value, own[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_train_the_same_as_one(several, alone, tmp_path, count):
    """12 clips in batches of 4, dealt out to 2, or 3 of which one has 2; 6 clips to evaluate in batches of 4."""
    directory = tmp_path / "shared"
    assert several(count, "run", *NARROW, "--out", str(directory)) == [0] * count
    shared = avcore.load_run(directory)
    assert shared.results.status == "finished"
    assert shared.results.metrics == alone.results.metrics
    own = trainable_state(alone.model)
    assert any(name.endswith("running_var") for name in own)
    for name, value in trainable_state(shared.model).items():
        torch.testing.assert_close(value, own[name], rtol=1e-5, atol=1e-5)
    assert losses(directory) == pytest.approx(losses(alone.directory), rel=1e-5, abs=1e-5)
    # Written by the first process alone.
    assert (directory / "log.txt").read_text().count("best on val") == 1
    for pattern in ("checkpoints/*", "events.*"):
        assert len(list(directory.glob(pattern))) == len(list(alone.directory.glob(pattern)))
    drawn = {path.stem.rpartition("-")[2] for path in (directory / "pictures").iterdir()}
    assert drawn == {f"test{clip}" for batch in (range(4), range(4, 6)) for clip in batch[::count]}


@pytest.mark.parametrize(
    ("number", "codes"),
    [(signal.SIGTERM, [143, 143]), (signal.SIGKILL, [1, -9]), (signal.SIGSTOP, [1, None])],
    ids=["signalled", "killed", "hanging"],
)
def test_what_befalls_one_process_ends_the_others(begun, command, tmp_path, number, codes):
    impatient = partial(importlib.import_module("separate").impatient, command)
    arguments = [*ARGUMENTS, "--out", str(tmp_path / "run"), "--epochs", "5000"]
    first, second = begun(2, *arguments, command=impatient)
    while not list(tmp_path.glob("run/checkpoints/step-*")):
        assert first.is_alive()
        time.sleep(0.02)
    os.kill(second.pid, number)
    first.join(60)
    second.join(60 if codes[1] is not None else 0)
    assert [first.exitcode, second.exitcode] == codes
    if codes[1] is None:
        second.kill()
    assert CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").progress.step > 0


def test_two_processes_compile_and_train_the_same_as_without(several, command, tmp_path, toy_cache):
    traced = partial(importlib.import_module("separate").as_traced, command)
    size = ("--plugin", "rowing", "--task", "listen", "--epochs", "1")
    blocks = ("--set", "train.compile=blocks")
    assert several(2, "run", *size, "--out", str(tmp_path / "plain")) == [0, 0]
    assert several(2, "run", *size, *blocks, "--out", str(tmp_path / "compiled"), command=traced) == [0, 0]
    runs = [avcore.load_run(tmp_path / name) for name in ("plain", "compiled")]
    states = [trainable_state(run.model) for run in runs]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value)
    assert runs[0].results.metrics == runs[1].results.metrics


def test_nothing_is_lost_by_kills(command, tmp_path):
    """The short version of docs/benchmarks/kill.py."""
    kill = importlib.import_module("kill")
    found = kill.harness(command, [*ARGUMENTS, "--epochs", "3"], tmp_path, moments=4, seed=int(time.time()))
    assert found["kills"] == 4
    assert found["aimed at saves"] == 2
    assert found["runs that came to the same end"] >= 1
