import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from toy_results import result

from avcore.cli import main
from avcore.registry import Registry

RESULTS = result().to_json()
CONFIG = "task: seg\nmethod: m\nprompts: [m.rows]\ndata: {dataset: seg-files}\ntrain: {epochs: 15}\n"
WriteRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def fake(fake_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.cli.runs.load_registry", lambda: fake_registry)


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """``write_run("name", config=text, results=text, seconds=3)`` writes a run; None leaves a file out."""

    def write(name: str, config: str | None = CONFIG, results: str | None = None, **changed: Any) -> Path:
        folder = tmp_path / "runs" / name
        (folder / "checkpoints" / "step-00000007").mkdir(parents=True)
        (folder / "checkpoints" / "step-00000007" / "state.json").write_text('{"epoch": 7, "step": 7}')
        if config is not None:
            (folder / "config.yaml").write_text(config)
        if results != "":
            (folder / "results.json").write_text(results or json.dumps({**RESULTS, **changed}))
        return folder

    return write


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, arguments)], catch_exceptions=False)


def test_list(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("seg-m-20260701T101500Z")
    write_run("sweep/plain", method=None, prompts=[], status="interrupted", metrics={}, dataset="seg-demo")
    (tmp_path / "runs" / "no-run").mkdir()
    result = invoke("list", tmp_path / "runs")
    assert result.exit_code == 0
    head, _, first, second = result.stdout.splitlines()
    assert head.split()[:6] == ["run", "status", "task", "method", "data", "score"]
    assert first.split()[:8] == [
        "seg-m-20260701T101500Z",
        "finished",
        "seg",
        "m",
        "seg-files",
        "test",
        "score",
        "61.25",
    ]
    assert first.split()[8:] == ["7/15", "2026-07-01", "10:15", "12"]
    assert second.split()[:3] == ["sweep/plain", "interrupted", "seg"]
    assert "seg-demo DEMO" in second


def test_list_as_json(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("seg-m-20260701T101500Z")
    (row,) = json.loads(invoke("list", tmp_path / "runs", "--json").stdout)
    assert row == {
        "name": "seg-m-20260701T101500Z",
        "directory": str(tmp_path / "runs" / "seg-m-20260701T101500Z"),
        "status": "finished",
        "problem": "",
        "task": "seg",
        "method": "m",
        "dataset": "seg-files",
        "demo": False,
        "split": "test",
        "metric": "score",
        "score": 61.25,
        "epochs_done": 7,
        "epochs": 15,
        "started": "2026-07-01T10:15:00+00:00",
        "seconds": 12.4,
        "seeds": [],
    }


def test_the_default_folder_is_runs(write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = invoke("list")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert "There is no folder 'runs'" in missing.stderr
    write_run("a")
    os.utime(tmp_path / "runs" / "a" / "config.yaml", (0, 0))
    assert json.loads(invoke("list", "--json").stdout)[0]["started"] == "1970-01-01T00:00:00+00:00"
    (tmp_path / "empty").mkdir()
    assert invoke("list", "empty").stdout == "No runs in empty.\n"


BROKEN = {
    "no results": ({"results": ""}, "no results.json"),
    "results cut short": ({"results": '{"task": "seg", "metr'}, "results.json is damaged"),
    "results of another kind": ({"results": "[1]"}, "results.json is damaged: it holds no record of results"),
    "results of another format": ({"format": 9}, "results.json has format 9, and this avcore reads 1"),
    "strange results": ({"seconds": "x"}, "results.json is damaged: 'seconds' is 'x' (in the file); it must be"),
    "no configuration": ({"config": None}, "no config.yaml"),
    "configuration is no YAML": ({"config": "a: [1"}, "config.yaml is not valid YAML"),
    "configuration is a list": ({"config": "- a"}, "config.yaml holds a list"),
    "strange values": ({"config": "train: 3\ndata: [1]\nprompts: x"}, ""),
}


@pytest.mark.parametrize(("files", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_run_is_listed_as_such(
    write_run: WriteRun, tmp_path: Path, files: dict[str, Any], problem: str
) -> None:
    folder = write_run("bad", **files)
    write_run("good")
    bad, good = json.loads(invoke("list", tmp_path / "runs", "--json").stdout)
    assert bad["problem"].startswith(problem)
    assert (bool(bad["problem"]), bad["status"]) == (bool(problem), "broken" if problem else "finished")
    assert good["status"] == "finished"
    text = invoke("list", tmp_path / "runs").stdout
    assert (f"bad is broken: {problem}" in text) == bool(problem)
    shown = invoke("show", folder)
    assert shown.exit_code == 0
    assert problem in shown.stdout


def test_files_that_cannot_be_read(write_run: WriteRun, tmp_path: Path) -> None:
    folder = write_run("bad", results="")
    (folder / "results.json").mkdir()
    (folder / "config.yaml").write_bytes(b"\xff\xfe")
    (bad,) = json.loads(invoke("list", tmp_path / "runs", "--json").stdout)
    assert bad["problem"] == "results.json cannot be read: Is a directory; config.yaml is damaged"


def test_several_seeds_are_one_row(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("many", config=None, seeds=[0, 1])
    write_run("many/seed-0")
    write_run("many/seed-1", seed=1)
    (row,) = json.loads(invoke("list", tmp_path / "runs", "--json").stdout)
    assert (row["name"], row["status"], row["seeds"]) == ("many", "finished", [0, 1])
    assert "61.25 (mean of 2 seeds)" in invoke("list", tmp_path / "runs").stdout


def test_show(write_run: WriteRun) -> None:
    folder = write_run("seg-m-20260701T101500Z")
    text = invoke("show", folder).stdout
    told = [line.split(maxsplit=1) for line in text.splitlines() if line.startswith("  ")]
    for pair in (
        ["status", "finished"],
        ["prompts", "m.rows"],
        ["epochs", "7 of 15"],
        ["started", "2026-07-01 10:15 UTC"],
    ):
        assert pair in told
    assert [row.split() for row in text.splitlines()[-3:]] == [
        ["val", "score", "50.00"],
        ["test", "other", "1"],
        ["test", "score", "61.25"],
    ]
    shown = json.loads(invoke("show", folder, "--json").stdout)
    assert shown["results"]["metrics"] == RESULTS["metrics"]
    assert shown["config"]["train"] == {"epochs": 15}


def test_show_says_what_each_stream_brings(write_run: WriteRun) -> None:
    brought = {"test": {"visual": {"score": 7.0}, "audio": {"score": 34.25}}}
    rows = [line.split("  ") for line in invoke("show", write_run("a", shapley=brought)).stdout.splitlines()[-2:]]
    assert [(row[0], row[-1].strip()) for row in rows] == [
        ("test, brought by the pictures", "7.00"),
        ("test, brought by the sound", "34.25"),
    ]


def test_show_of_what_is_no_run(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("a")
    refused = invoke("show", tmp_path / "runs")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "is not the directory of a run: 'avcore runs list" in refused.stderr
    assert "There is no folder" in invoke("show", tmp_path / "nothing").stderr


def test_help_has_examples() -> None:
    assert "avcore runs list" in invoke("list", "--help").stdout
    assert "avcore runs show runs/NAME" in invoke("show", "--help").stdout
