"""Measured steps: what is in a record, and that the bare backbone is bare."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from avcore.bench import BARE, bare_of, bench_data, bench_step, compared, estimate, render, shapes_of
from avcore.bench.memory import CONTEXT, MEMORY, SLACK, bytes_of, largest_batch, with_memory
from avcore.bench.startup import timed_command
from avcore.cli import main
from avcore.config import RunConfig, resolve_config
from avcore.errors import AVCoreError
from avcore.registry import load_registry
from avcore.states import parameter_groups
from avcore.tasks import Head

Tiny = Callable[..., RunConfig]


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of two methods, measured by the command."""
    out = tmp_path_factory.mktemp("bench") / "out.json"
    told = bench(
        *("step", "--plugin", "copl", "--also", "none", "--task", "ave", "--visual", "demo_vit", "--device", "cpu"),
        *(
            "--set",
            "train.precision=fp32",
            "--set",
            "data.segments=2",
            "--clips",
            "2",
            "--steps",
            "2",
            "--warmup",
            "1",
            "--json",
            str(out),
        ),
    )
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(out.read_text())
    assert all(row["row"] in told.output for row in found["rows"])
    return found


def test_a_record_says_what_was_measured_and_where(record: dict[str, Any]) -> None:
    assert (record["kind"], record["device"]["kind"]) == ("step", "cpu")
    assert record["device"]["threads"] == torch.get_num_threads()
    assert {"avcore", "torch"} <= record["versions"].keys()
    assert {"commit", "dirty"} <= record.keys()
    assert record["settings"]["precision"] == "fp32"
    assert record["settings"]["clips"] == 2


def test_the_bare_backbone_is_a_row_and_the_share_is_of_it(record: dict[str, Any]) -> None:
    rows = {(row["row"], row["pass"]): row for row in record["rows"]}
    assert set(rows) == {(row, kind) for row in ("copl", "head alone", BARE) for kind in ("training", "evaluation")}
    assert all(row["of_bare"] == 1 for (name, _), row in rows.items() if name == BARE)
    for row in rows.values():
        assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["clips_per_s"] == pytest.approx(2000 / row["ms"])
        assert row["peak"] == "estimated"
    copl, bare = rows["copl", "training"], rows[BARE, "training"]
    assert copl["tflop"] > bare["tflop"] > 0
    assert sum(copl["kernels"].values()) > sum(bare["kernels"].values()) > 0


def test_a_record_compares_with_itself_and_not_with_another_device(record: dict[str, Any]) -> None:
    told, rows = compared(record, record)
    assert told == []
    assert {row["B/A"] for row in rows} == {1.0}
    other = {**record, "device": {**record["device"], "name": "another"}}
    with pytest.raises(AVCoreError, match="on another device"):
        compared(record, other)
    with pytest.raises(AVCoreError, match="another visual"):
        compared(record, {**record, "settings": {**record["settings"], "visual": "other"}})
    with pytest.raises(AVCoreError, match="no row in common"):
        compared(record, {**record, "rows": [{**row, "clips": 99} for row in record["rows"]]})
    with pytest.raises(AVCoreError, match="no record"):
        compared(record, {})


