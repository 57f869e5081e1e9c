"""Sweeps of runs that are stubs: killed, failing, through submitit."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from toy_results import result

from avcore.cli import main
from avcore.errors import ConfigError
from avcore.registry import Registry
from avcore.sweeps import Sweep, grid_from, launch

STUB = Path(__file__).with_name("stub.py")


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch, fake_registry: Registry) -> None:
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-S", str(STUB)))
    monkeypatch.setattr("avcore.cli.sweep.load_registry", lambda: fake_registry)
    monkeypatch.setenv("STUB_RESULTS", json.dumps(result().to_json()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def grid_file(folder: Path, text: str) -> str:
    (folder / "g.yaml").write_text(text)
    return str(folder / "g.yaml")


def test_a_sweep_of_forty_that_is_killed_twice_makes_each_run_once(tmp_path: Path) -> None:
    folder, made = tmp_path / "forty", tmp_path / "forty" / "made.txt"
    command = [sys.executable, str(STUB), "sweep", str(folder)]
    for least in (5, 15):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not made.is_file() or len(made.read_text().splitlines()) < least:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert len(made.read_text().splitlines()) < 40
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    lines = made.read_text().splitlines()
    assert (len(lines), len(set(lines))) == (40, 40)
    sweep = Sweep.read(folder)
    assert {run.state for run in sweep.runs} == {"finished"}
    assert [run.seed for run in sweep.runs] == [0] * 20 + [1] * 20
    threads = json.loads((sweep.runs[0].directory / "environment.json").read_text())["OMP_NUM_THREADS"]
    assert int(threads) == max(1, min(len(os.sched_getaffinity(0)) // 2, int(os.environ.get("OMP_NUM_THREADS", "99"))))


FAILING = "task: seg\nrows:\n  bad: {set: [fail=true]}\n  dead: {set: [die=true]}\n  good: {}\n"


@pytest.mark.parametrize("how", [[], ["--submit", "local"]], ids=["here", "submitit"])
def test_a_run_that_fails_is_told_with_its_reason_and_stops_no_other(tmp_path: Path, how: list[str]) -> None:
    arguments = ["sweep", grid_file(tmp_path, FAILING), "--out", str(tmp_path / "out"), "--json", *how]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 1
    bad, dead, good = json.loads(done.stdout)
    assert (bad["state"], bad["reason"]) == ("failed", "It cannot be done: leave it.")
    assert (dead["state"], dead["reason"]) == ("failed", "ended by signal 9 (SIGKILL)")
    assert (good["state"], good["reason"], good["metrics"]["test"]["score"]) == ("finished", "", 61.25)
    assert "failed       bad, seed 0: It cannot be done" in done.stderr


def test_status_runs_nothing_and_a_changed_row_is_another_run(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out"), "--json"]
    one = grid_file(tmp_path, "task: seg\nrows: {a: {}}\n")
    assert json.loads(CliRunner().invoke(main, ["sweep", one, *out, "--status"]).stdout)[0]["state"] == "waiting"
    assert CliRunner().invoke(main, ["sweep", one, *out]).exit_code == 0
    assert json.loads(CliRunner().invoke(main, ["sweep", one, *out, "--status"]).stdout)[0]["state"] == "finished"
    other = grid_file(tmp_path, "task: seg\nrows: {a: {epochs: 2}}\n")
    assert json.loads(CliRunner().invoke(main, ["sweep", other, *out, "--status"]).stdout)[0]["state"] == "waiting"


def test_each_of_several_has_a_gpu_and_its_share_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    found = launch.shares(3)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["4", "6", "4"]
    assert {one["OMP_NUM_THREADS"] for one in found} == {"4"}
    assert "CUDA_VISIBLE_DEVICES" not in launch.shares(2, "cpu")[0]


def test_a_row_is_a_command_line(tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "task": "seg",
        "data": "own",
        "set": ["a.b=1"],
        "rows": {
            "x": {"method": "m", "fusions": "none", "evaluate": ["test", "test_swapped"]},
            "z": {"zero_shot": True},
        },
    }
    trained, untrained = grid_from(tree, "g", "g.yaml").rows
    command = trained.command(3, tmp_path, data="other", device="cpu", sets=("c.d=2",))
    assert " ".join(command) == (
        f"run --method m --task seg --fusion none --data own --device cpu --set=a.b=1 --set=c.d=2 "
        f"--set=train.evaluate=[test,test_swapped] --out {tmp_path} --seed 3 --resume"
    )
    command = untrained.command(0, tmp_path, data="other", device=None, sets=())
    assert " ".join(command) == f"eval --zero-shot --task seg --data own --set=a.b=1 --out {tmp_path} --split test"


WRONG = {
    "rowz: {a: {}}": "unknown key 'rowz'. Did you mean 'rows'?",
    "rows: {a: {epoch: 3}}": "unknown key 'rows.a.epoch'. Did you mean 'epochs'?",
    "rows: {a: {epochs: x}}": "'rows.a.epochs' is 'x'",
    "rows: {a: {}}\nagainst: b": "against: 'b' is no row",
    "vary: {metod: [a]}": "vary.metod is no argument of a run and no setting. Did you mean 'method'?",
    "vary: {optim.lr: []}": "vary.optim.lr is empty",
    "seeds: [0, 0]\nrows: {a: {}}": "name one twice",
    "rows: {a: {published: {acc: 3}}}": "say dataset: and source:",
    "seeds: [0]": "has no rows",
    "rows: {a: {zero_shot: true, method: m}}": "has zero_shot and method",
    "rows: [a]": "'rows' is ['a']",
}


@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=str)
def test_a_mistake_in_the_file_is_told_with_the_file_and_the_key(tmp_path: Path, text: str, said: str) -> None:
    done = CliRunner().invoke(main, ["sweep", grid_file(tmp_path, f"task: seg\n{text}\n")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert "g.yaml" in done.stderr


def test_no_task_no_file_and_options_that_go_with_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row 'a' has no task"):
        grid_from({"rows": {"a": {}}}, "g", "g.yaml")
    for arguments, said in (([], "Which grid?"), (["none.yaml"], "no file 'none.yaml'"), (["m:x"], "no installed")):
        done = CliRunner().invoke(main, ["sweep", *arguments])
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    file = grid_file(tmp_path, "task: seg\nrows: {a: {}}\n")
    assert "--queue goes with --submit" in CliRunner().invoke(main, ["sweep", file, "--queue", "a=1"]).stderr
