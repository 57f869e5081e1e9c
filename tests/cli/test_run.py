"""``avcore run`` and ``avcore eval``: what they hand on, and what they print."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from toy_results import result

import avcore
from avcore.cli import main
from avcore.engine.files import json_text
from avcore.errors import AVCoreError
from avcore.registry import load_registry

STREAMS = ["both"]
NOTES: list[list[str]] = [[]]
RESULT = result(metrics={"test": {"M_J": float("nan")}})


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `avcore.run` was called with."""
    seen: dict[str, Any] = {}

    def run(**options: Any) -> SimpleNamespace:
        seen.update(options)
        print("working")
        return SimpleNamespace(directory=Path("runs/x"), results=RESULT, registry=load_registry())

    monkeypatch.setattr(avcore, "run", run)
    return seen


def test_options_are_handed_on(started: dict[str, Any]) -> None:
    result = invoke(
        "run", "--plugin", "copl", "--task", "avs", "--config", "a.yaml", "--set", "optim.lr=1", "--set", "seed=2",
        "--out", "there", "--seeds", "3", "--baseline", "--shapley", "--trivial", "--epochs", "4",
    )  # fmt: skip
    assert result.exit_code == 0
    assert started["method"] == "copl"
    assert started["config"] == "a.yaml"
    assert started["set"] == ("optim.lr=1", "seed=2")
    assert (started["out"], started["seeds"], started["baseline"], started["epochs"]) == ("there", 3, True, 4)
    assert started["shapley"] is started["trivial"] is True
    assert result.stdout == "working\n"


def test_what_is_not_given_is_left_to_the_configuration(started: dict[str, Any]) -> None:
    invoke("run", "--task", "avs")
    given = {key: value for key, value in started.items() if value not in (None, ())}
    assert given == {"task": "avs", "seeds": 1}


def test_json_is_alone_on_stdout(started: dict[str, Any]) -> None:
    said = invoke("run", "--task", "avs", "--json")
    printed = json.loads(said.stdout)
    assert printed == json.loads(json_text({"directory": "runs/x", **RESULT.to_json(), "published": []}))
    assert printed["metrics"] == {"test": {"M_J": None}}
    assert said.stderr == "working\n"


@pytest.mark.parametrize("command", [["run", "--seeds", "0"], ["run", "--sedes", "2"], ["eval"]])
def test_wrong_usage_leaves_with_2(command: list[str]) -> None:
    assert invoke(*command).exit_code == 2


def test_a_used_directory_is_one_line_and_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(**options: Any) -> None:
        raise AVCoreError("there is not empty: name another --out, or remove it.")

    monkeypatch.setattr(avcore, "run", run)
    result = invoke("run", "--task", "avs", "--out", "there")
    assert result.exit_code == 2
    assert result.stderr == "avcore: error: there is not empty: name another --out, or remove it.\n"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `avcore.load_run` was called with."""
    seen: dict[str, Any] = {}

    def load_run(directory: str, **options: Any) -> SimpleNamespace:
        seen.update(directory=directory, **options)
        scores = {"test": {"M_J": 61.256, "M_F": 70.0}, "val": {"M_J": 50.0, "M_F": 60.0}}
        scores |= {f"val_mute_{what}": {"M_J": value} for what, value in (("audio", 8), ("visual", 20), ("both", 2))}
        scores |= {f"val_drop_audio-{percent}": {"M_J": 50 - percent / 5} for percent in (25, 50, 75, 100)}
        return SimpleNamespace(
            directory=directory,
            examine=lambda split, alone: SimpleNamespace(scores=scores[split], alone={}),
            results=RESULT,
            config=SimpleNamespace(data=SimpleNamespace(dataset="other-files"), streams=STREAMS[-1]),
            data=SimpleNamespace(
                **{"listed": {}, "broken": {}, "without_truth": ()},
                dataset=SimpleNamespace(splits=("val", "test"), notes=lambda: NOTES[-1]),
            ),
        )

    monkeypatch.setattr(avcore, "load_run", load_run)
    return seen


def test_eval_prints_a_table(loaded: dict[str, Any]) -> None:
    result = invoke("eval", "runs/x", "--split", "test", "--split", "val", "--checkpoint", "latest", "--data", "d")
    assert result.exit_code == 0
    assert loaded == {"directory": "runs/x", "checkpoint": "latest", "data": "d", "device": None}
    assert [line.split() for line in result.stdout.splitlines()[-2:]] == [
        ["test", "61.26", "70.00"],
        ["val", "50.00", "60.00"],
    ]


def test_eval_evaluates_test_by_default_and_prints_json(loaded: dict[str, Any]) -> None:
    result = invoke("eval", "runs/x", "--json")
    assert json.loads(result.stdout) == {
        "run": "runs/x",
        "checkpoint": "best",
        "metrics": {"test": {"M_J": 61.256, "M_F": 70.0}},
        "shapley": {},
        "published": [],
        "notes": [],
    }


def test_eval_tells_what_the_reader_says_of_the_files(loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.NOTES", [["Files are those of json/.", "Two videos are in both splits."]])
    assert invoke("eval", "runs/x").stdout.splitlines()[-3:] == ["", *NOTES[-1]]
    assert json.loads(invoke("eval", "runs/x", "--json").stdout)["notes"] == NOTES[-1]


def test_eval_says_what_each_stream_brings(loaded: dict[str, Any]) -> None:
    given = ["eval", "runs/x", "--split", "val", "--split", "val_mute_audio", "--shapley"]
    lines = [" ".join(line.split()) for line in invoke(*given).stdout.splitlines()[-6:]]
    assert lines == [
        "val 50.00 60.00",
        "val_mute_audio 8 –",
        "val_mute_visual 20 –",
        "val_mute_both 2 –",
        "val, brought by the pictures 18.00 –",
        "val, brought by the sound 30.00 –",
    ]
    printed = json.loads(invoke(*given, "--json").stdout)
    assert printed["shapley"] == {"val": {"visual": {"M_J": 18}, "audio": {"M_J": 30}}}
    assert set(printed["metrics"]) == {line.split()[0] for line in lines[:4]}


def test_eval_takes_a_stream_from_more_and_more_clips(loaded: dict[str, Any]) -> None:
    lines = invoke("eval", "runs/x", "--split", "val", "--drop", "audio").stdout.splitlines()[-5:]
    assert [" ".join(line.split()) for line in lines] == [
        "val 50.00 60.00",
        "val_drop_audio-25 45.00 –",
        "val_drop_audio-50 40.00 –",
        "val_drop_audio-75 35.00 –",
        "val_drop_audio-100 30.00 –",
    ]


def test_one_stream_alone_shares_nothing(loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.STREAMS", ["audio"])
    refused = invoke("eval", "runs/x", "--shapley")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "avcore: error: --shapley compares two streams, and runs/x has audio only: omit it.\n",
    )


def test_eval_of_what_is_no_run(tmp_path: Path) -> None:
    result = invoke("eval", str(tmp_path / "nothing"))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "no such folder" in result.stderr
