"""`avcore.run`: options and several seeds."""

import re
from statistics import mean, stdev

import pytest

import avcore
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError


def test_options_reach_the_configuration(start):
    run = start(
        None, prompts="rows", streams="audio", seed=3, epochs=1, protocol="paper", device="cpu", set=["optim.lr=0.5"]
    )
    config = run.config
    assert (config.prompts, config.streams, config.seed, config.protocol) == (("rows",), "audio", 3, "paper")
    assert (config.train.epochs, config.device, config.optim.lr) == (1, "cpu", 0.5)


def test_the_default_directory_tells_task_method_and_time(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = start(out=None, epochs=1)
    assert re.fullmatch(r"runs/listen-rowing-\d{8}T\d{6}Z", str(run.directory))
    assert (tmp_path / run.directory / "results.json").is_file()


def test_several_seeds_give_mean_and_deviation(start, capsys):
    run = start(seeds=3, seed=5, epochs=1, quiet=False)
    assert [member.directory.name for member in run.members] == ["seed-5", "seed-6", "seed-7"]
    assert [member.config.seed for member in run.members] == [5, 6, 7]
    values = [member.results.metrics["test"]["accuracy"] for member in run.members]
    results = RunResult.read(run.directory / "results.json")
    assert results == run.results
    assert results.seeds == (5, 6, 7)
    assert results.metrics["test"]["accuracy"] == pytest.approx(mean(values))
    assert results.metrics_sd["test"]["accuracy"] == pytest.approx(stdev(values))
    assert f"{mean(values):.2f} ± {stdev(values):.2f} (n = 3)" in capsys.readouterr().out


def test_the_runs_of_seeds_are_used_one_by_one(start):
    run = start(seeds=2, epochs=1)
    with pytest.raises(AVCoreError, match="seed-0, seed-1"):
        _ = run.model
    with pytest.raises(AVCoreError, match="seed-0"):
        avcore.load_run(run.directory)
    member = run.members[1]
    assert member.evaluate("test") == member.results.metrics["test"]


def test_no_seeds_are_refused(start):
    with pytest.raises(AVCoreError, match="at least 1"):
        start(seeds=0)


def test_a_wrong_name_is_one_clear_error(start, tmp_path):
    with pytest.raises(AVCoreError, match="Did you mean 'rowing'"):
        start("rowin")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_refused_leaves_no_directory(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AVCoreError, match="nowhere"):
        start(out=None, set=["visual.weights=nowhere.safetensors"])
    assert not (tmp_path / "runs").exists()
