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
        assert config.data.settings.segments == 10
        assert (config.train.precision, config.train.memory) == (row.precision, row.memory)
