"""Tables of several runs: seeds, intervals over clips, what was published, and in which form they are written."""

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from toy_results import result

from avcore.cli import main
from avcore.engine.clips import read_clips, write_clips
from avcore.errors import AVCoreError
from avcore.registry import Registry
from avcore.report.pareto import Point, draw_pareto
from avcore.sweeps import Sweep, grid_from
from avcore.sweeps.compare import compare_runs, compare_sweep, paired_interval

WHOLE = {"train": 90, "val": 10, "test": 20}
GRID: dict[str, Any] = {
    "task": "seg",
    "dataset": "seg-files",
    "source": "the paper, table 4",
    "seeds": [0, 1],
    "against": "none",
    "rows": {
        "none": {"published": {"score": 50.0}},
        "all": {"epochs": 2, "published": {"score": 80.7, "trainable_M": 1.5}},
        "later": {"epochs": 3, "published": {"score": 81}},
    },
}


def write(folder: Path, scores: dict[str, float], seed: int = 0, **changed: Any) -> Path:
    """A finished run whose score is the mean over these clips."""
    folder.mkdir(parents=True)
    mean = sum(scores.values()) / len(scores)
    fields = {"clips": WHOLE, "seed": seed, "metrics": {"test": {"score": mean}}, "peak_bytes": 2**20, **changed}
    result(**fields).write(folder / "results.json")
    (folder / "config.yaml").write_text(f"task: seg\nseed: {seed}\nmethod: {fields.get('method', 'm')}\n")
    write_clips(folder, "test", {name: {"score": score} for name, score in scores.items()})
    return folder


@pytest.fixture
def swept(tmp_path: Path) -> Sweep:
    sweep = Sweep(tmp_path / "swept", grid_from(GRID, "ablation", "ablation.yaml"))
    sweep.write()
    for row, base in zip(sweep.grid.rows[:2], (50.0, 60.0), strict=True):
        for run in sweep.runs_of(row):
            clips = {f"clip {number}": base + number % 5 + run.seed for number in range(20)}
            write(run.directory, clips, run.seed, commit="0123456789abcdef-dirty")
    return sweep


def cells(comparison: Any) -> dict[str, dict[str, Any]]:
    titles, rows = comparison.table()
    return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}


def test_rows_of_a_sweep_stand_in_order_beside_what_was_published(swept: Sweep, fake_registry: Registry) -> None:
    found = cells(compare_sweep(Sweep.read(swept.directory), fake_registry))
    assert list(found) == ["none", "all", "later"]
    row = found["all"]
    assert str(row["test score"]) == "62.50 ± 0.71 (n = 2)"
    assert (row["published score"], row["published trainable_M"]) == (80.7, 1.5)
    assert row["minus none [95 %]"] == "+10.00 [+10.00, +10.00]"
    assert (row["seeds"], row["peak MiB"], row["coverage %"]) == (2, 1, 100.0)
    assert (row["protocol"], row["selected on"], row["commit"]) == ("clean", "val", "012345678-dirty")
    assert (found["later"]["published score"], found["later"]["test score"]) == (81, None)


@pytest.mark.parametrize("changed", [{"clips": {**WHOLE, "test": 2}}, {"dataset": "seg-demo"}], ids=["mini", "demo"])
def test_nothing_published_stands_beside_a_demo_or_a_part(
    swept: Sweep, fake_registry: Registry, changed: dict[str, Any]
) -> None:
    run = swept.runs_of(swept.grid.rows[2])[0]
    write(run.directory, {"a": 1.0, "b": 2.0}, **changed)
    found = compare_sweep(swept, fake_registry)
    assert not any("published" in title for title in found.table()[0])
    assert any("Published figures (the paper, table 4) are left out" in note for note in found.notes)
    assert any(note.startswith("DEMO") for note in found.notes) == (changed.get("dataset") == "seg-demo")


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path: Path, fake_registry: Registry) -> None:
    folders = [write(tmp_path / f"a{seed}", {"x": 1.0 + seed, "y": 3.0}, seed) for seed in range(3)]
    other = write(tmp_path / "b", {"x": 9.0, "y": 3.0}, method="solo")
    found = cells(compare_runs([*folders, other], fake_registry, against="a0"))
    assert [(name, row["seeds"]) for name, row in found.items()] == [("a0", 3), ("b", 1)]
    assert found["b"]["minus a0 [95 %]"].startswith("+3.50 [")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AVCoreError, match="no finished run"):
        compare_runs([tmp_path / "empty"], fake_registry)
    with pytest.raises(AVCoreError, match=r"--against 'a1' is no row\. Rows: a0"):
        compare_runs(folders, fake_registry, against="a1")


