"""The script for a GPU: a row that fails is recorded with its reason, and what was not reached is listed."""

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

RECORDS = Path(__file__).parents[1] / "docs" / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(RECORDS))
    return import_module("gpu")


def collected(gpu: Any, *jobs: tuple[str, str, Any]) -> tuple[list[dict[str, Any]], bool]:
    written: list[dict[str, Any]] = []
    good = gpu.collect(jobs, {}, lambda record: written.append(copy.deepcopy(record)), "cpu")
    return written, good


def fails() -> dict[str, Any]:
    raise ValueError("no such thing\nand more")


def late(gpu: Any) -> Any:
    def job() -> dict[str, Any]:
        raise gpu.OutOfTime

    return job


def test_a_row_that_fails_is_recorded_and_stops_no_other(gpu: Any) -> None:
    jobs = [("rows", "first", fails), ("checks", "second", lambda: {"ok": True}), ("rows", "third", lambda: {"ms": 1})]
    written, good = collected(gpu, *jobs)
    assert not good
    assert written[0]["rows"]["first"]["failed"] == "ValueError: no such thing"
    assert written[0]["left_out"] == ["second", "third"]
    assert (written[0]["ended"], written[-1]["ended"]) == ("killed", "done")
    assert written[-1]["rows"]["third"]["ms"] == 1
    assert written[-1]["left_out"] == []


def test_what_was_not_reached_in_time_is_listed(gpu: Any) -> None:
    written, good = collected(gpu, ("rows", "first", dict), ("rows", "second", late(gpu)), ("rows", "third", dict))
    assert good
    assert written[-1]["ended"] == "out of time"
    assert list(written[-1]["rows"]) == ["first"]
    assert written[-1]["left_out"] == ["second", "third"]


def test_a_check_that_is_not_met_fails_the_script(gpu: Any) -> None:
    _, good = collected(gpu, ("checks", "first", lambda: {"method": {"half": {"off": 1.0, "ok": False}}}))
    assert not good


def test_every_row_is_a_run_that_can_be_made(gpu: Any) -> None:
    registry = gpu.load_registry()
    assert len({row.name for row in gpu.ROWS}) == len(gpu.ROWS)
    for row in gpu.ROWS:
        config = row.config(registry, "cpu", small=False)
        assert config.data.settings.segments == (5 if row.task == "avs" else 10)
        assert (config.train.precision, config.train.memory) == (row.precision, row.memory)


def test_a_dry_run_has_each_model_precision_and_memory_and_nothing_compiled(gpu: Any) -> None:
    rows = list(gpu.kept(gpu.ROWS, small=True))
    assert {row.method for row in rows} == {row.method for row in gpu.ROWS}
    assert {row.task for row in rows} == {row.task for row in gpu.ROWS} == {"ave", "avqa", "avs"}
    assert {row.precision for row in rows} == {"bf16", "fp32"}
    assert {row.memory for row in rows} == {"fast", "balanced", "low"}
    assert {row.compile for row in rows} == {"off"}
    assert len(rows) < len(gpu.ROWS) / 2
    assert list(gpu.kept(gpu.ROWS, small=False)) == list(gpu.ROWS)


def test_rows_are_planned_by_their_flop_and_kernels(gpu: Any) -> None:
    by_name = {(row.clips, row.precision, row.compile): row for row in gpu.ROWS if row.name.startswith("copl ave vit")}
    rows = [by_name[8, "bf16", "off"], by_name[1, "bf16", "off"], by_name[1, "bf16", "reduce-overhead"]]
    many, one, compiled = gpu.budget(rows, gpu.load_registry(), small=True)
    assert 0 < one["device_s"] == compiled["device_s"] <= many["device_s"] <= 8 * one["device_s"]
    assert compiled["before_s"] == one["before_s"] + gpu.GRAPHS
    assert compiled["end_s"] == pytest.approx(
        gpu.CHECKS + sum(row["before_s"] + row["device_s"] for row in (many, one, compiled))
    )
    bound_by_flop = [
        import_module("on_gpu.rows").seconds([FakeCost(flop={"forward": 10**13}, kernels={"forward": 1})], row)
        for row in rows[:2]
    ]
    assert bound_by_flop[0] == pytest.approx(8 * bound_by_flop[1])


class FakeCost:
    def __init__(self, flop: dict[str, int], kernels: dict[str, int]) -> None:
        self.flop, self.kernels = flop, kernels
