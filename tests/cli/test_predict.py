import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from avcore.cli import main
from avcore.errors import AVCoreError
from avcore.report.prediction import Prediction, Span

SPANS = [
    Span(start_s=0.0, stop_s=1.0, level_db=-20.5, text="mask: 12 % of the picture"),
    Span(start_s=1.0, stop_s=2.013, level_db=None, text=""),
]


class FakeRun:
    """Stands for `avcore.load_run`: remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, directory: str, **options: Any) -> "FakeRun":
        self.calls.append((directory, options))
        print("loading")
        return self

    def predict(self, video: str, out: str | None = None, **options: Any) -> list[Prediction]:
        self.calls.append((video, out, options))
        if video == "missing.mp4":
            raise AVCoreError("missing.mp4 does not exist.")
        made = {"video": Path("a.overlay.mp4"), "strip": Path("a.strip.png"), "spans": SPANS, "summary": "Done."}
        return [Prediction(inputs=given, **made) for given in options["inputs"]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun()
    monkeypatch.setattr("avcore.load_run", run)
    return run


def predict(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["predict", *arguments])


def test_defaults(fake: FakeRun) -> None:
    result = predict("runs/x", "cat.mp4")
    assert result.exit_code == 0, result.output
    assert fake.calls == [
        ("runs/x", {"checkpoint": "best", "device": None}),
        ("cat.mp4", None, {"overwrite": False, "inputs": [{}]}),
    ]
    lines = result.stdout.splitlines()
    assert "0 to 1       -20.50  mask: 12 % of the picture" in lines
    assert "1 to 2            –  –" in lines
    assert lines[-1] == "Done."


def test_options_reach_the_run(fake: FakeRun) -> None:
    predict("runs/x", "cat.mp4", "--out", "here", "--checkpoint", "latest", "--overwrite", "--device", "cpu")
    assert fake.calls == [
        ("runs/x", {"checkpoint": "latest", "device": "cpu"}),
        ("cat.mp4", "here", {"overwrite": True, "inputs": [{}]}),
    ]


def test_json_is_all_that_goes_to_stdout(fake: FakeRun) -> None:
    result = predict("runs/x", "cat.mp4", "--json")
    data = json.loads(result.stdout)
    assert data["video"] == "a.overlay.mp4"
    assert data["strip"] == "a.strip.png"
    assert data["spans"][1] == {"start_s": 1.0, "stop_s": 2.013, "level_db": None, "text": "", "details": {}}
    assert "loading" in result.stderr


def test_inputs_that_are_given_again_belong_together_by_their_order(fake: FakeRun) -> None:
    given = ("--input", "question=A=B?", "--input", "tags=x", "--input", "question=")
    result = predict("runs/x", "cat.mp4", *given)
    assert fake.calls[1][2]["inputs"] == [{"question": "A=B?", "tags": "x"}, {"question": "", "tags": "x"}]
    lines = [line.split()[:4] for line in result.stdout.splitlines()]
    assert ["1", "0", "to", "1"] in lines
    assert ["2", "0", "to", "1"] in lines
    assert result.stdout.count("Done.") == 1
    as_json = json.loads(predict("runs/x", "cat.mp4", *given, "--json").stdout)
    assert [one["inputs"]["question"] for one in as_json] == ["A=B?", ""]
    uneven = predict("runs/x", "cat.mp4", *given, "--input", "question=C", "--input", "tags=y")
    assert uneven.exit_code == 2
    assert "--input tags is given 2 times, and question 3 times" in uneven.stderr


def test_mistakes_are_one_line_and_exit_code_2(fake: FakeRun) -> None:
    result = predict("runs/x", "missing.mp4")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == ["avcore: error: missing.mp4 does not exist."]


def test_a_run_that_is_not_there() -> None:
    result = predict("runs/nowhere", "cat.mp4")
    assert result.exit_code == 2
    assert result.stderr.startswith("avcore: error:")
    assert "runs/nowhere" in result.stderr


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun()
    run.model = SimpleNamespace(notices=("random weights",))  # type: ignore[attr-defined]
    monkeypatch.setattr("avcore.zero_shot", run)
    return run


def test_words_need_no_run(words: FakeRun) -> None:
    text = 'dog, "siren, far off"'
    result = predict("cat.mp4", "--zero-shot", text, "--visual", "a", "--text", "b", "--set", "x.y=1", "--json")
    assert result.exit_code == 0, result.output
    names, options = words.calls[0]
    assert names == ("dog", "siren, far off")
    assert {key: value for key, value in options.items() if value} == {"visual": "a", "text": "b", "set": ("x.y=1",)}
    assert words.calls[1] == ("cat.mp4", None, {"overwrite": False, "inputs": [{}]})
    assert "random weights" in result.stderr
    assert json.loads(result.stdout)["summary"] == "Done."


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cat.mp4",), "predict takes a RUN and a VIDEO, not 1"),
        (("runs/x", "cat.mp4", "--zero-shot", "a, b"), "predict --zero-shot takes one VIDEO and no RUN, not 2"),
        (("runs/x", "cat.mp4", "--visual", "a"), "--visual goes with --zero-shot"),
        (("runs/x", "cat.mp4", "--text-audio", "a"), "--text-audio goes with --zero-shot"),
        (("cat.mp4", "--zero-shot", ""), "No class is named"),
        (("cat.mp4", "--zero-shot", "@missing.txt"), "Cannot read 'missing.txt'"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[str, ...], says: str) -> None:
    result = predict(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
