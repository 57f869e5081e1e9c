"""``--trivial``: the majority answer, and the head alone on a backbone of random weights."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import avcore
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError
from avcore.runs import Run
from avcore.runs.trivial import majority_scores
from avcore.tasks import Task

Start = Callable[..., Run]
SPLITS = "train.evaluate=[test, test_swapped]"


@pytest.fixture
def uneven(world: ModuleType, tmp_path: Path) -> Path:
    """Four silent clips and six that hum for training; two and three in test."""
    root: Path = world.render("listen", tmp_path, seed=1)
    for sound in ("train/0", "train/2", "test/0"):
        (root / f"{sound}.wav").unlink()
    return root


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_trivial_rows_stand_beside_the_others(start: Start, uneven: Path, capsys: Any) -> None:
    run = start(data=uneven, epochs=2, baseline=True, trivial=True, quiet=False, set=[SPLITS])
    trivial = run.results.trivial
    assert trivial["majority"] == {
        "val": {"accuracy": 50.0, "clips": 6.0},
        "test": {"accuracy": pytest.approx(60.0), "clips": 5.0},
    }
    inner = RunResult.read(run.directory / "random" / "results.json")
    assert trivial["random_backbone"] == inner.metrics
    assert (inner.frozen, inner.prompts, inner.trivial, inner.baseline) == ("random", (), {}, None)
    assert RunResult.read(run.directory / "results.json").trivial == trivial
    shown = lines(capsys.readouterr().out)
    assert "test, majority answer 60.00 5.00" in shown
    assert any(line.startswith("test, another clip's sound, head alone, random backbone ") for line in shown)
    assert any(line.startswith("test, own sound, head alone ") for line in shown)


def test_a_task_without_a_majority_answer_says_so(
    start: Start, world: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(world.Listen, "majority", Task.majority)
    run = start("none", epochs=1, trivial=True, quiet=False)
    assert run.results.trivial["majority"] == {}
    assert run.results.trivial["random_backbone"].keys() == run.results.metrics.keys()
    assert "majority answer: task listen names none – –" in lines(capsys.readouterr().out)


def test_nothing_trivial_is_measured_unless_it_is_asked_for(finished: Any) -> None:
    assert finished.results.trivial == {}
    assert not (finished.directory / "random").exists()


def test_the_majority_needs_neither_pictures_nor_sound(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.data.reader.Reader._frames", lambda self, clip, gone: None)
    monkeypatch.setattr("avcore.data.cache.ClipCache.audio", None)
    assert majority_scores(finished.run, ["val", "val_swapped"])["val"] == {"accuracy": 50.0, "clips": 6.0}


def test_a_truth_that_cannot_be_read_shows_before_training(start: Start, world: ModuleType, tmp_path: Path) -> None:
    def unreadable() -> None:
        raise AVCoreError("no truth here")

    world.MOMENTS["data"] = unreadable
    with pytest.raises(AVCoreError, match="no truth here"):
        start(trivial=True)
    assert not world.STEPS


def test_random_weights_are_the_same_values_in_an_order_of_the_seed(start: Start, tmp_path: Path) -> None:
    def trained(name: str, **options: Any) -> Run:
        return start("none", epochs=1, out=tmp_path / name, **options)

    plain = trained("plain").model
    first = trained("first", set=["frozen=random"])
    again, other = (trained(name, set=["frozen=random"], seed=seed).model for name, seed in (("again", 0), ("b", 1)))
    assert first.results.caveats == ["The frozen weights were put into random order on purpose (frozen=random)."]
    frozen = dict(first.model.towers.named_parameters())
    assert frozen
    for name, tensor in plain.towers.named_parameters():
        assert not torch.equal(frozen[name], tensor), name
        assert torch.equal(frozen[name].flatten().sort().values, tensor.flatten().sort().values), name
    assert first.model.backbone_digest == again.backbone_digest
    assert len({model.backbone_digest for model in (plain, again, other)}) == 3
    loaded = avcore.load_run(first.directory)
    assert loaded.evaluate("test") == first.results.metrics["test"]


def test_a_head_that_has_nothing_to_train_is_no_run_of_its_own(
    start: Start, world: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Such as one that compares with words: parts before it are trained, and it alone cannot be."""
    made = world.ClassHead.__init__

    def frozen(self: Any, *given: Any, **more: Any) -> None:
        made(self, *given, **more)
        self.requires_grad_(False)

    monkeypatch.setattr(world.ClassHead, "__init__", frozen)
    run = start(epochs=1, baseline=True, trivial=True, quiet=False)
    assert run.results.baseline is None
    assert [*run.results.trivial] == ["majority"]
    assert "The head alone has nothing to train: no run of it stands beside this one." in capsys.readouterr().out
    assert not (run.directory / "baseline").exists()
