"""The record of a run, and its form on disk."""

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from toy_results import result

from avcore.engine.result import RunResult, Score, mean_over_seeds, shapley_values
from avcore.errors import AVCoreError


def test_what_is_written_is_read_back(tmp_path):
    file = tmp_path / "results.json"
    for one in (
        result(),
        result(metrics={}, status="interrupted", dataset=None, method=None, prompts=()),
        result(shapley={"test": {"visual": {"score": 2}, "audio": {"score": 1.5}}}),
        result(trivial={"majority": {}, "random_backbone": {"test": {"score": 1.5}}}, frozen="random"),
        result(baseline={"test": {"score": 1.5}}, broken={"val": {"a": "no sound"}}, seeds=(3, 4)),
        result(plugins={"tasks": {"seg": {"distribution": "toy", "version": "1"}}}, text="clip", commit="abc"),
    ):
        one.write(file)
        assert RunResult.read(file) == one
    assert set(json.loads(file.read_text())) == {"format", *(one.name for one in fields(RunResult))}


def test_what_is_not_a_number_is_null_on_disk(tmp_path):
    file = tmp_path / "results.json"
    result(metrics={"test": {"score": math.inf}}, baseline={"test": {"score": math.nan}}).write(file)
    assert json.loads(file.read_text())["metrics"] == {"test": {"score": None}}
    read = RunResult.read(file)
    assert math.isnan(read.score.value)
    assert math.isnan(read.baseline["test"]["score"])


def test_a_record_does_not_change():
    with pytest.raises(FrozenInstanceError):
        result().status = "failed"
    before = result(metrics={})
    assert before.measured("val", {"score": 1.0}).metrics == {"val": {"score": 1.0}}
    assert before.metrics == {}


DAMAGED = {
    "a list": ([], "it holds no record of results"),
    "a missing entry": ({"status": "finished", "seed": ...}, "'seed' is missing"),
    "a stranger": ({"fusion": []}, "'fusion' is unknown"),
    "another status": ({"status": "done"}, "'status' is 'done' (in the file); it must be one of 'finished', 'inter"),
    "a score in words": ({"metrics": {"test": {"score": "high"}}}, "'metrics' is "),
    "no scores": ({"metrics": {"test": None}}, "'metrics' is "),
    "shares in words": ({"shapley": {"test": {"audio": {"score": "most"}}}}, "'shapley' is "),
    "half a second seed": ({"seeds": [0, 0.5]}, "'seeds' is [0, 0.5]"),
    "a truth for a number": ({"seconds": True}, "'seconds' is True (in the file); it must be a number"),
}


@pytest.mark.parametrize(("changed", "why"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_results_name_file_and_entry(tmp_path, changed, why):
    file = tmp_path / "results.json"
    content = {**result().to_json(), **changed} if isinstance(changed, dict) else changed
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...} if content else []))
    with pytest.raises(AVCoreError) as caught:
        RunResult.read(file)
    assert str(caught.value).startswith(f"{file} is damaged: {why}")
    assert str(caught.value).endswith("Restore it, or train again.")


@pytest.mark.parametrize("number", [2, None])
def test_another_format_is_refused(number):
    with pytest.raises(AVCoreError, match=f"runs/a has format {number}, and this avcore reads 1: read it with the"):
        RunResult.from_json({**result().to_json(), "format": number}, "runs/a")


def test_the_score_is_the_one_that_selects():
    assert result().score == Score("test", "score", 61.25)
    assert result(metrics={"val": {"score": 50.0}}).score == Score("val", "score", 50.0)
    assert result(metrics={"val": {"other": 50.0}}).score is None
    assert result(metrics={}).score is None


def test_a_run_is_called_by_its_method_or_its_parts():
    assert result().label == "m"
    assert result(method=None, fusions=("mix",)).label == "m.rows+mix"
    assert result(method=None, prompts=()).label is None


def test_the_mean_over_seeds():
    one = result(baseline={"test": {"score": 1.0}}, peak_bytes=5)
    two = replace(one, seed=4, metrics={"val": {"score": 52.0}, "test": {"other": 3, "score": 61.25}}, peak_bytes=9)
    both = mean_over_seeds([one, two])
    assert (both.seeds, both.seed, both.seconds, both.peak_bytes, both.baseline) == ((3, 4), 3, 24.8, 9, None)
    assert both.metrics == {"val": {"score": 51.0}, "test": {"other": 2, "score": 61.25}}
    assert both.metrics_sd["val"]["score"] == pytest.approx(2**0.5)
    assert mean_over_seeds([one]).metrics_sd["val"] == {"score": 0.0}


BOTH, DEAF, BLIND, NEITHER = 60.0, 40.0, 30.0, 20.0
MEASURED = {
    split + ending: {"score": value, **more}
    for split in ("val", "test")
    for ending, value, more in (
        ("", BOTH, {"other": 1.0}),
        ("_mute_audio", DEAF, {}),
        ("_mute_visual", BLIND, {"other": 2.0}),
        ("_mute_both", NEITHER, {"other": 3.0}),
    )
    if (split, ending) != ("val", "_mute_both")
}


def test_what_each_stream_brings_by_hand():
    """The sound adds 20 to the pictures and 10 to nothing, the pictures add 30 to the sound and 20 to nothing."""
    assert shapley_values(MEASURED) == {"test": {"visual": {"score": 25.0}, "audio": {"score": 15.0}}}
    found = result(metrics={})
    for split, scores in MEASURED.items():
        found = found.measured(split, scores)
    assert found.shapley == shapley_values(MEASURED)
    assert sum(one["score"] for one in found.shapley["test"].values()) == BOTH - NEITHER


def test_a_stream_that_nobody_uses_brings_nothing_and_one_that_harms_less():
    def brought(both, deaf, blind, neither):
        values = {"t": both, "t_mute_audio": deaf, "t_mute_visual": blind, "t_mute_both": neither}
        shared = shapley_values({split: {"s": value} for split, value in values.items()})["t"]
        return shared["visual"]["s"], shared["audio"]["s"]

    assert brought(90, 10, 90, 10) == (0, 80)
    assert brought(10, 10, 10, 10) == (0, 0)
    assert brought(50, 70, 0, 0) == (60, -10)
    assert brought(80, 0, 0, 0) == (40, 40)  # neither is worth anything without the other


def test_shares_over_seeds():
    one = result(metrics=MEASURED, shapley=shapley_values(MEASURED))
    more = {**MEASURED, "test": {"score": BOTH + 4, "other": 1.0}}
    both = mean_over_seeds([one, replace(one, seed=4, metrics=more, shapley=shapley_values(more))])
    assert both.shapley == {"test": {"visual": {"score": 26.0}, "audio": {"score": 16.0}}}
    assert both.shapley_sd["test"]["audio"]["score"] == pytest.approx(2**0.5)


def test_reading_results_imports_no_torch():
    code = "import sys, avcore; avcore.RunResult; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
