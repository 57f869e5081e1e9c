"""``data.broken`` in a whole run: files that cannot be read stop it, or are skipped, counted and listed."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import avcore
from avcore.errors import AVCoreError
from avcore.runs import Run
from avcore.tasks import Clip

SKIP = ("data.broken=skip", "data.broken_limit=0.2", "train.epochs=2")


@pytest.fixture
def holed(world: ModuleType, tmp_path: Path) -> Path:
    """Files of which one sound of train is cut short, and one picture of test and of val is none."""
    root: Path = world.render("listen", tmp_path)
    sound = root / "train" / "5.wav"
    sound.write_bytes(sound.read_bytes()[:3000])
    (root / "test" / "2_1.png").write_text("no picture")
    (root / "val" / "0_0.png").write_bytes(b"")
    return root


def test_a_broken_file_stops_a_run_before_it_trains(start: Callable[..., Run], holed: Path, world: ModuleType) -> None:
    with pytest.raises(
        AVCoreError, match=r"train/5\.wav is cut short.*Clip train5 of split 'train'.*data\.broken=skip"
    ):
        start(data=holed)
    assert "step_finished" not in {name for name, _ in world.CALLS}


def test_skipped_clips_are_counted_and_listed(start: Callable[..., Run], holed: Path) -> None:
    run = start(data=holed, set=[*SKIP, "train.evaluate=[test, test_swapped]"])
    assert run.results.metrics["val"]["clips"] == 5
    assert run.results.metrics["test"]["clips"] == 5
    assert {split: list(clips) for split, clips in run.data.broken.items()} == {
        "train": ["train5"],
        "val": ["val0"],
        "test": ["test2"],
        "test_swapped": ["test2"],
    }
    log = (run.directory / "log.txt").read_text()
    for text in (
        "skipped: train 1, val 1, test 1, test_swapped 1.",
        "train: clip train5 cannot be read and is skipped",
        "5.wav is cut short",
        "val: clip val0",
        "2_1.png",
    ):
        assert text in log
    trained = {name for batch in run.data.loader("train", train=True) for name in batch.names}
    assert "train5" not in trained


def test_too_many_skipped_clips_fail_the_run(start: Callable[..., Run], holed: Path, tmp_path: Path) -> None:
    (holed / "train" / "3_0.png").unlink()
    with pytest.raises(AVCoreError, match=r"2 of 12 clips of split 'train' .* allows 1\.0%"):
        start(data=holed, set=["data.broken=skip"])
    with pytest.raises(AVCoreError, match=r"1 of 12 clips of split 'train' .* allows 0\.0%"):
        start(data=holed, out=tmp_path / "none", set=["data.broken=skip", "data.broken_limit=0"])


def test_runs_with_skipped_clips_repeat(start: Callable[..., Run], holed: Path, tmp_path: Path) -> None:
    first, second = (
        start(data=holed, out=tmp_path / str(workers), set=[*SKIP, f"data.workers={workers}"]) for workers in (0, 2)
    )
    assert first.results.metrics == second.results.metrics


def test_evaluating_later_warns_of_what_is_left_out(
    start: Callable[..., Run], holed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(data=holed, set=SKIP)
    later: Any = avcore.load_run(run.directory)
    scores = later.evaluate("test")
    assert re.search(r"test: clip test2 cannot be read and is skipped\. .*2_1\.png", caplog.messages[-1])
    assert scores["clips"] == 5


def test_missing_files_are_counted_before_the_weights_are_made(
    start: Callable[..., Run], holed: Path, world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("3_0.png", "4_1.png"):
        (holed / "train" / name).unlink()
    monkeypatch.setattr("avcore.runs.execute.build_model", lambda *given: pytest.fail("the weights were made"))
    with pytest.raises(
        AVCoreError, match=r"^2 of 12 clips of split 'train' lack files \(2 in all\), .* clip train3: .*3_0\.png does"
    ):
        start(data=holed)


def test_missing_files_are_skipped_and_counted(start: Callable[..., Run], holed: Path) -> None:
    (holed / "train" / "3_0.png").unlink()
    run = start(data=holed, set=SKIP)
    assert list(run.results.broken["train"]) == ["train3", "train5"]
    assert "3_0.png does not exist" in (run.directory / "log.txt").read_text()


@pytest.mark.parametrize("empty", [("test",), ("train", "val", "test"), ()])
def test_a_split_without_truth_is_named_loudly_and_in_the_results(
    start: Callable[..., Run],
    world: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    empty: tuple[str, ...],
) -> None:
    def target(self: Any, clip: Clip) -> dict[str, Tensor]:
        split = clip.frames[0].parent.name  # type: ignore[index]
        return {"class": torch.tensor(0 if split in empty else clip.info["class"])}

    monkeypatch.setattr(world.Files, "target", target)
    monkeypatch.setattr(world.Listen, "is_empty", lambda self, targets: not targets["class"], raising=False)
    run = start(epochs=1, quiet=False)
    said = capsys.readouterr().out
    named = {split for split in ("train", "val", "test") if f"{split}: NOTHING IS IN THE TRUTH of any" in said}
    assert named == set(empty)
    assert set(run.results.without_truth) == set(empty)
    # Once more beside the scores, where it is not read over.
    assert (": scores on it mean nothing." in "".join(said.splitlines()[-12:])) == bool(empty)
    again = avcore.load_run(run.directory)
    assert again.results is not None
    assert again.results.without_truth == run.results.without_truth
    again.evaluate("test")
    assert any("test: NOTHING IS IN THE TRUTH" in text for text in caplog.messages) == bool(empty)


def test_a_truth_that_is_refused_stops_a_run_before_it_trains(
    start: Callable[..., Run], world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def target(self: Any, clip: Clip) -> dict[str, Tensor]:
        if clip.name.startswith("val"):
            raise AVCoreError("The mask 'x.png' holds the values 0, 1")
        return {"class": torch.tensor(clip.info["class"])}

    monkeypatch.setattr(world.Files, "target", target)
    with pytest.raises(AVCoreError, match=r"x\.png"):
        start(epochs=1)
    assert not world.STEPS
