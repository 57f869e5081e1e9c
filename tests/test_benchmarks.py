"""What pages say of the demo is what the committed records say."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import yaml

from avcore.sweeps import load_grid

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "benchmarks"


def spread(runs: list[dict[str, Any]], key: str) -> str:
    values = [run[key] for run in runs if key in run]
    return f"{fmean(values):.1f} ± {stdev(values):.1f}"


def test_tables_of_all_tasks_are_those_that_the_command_prints() -> None:
    command = [sys.executable, RECORDS / "demo.py", "--out", RECORDS / "demo_tasks.json", "--table"]
    printed = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout.strip()
    tables = printed.split("\n\n")
    assert len(tables) > 1
    page = (RECORDS / "index.md").read_text(encoding="utf-8")
    assert [table for table in tables if f"\n\n{table}\n\n" not in page] == []


def test_tables_of_estimates_are_those_of_their_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECORDS))
    record = json.loads((RECORDS / "estimates.json").read_text(encoding="utf-8"))
    printed = import_module("estimates").tables(record["rows"])
    assert len(printed.split("\n\n")) == 2
    assert f"\n\n{printed}\n\n" in (RECORDS / "speed.md").read_text(encoding="utf-8")


def test_tables_of_scale_are_those_of_their_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECORDS))
    steps = json.loads((RECORDS / "scale.json").read_text(encoding="utf-8"))["steps"]
    rows = json.loads((RECORDS / "estimates.json").read_text(encoding="utf-8"))["rows"]
    for name, step in steps.items():
        (row,) = (one for one in rows if (one["step"], one["memory"], one["clips"]) == (name, "fast", 8))
        assert step["flop"] == sum(row["flop"].values()) / 8
    assert f"\n\n{import_module('scale').tables(steps)}\n\n" in (RECORDS.parent / "scale.md").read_text(
        encoding="utf-8"
    )


def test_the_table_of_few_clips_is_the_one_that_its_script_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECORDS))
    record = json.loads((RECORDS / "fewshot_mini.json").read_text(encoding="utf-8"))
    printed = import_module("fewshot_mini").table(record)
    assert len(printed.splitlines()) == 8
    assert f"\n\n{printed}\n\n" in (RECORDS / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["fewshot_demo", "avqa_mini"])
def test_the_table_of_a_grid_is_that_of_its_record(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECORDS))
    asked = yaml.safe_load((RECORDS / f"{name}.yaml").read_text(encoding="utf-8"))
    runs = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["runs"]
    trained = [row for row, settings in asked["rows"].items() if not settings.get("zero_shot")]
    assert {(run["row"], run["seed"]) for run in runs} >= {(row, seed) for row in trained for seed in asked["seeds"]}
    table = import_module("records").table(runs, asked)
    assert f"\n\n{table}\n\n" in (RECORDS / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted(RECORDS.glob("*.yaml")), ids=lambda file: file.name)
def test_each_grid_is_one_that_avcore_sweep_runs(file: Path) -> None:
    asked = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert [row.name for row in load_grid(file).rows] == list(asked["rows"])


@pytest.mark.parametrize("page", [ROOT / "README.md", RECORDS / "index.md"], ids=lambda page: page.name)
def test_the_first_run_is_told_as_its_seeds_are(page: Path) -> None:
    record = json.loads((RECORDS / "demo_seeds.json").read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    for key in ("own", "another", "head_alone"):
        assert spread(record["seeds"], key) in text, key
    if page.name == "index.md":
        assert spread([*record["seeds"], *record["further_seeds"]], "own") in text
        assert ", ".join(f"{run['own']:.1f}" for run in record["seeds"]) in text
        for one in record["other_settings"]:
            if len(one.get("seeds", ())) > 2:
                assert spread(one["seeds"], "own") in text, one["set"]
