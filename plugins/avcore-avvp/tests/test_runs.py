"""From real media to a trained head, pictures, an overlay and events, on a few clips and a tiny random backbone."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from llp_files import make_features
from PIL import Image
from tiny_runs import only

import avcore
import avcore_avvp
import avcore_copl
from avcore.testing.golden import real_data

COUNTS = {"AVVP_train.csv": 4, "AVVP_val_pd.csv": 2, "AVVP_test_pd.csv": 5}


installed = only(avcore_copl, avcore_avvp)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A few clips of each split; the last one of test has vanished."""
    source = real_data("mini", "LLP")
    folder = tmp_path / "few"
    (folder / "video").mkdir(parents=True)
    for file in ("categories.txt", "AVVP_eval_audio.csv", "AVVP_eval_visual.csv"):
        (folder / file).write_text((source / file).read_text())
    for file, count in COUNTS.items():
        rows = (source / file).read_text().splitlines()[: count + 1]
        (folder / file).write_text("\n".join(rows))
        for name in [row[:11] for row in rows[1:]][: None if "test" not in file else -1]:
            (folder / "video" / f"{name}.mp4").symlink_to(source / "video" / f"{name}.mp4")
    return folder


SETTINGS = ("visual.weights=random", "train.precision=fp32", "train.batch_size=2", "head.name=avvp.attentive")


def run(root: Path, out: Path, *sets: str, method: str = "none", **options: object) -> avcore.Run:
    return avcore.run(
        method, task="avvp", visual="tiny", data=root, epochs=1, set=(*SETTINGS, *sets), out=out, quiet=True, **options
    )


def test_a_run_with_its_pictures_a_prediction_and_an_evaluation_later(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path / "run", "train.evaluate=[test, test_swapped, test_mute_visual]", method="copl")
    assert len(done.config.task_options.classes) == 9
    metrics = done.results.metrics
    assert metrics.keys() == {"val", "test", "test_swapped", "test_mute_visual"}
    assert metrics["val"]["coverage"] == 100
    assert metrics["test"]["coverage"] == 80
    ten = {f"{kind}_{name}" for kind in ("segment", "event") for name in ("A", "V", "AV", "Type", "Event")}
    assert ten < metrics["test"].keys()
    assert len(done.results.broken["test"]) == 1
    pictures = sorted((tmp_path / "run" / "pictures").glob("test-*.png"))
    assert 1 <= len(pictures) <= 4  # of the clips whose swapped sound is there too
    assert Image.open(pictures[0]).width > 1000
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))

    again = avcore.load_run(tmp_path / "run")
    assert again.evaluate("test") == metrics["test"]
    clip = done.data.dataset.clips("test")[0]
    found = again.predict(clip.frames, tmp_path / "out")
    assert found.video.is_file()
    assert len(found.spans) == 10
    told = json.loads((tmp_path / "out" / f"{clip.frames.stem}.events.json").read_text())
    with (tmp_path / "out" / f"{clip.frames.stem}.events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(told) == len(found.events)
    for row, one in zip(rows, told, strict=True):
        assert [*row] == [*one] == ["class", "modality", "start", "end", "probability"]
        assert one["modality"] in ("audio", "visual")
        assert one["class"] in done.config.task_options.classes
        assert 0 <= one["start"] < one["end"] <= 10
        assert 0.5 <= one["probability"] <= 1


def test_the_paper_protocol_selects_on_val_and_takes_the_older_truth(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path / "run", protocol="paper", streams="audio")
    assert done.results.selected_on == "val"
    assert {"coverage", "old_truth"} < done.results.metrics["test"].keys()
    assert done.results.metrics["test"]["segment_V"] >= 0


@pytest.mark.parametrize("head", ["avvp.han", "avvp.mgn"])
def test_features_alone_need_no_media(head: str, tmp_path: Path) -> None:
    files = make_features(tmp_path / "files")
    for folder in ("frame", "audio"):
        shutil.rmtree(files / folder)
    sets = (f"head.name={head}", "head.width=16", "train.batch_size=2")
    done = avcore.run(
        "none", task="avvp-features", data=files, epochs=1, set=sets, out=tmp_path / "run", baseline=False, quiet=True
    )
    assert done.model.head.sources.motion == 512
    assert done.results.selected_on == "val"
    assert done.results.metrics["test"]["coverage"] == 100


def test_data_info_and_verify(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from avcore.cli.data import data

    header, *rows = (root / "AVVP_eval_audio.csv").read_text().splitlines()
    (root / "AVVP_eval_audio.csv").write_text("\n".join([header, "gone_0_10\t0\t1\tDog", *rows]))
    next(iter(sorted((root / "video").glob("eUOtEYCC6j4.*")))).unlink()  # the first clip of all has vanished too
    data.main(["info", "avvp", "--data", str(root)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "First clip: IP01jQy0-4n_40_50" in shown
    assert "target   labels (9,)" in shown
    assert "(gone_0_10)" in shown
    with pytest.raises(SystemExit):
        data.main(["verify", "avvp", "--data", str(root)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "without_media" in shown
    assert "does not exist" in shown or "missing" in shown
    assert "(gone_0_10)" in shown