def test_an_interval_is_of_the_same_clips_and_of_a_mean_over_them(tmp_path: Path, fake_registry: Registry) -> None:
    ours = {str(number): float(number % 7) for number in range(400)}
    theirs = {name: score - (int(name) % 3) for name, score in ours.items()}
    low, high = paired_interval(ours, theirs) or (0.0, 0.0)
    assert low < 1.0 < high
    # Of 400 differences of deviation 0.82 the mean has a deviation of 0.041.
    assert high - low == pytest.approx(2 * 1.96 * 0.041, rel=0.1)
    assert paired_interval(ours, {**theirs, "more": 1.0}) is None
    one, two = write(tmp_path / "one", {"x": 1.0, "y": 3.0}), write(tmp_path / "two", {"x": 2.0, "y": 5.0}, method="n")
    result(metrics={"test": {"score": 9.0}}, method="n").write(two / "results.json")
    assert cells(compare_runs([one, two], fake_registry, against="one"))["two"]["minus one [95 %]"] == "+7.00"


def test_scores_of_clips_come_back(tmp_path: Path) -> None:
    write_clips(tmp_path, "test", {"b": {"x": 1.0, "y": float("nan")}, "a": {"x": 0.12345}})
    assert read_clips(tmp_path, "test", "x") == {"a": 0.1235, "b": 1.0}
    assert read_clips(tmp_path, "test", "y") == {}
    assert read_clips(tmp_path, "val", "x") == {}
    (tmp_path / "clips" / "test.json").write_text("[1]")
    with pytest.raises(AVCoreError, match="is damaged"):
        read_clips(tmp_path, "test", "x")


def test_the_command_writes_every_form_and_a_picture(
    swept: Sweep, fake_registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("avcore.cli.compare.load_registry", lambda: fake_registry)

    def told(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["compare", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    sweep = ["--sweep", str(swept.directory)]
    assert "| all | 62.50 ± 0.71 (n = 2) |" in told(*sweep, "--format", "markdown")
    assert "all & 62.50 $\\pm$ 0.71 (n = 2) &" in told(*sweep, "--format", "latex")
    assert "<td>all</td><td>62.50 ± 0.71 (n = 2)</td>" in told(*sweep, "--format", "html")
    told(
        *sweep, "--format", "csv", "-o", str(tmp_path / "t.csv"), "--pareto", str(tmp_path / "p.svg"), "--cost", "peak"
    )
    with open(tmp_path / "t.csv", newline="") as file:
        _, row, _ = csv.DictReader(file)
    assert (float(row["test score"]), row["peak MiB"]) == (62.5, "1")
    assert ElementTree.parse(tmp_path / "p.svg").getroot().tag.endswith("svg")
    for arguments, said in (([], "Give one of the two"), ([*sweep, "--pareto", "p.png"], "ends with .svg")):
        done = CliRunner().invoke(main, ["compare", *arguments])
        assert (done.exit_code, said in done.stderr) == (2, True)


def test_names_are_text_in_html_and_in_pictures(tmp_path: Path, fake_registry: Registry) -> None:
    hostile = '<script>alert("x")</script>'
    picture = draw_pareto([Point(hostile, 10, 50.0, 1.0), Point("b", 20, 40.0)], "cost", "score")
    assert "<script" not in picture
    assert f"{hostile}: 50.00 ± 1.00" in [element.text for element in ElementTree.fromstring(picture).iter()]


def test_a_sweep_reads_back_and_a_damaged_one_says_so(swept: Sweep) -> None:
    assert Sweep.read(swept.directory) == swept
    (swept.directory / "sweep.json").write_text(json.dumps({"format": 1, "name": "x"}))
    with pytest.raises(AVCoreError, match=re.escape("damaged ('given')")):
        Sweep.read(swept.directory)
    with pytest.raises(AVCoreError, match="There is no sweep in"):
        Sweep.read(swept.directory / "none")