def test_what_may_be_why_two_records_differ_is_told(record: dict[str, Any], tmp_path: Path) -> None:
    settings = {**record["settings"], "precision": "bf16"}
    rows = [{**row, "ms": 2 * row["ms"]} for row in record["rows"] if row["row"] != "head alone"]
    for name, made in (("a", record), ("b", {**record, "settings": settings, "rows": rows, "commit": "0" * 40})):
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    told = bench("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert told.exit_code == 0, told.output
    assert "precision: fp32 in A, bf16 in B" in told.output
    assert "commit: " in told.output
    assert "only in A: head alone, training" in told.output
    assert " 2.00" in told.output
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "is no record" in bench("compare", str(broken), str(broken)).output
    assert "Cannot read" in bench("compare", str(tmp_path / "none.json"), str(broken)).output


def test_gradients_of_the_bare_backbone_cross_every_block(tiny: Tiny) -> None:
    registry = load_registry()
    model = shapes_of(tiny("lavish"), registry)
    bare = bare_of(model, registry)
    assert bare.towers["visual"] is model.towers["visual"]
    names = {name for group in parameter_groups(bare).values() for name, _ in group}
    assert names == {
        *(f"segment_embedding.{stream}.embedding" for stream in ("visual", "audio")),
        "head.out.weight",
        "head.out.bias",
    }
    cost, own = estimate(bare, 2), estimate(model, 2)
    assert cost.flop["backward"] > 0.9 * cost.flop["forward"]
    assert sum(cost.kernels.values()) < 0.5 * sum(own.kernels.values())
    assert cost.peak < own.peak


def test_methods_on_other_backbones_have_floors_of_their_own(tiny: Tiny) -> None:
    runs = {"a": tiny("none"), "b": tiny("none", "data.segments=3")}
    record = bench_step(runs, load_registry(), clips=1, steps=1, warmup=1, evaluation=False)
    assert [row["row"] for row in record["rows"]] == ["a", "b", BARE, f"{BARE} of b"]
    assert render(record["rows"]).count(BARE) == 2


def test_a_head_that_does_not_say_what_its_loss_reads_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("none")
    head = type(shapes_of(config, load_registry()).head)
    monkeypatch.setattr(head, "targets", Head.targets)
    with pytest.raises(AVCoreError, match=r"Head\.targets"):
        bench_step({"none": config}, load_registry(), clips=1)


# -------------------------------------------------------------------------------------------------------------- memory


def test_every_setting_of_memory_is_a_row() -> None:
    told = bench(
        *("memory", "--plugin", "none", "--task", "ave", "--visual", "demo_vit", "--clips", "1,2", "--fit", "2GB"),
    )
    assert told.exit_code == 0, told.output
    assert all(told.output.count(f" {memory} ") >= 2 for memory in MEMORY)
    assert BARE in told.output
    assert "Largest batch in 2GB by train.memory: fast " in told.output


def test_low_memory_needs_less_and_computes_more(tiny: Tiny) -> None:
    config = tiny("copl")
    costs = {}
    for memory in MEMORY:
        costs[memory] = estimate(shapes_of(with_memory(config, memory), load_registry()), 4)
    peaks = [costs[memory].peak for memory in MEMORY]
    assert peaks == sorted(peaks, reverse=True)
    assert costs["low"].flop["backward"] > 1.3 * costs["fast"].flop["backward"]
    assert costs["low"].flop["forward"] == costs["fast"].flop["forward"]


@pytest.mark.parametrize("largest", [0, 1, 2, 3, 17, 300])
def test_the_largest_batch_is_the_largest(largest: int) -> None:
    calls = []

    def peak(clips: int) -> int:
        calls.append(clips)
        return 10**9 + clips * 10**8 + (clips % 3) * 10**5

    limit = int(peak(max(1, largest)) * SLACK) + CONTEXT - (largest == 0) * 10**8
    calls.clear()
    assert largest_batch(peak, limit) == largest
    assert len(calls) <= 6


def test_amounts_of_memory() -> None:
    assert (bytes_of("24GB"), bytes_of("1.5 GiB"), bytes_of("80gb")) == (24 * 10**9, 3 * 2**29, 80 * 10**9)
    for wrong in ("24", "GB", "24 apples"):
        with pytest.raises(AVCoreError, match="no amount of memory"):
            bytes_of(wrong)
    assert "write numbers of clips" in bench("memory", "--clips", "1,x", "--plugin", "copl", "--task", "ave").output


# --------------------------------------------------------------------------------------------------- data and start-up


def test_clips_from_files_and_from_the_cache() -> None:
    registry = load_registry()
    config = resolve_config(registry, method="none", task="avs", visual="demo_vit").config
    record = bench_data(config, registry, batches=2, repeats=1)
    cold, warm = record["rows"]
    assert cold["clips"] == warm["clips"] == 2 * config.train.batch_size
    assert cold["clips_per_core_second"] > 0
    assert cold["cached_bytes_per_clip"] > 1000
    assert warm["clips_per_s"] > cold["clips_per_s"]


def test_a_command_is_timed_to_its_end_or_to_a_line() -> None:
    seconds, processor = timed_command(["--help"])
    assert 0 < processor <= 1.5 * seconds + 1
    assert timed_command(["--help"], "Usage:")[0] > 0
    with pytest.raises(AVCoreError, match="failed"):
        timed_command(["nonsense"])
    with pytest.raises(AVCoreError, match="failed"):
        timed_command(["--version"], "never said")
