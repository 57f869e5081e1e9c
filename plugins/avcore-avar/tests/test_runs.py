"""From real media to a trained head, pictures and a prediction, on a few clips and a tiny random backbone."""

import csv
from pathlib import Path

import pytest
from tiny_runs import only

import avcore
import avcore_avar
import avcore_copl
from avcore.errors import AVCoreError
from avcore.testing.golden import real_data

SETTINGS = ("visual.weights=random", "train.precision=fp32", "train.batch_size=3", "data.val_share=0.3")

installed = only(avcore_copl, avcore_avar)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three clips of each of two classes to train on and one to test, their real media; all nine classes have names."""
    source, folder = real_data("mini", "KS"), tmp_path / "few"
    folder.mkdir()
    (folder / "videos").symlink_to(source / "videos")
    (folder / "classes.txt").write_text((source / "classes.txt").read_text())
    for split, count in (("train", 3), ("test", 1)):
        rows = (source / f"my_{split}.txt").read_text().splitlines()
        kept = [row for label in ("3", "4") for row in [row for row in rows if row.split(",")[2] == label][:count]]
        (folder / f"my_{split}.txt").write_text("\n".join(kept))
    return folder


def run(root: Path, out: Path, *sets: str, method: str = "copl", **options: object):
    sets = (*SETTINGS, *sets)
    return avcore.run(method, task="avar", visual="tiny", data=root, epochs=1, set=sets, out=out, quiet=True, **options)


def test_a_run_with_its_pictures_a_prediction_and_an_evaluation_later(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path / "run", "train.evaluate=[test, test_swapped]")
    assert done.model.head.output.out_features == 9
    metrics = done.results.metrics
    assert metrics.keys() == {"val", "test", "test_swapped"}
    assert metrics["test"].keys() == {"top1", "top5", "class_mean", "class_dog", "class_frog"}
    assert done.results.selected_on == "val"
    assert done.results.clips == {"train": 3, "val": 3, "test": 2}
    assert len(sorted((tmp_path / "run" / "pictures").glob("test-*.png"))) == 2

    again = avcore.load_run(tmp_path / "run")
    assert again.config.task_options.classes[3:5] == ("dog", "frog")
    assert again.evaluate("test") == metrics["test"]

    clip = next(iter(done.data.dataset.clips("test")))
    prediction = again.predict(clip.frames, tmp_path / "out")
    assert prediction.video.is_file()
    # One for the whole clip, not one for each second.
    (span,) = prediction.spans
    assert (span.start_s, span.stop_s) == (0, pytest.approx(10, abs=0.1))
    assert span.text.count("%") == 5
    assert span.text.startswith(f"{span.details['class']} {100 * span.details['probability']:.0f} %")
    assert len(span.details["best"]) == 5
    with (tmp_path / "out" / f"{clip.frames.stem}.predictions.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["class"], line["start"]) == (span.details["class"], "0.0")


def test_the_paper_protocol_selects_on_test_and_may_train_on_all(root: Path, tmp_path: Path) -> None:
    sets = ("data.val_share=0", "head.name=avar.stgcma")
    done = run(root, tmp_path / "run", *sets, method="none", protocol="paper", streams="audio")
    assert done.results.selected_on == "test"
    assert done.results.clips == {"train": 6, "test": 2}
    assert done.model.head.norm is not None


def test_clean_needs_a_val_split(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AVCoreError, match="val"):
        run(root, tmp_path / "run", "data.val_share=0")
    assert not (tmp_path / "run").exists()


def test_a_missing_video_is_told_before_anything_is_trained(root: Path, tmp_path: Path) -> None:
    with (root / "my_train.txt").open("a") as file:
        file.write("\nnot_there_000000_000010,10,3\n")
    with pytest.raises(AVCoreError, match=r"1 of 4 clips of split 'train' lack files.*not_there_000000_000010"):
        run(root, tmp_path / "run")


def test_data_info(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from avcore.cli.data import data

    data.main(["info", "avar", "--data", str(root)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "groups: dog" in shown
    assert "target   label ()" in shown
