"""Runs that start at what another one has trained: what is read, what is told, what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import avcore
from avcore.cli import main
from avcore.errors import AVCoreError
from avcore.runs import Run
from avcore.states import trainable_state

Start = Callable[..., Run]


def log_of(run: Run) -> str:
    return (run.directory / "log.txt").read_text()


@pytest.fixture
def first(start: Start, tmp_path: Path) -> Run:
    return start(out=tmp_path / "first", epochs=1)


def test_a_run_starts_at_the_values_of_another(first: Run, start: Start, tmp_path: Path) -> None:
    trained = trainable_state(first.model)
    then = start(out=tmp_path / "then", epochs=0, seed=3, start=first.directory)
    found = trainable_state(then.model)
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[key], trained[key]) for key in trained)
    assert f"starts at the run {first.directory}, epoch 1: 6 tensors of 98 numbers: rows." in log_of(then)
    assert "starts anew" not in log_of(then)
    assert then.config.train.start == first.directory
    other = trainable_state(start(out=tmp_path / "other", epochs=0, seed=3).model)
    assert not any(torch.equal(other[key], trained[key]) for key in trained if key.endswith("weight"))
    # It goes on without the folder, from its own checkpoint.
    shutil.rmtree(first.directory)
    more = avcore.run(resume=then.directory, epochs=1, quiet=True)
    assert log_of(more).count("starts at") == 1


def test_it_tells_what_has_no_place_and_what_starts_anew(first: Run, start: Start, tmp_path: Path) -> None:
    avcore.save_adapter(first.model, tmp_path / "adapter")
    alone = start("none", visual="toy", out=tmp_path / "alone", epochs=0, start=tmp_path / "adapter")
    assert f"starts at the adapter {tmp_path / 'adapter'}: 2 tensors of 34 numbers: head." in log_of(alone)
    assert "without a place here: 4 tensors of 64 numbers of it: rows." in log_of(alone)
    again = start(out=tmp_path / "again", epochs=0, seed=5, start=alone.directory)
    assert "starts anew: 4 tensors of 64 numbers: rows." in log_of(again)
    head = {key: value for key, value in trainable_state(first.model).items() if key.startswith("head.")}
    assert all(torch.equal(trainable_state(again.model)[key], value) for key, value in head.items())


def test_other_frozen_weights_are_told(first: Run, start: Start, tmp_path: Path) -> None:
    then = start(out=tmp_path / "then", epochs=0, start=first.directory, set=["visual.seed=8"])
    assert "it was trained on other frozen weights" in log_of(then)


def renamed(folder: Path) -> None:
    file = folder / "adapter.safetensors"
    save_file({f"other.{key}": value for key, value in load_file(file).items()}, file)


def misshapen(folder: Path) -> None:
    file = folder / "adapter.safetensors"
    save_file({key: value[..., :1].contiguous() for key, value in load_file(file).items()}, file)


def infinite(folder: Path) -> None:
    file = folder / "adapter.safetensors"
    save_file({key: value / 0 for key, value in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (shutil.rmtree, "holds neither a run nor an adapter to start at"),
        (renamed, r"has trained nothing that this run trains: there it is other\..*, here "),
        (misshapen, r"does not fit this run: .* is \(.*1\) instead of \(.*8\).*leave --start \(train\.start\) out"),
        (infinite, "is damaged: .* is not finite"),
    ],
)
def test_what_does_not_fit_is_refused(
    first: Run, start: Start, tmp_path: Path, change: Callable[[Path], Any], match: str
) -> None:
    folder = tmp_path / "adapter"
    avcore.save_adapter(first.model, folder)
    change(folder)
    with pytest.raises(AVCoreError, match=match):
        start(out=tmp_path / "then", start=folder)
    assert not (tmp_path / "then").exists()


def test_the_head_alone_starts_there_too_where_it_can(first: Run, start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    avcore.save_adapter(first.model, folder)
    file = folder / "adapter.safetensors"
    save_file({key: value for key, value in load_file(file).items() if key.startswith("rows.")}, file)
    then = start(out=tmp_path / "then", epochs=0, start=folder, baseline=True)
    assert "starts anew: 2 tensors of 34 numbers: head." in log_of(then)
    assert "has trained nothing that this run trains" in (then.directory / "baseline" / "log.txt").read_text()


@pytest.mark.parametrize("option", ["--start", "--from"])
def test_the_option_is_the_setting(option: str) -> None:
    done = CliRunner().invoke(main, ["run", "--help"])
    assert option in done.output
    done = CliRunner().invoke(
        main, ["config", "show", "--plugin", "rowing", "--task", "listen", option, "runs/a", "--yaml"]
    )
    assert f"start: {Path('runs/a').absolute()}" in done.output
