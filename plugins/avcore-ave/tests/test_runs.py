"""From real media to a trained head, pictures and an overlay, on a few clips and a tiny random backbone."""

import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from media import grey_video
from tiny_runs import only

import avcore
import avcore_ave
import avcore_copl
from avcore.errors import AVCoreError
from avcore.testing.golden import real_data

installed = only(avcore_copl, avcore_ave)


def _of(category: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(f"{category}&")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two clips of each of two classes in each split, their real media, and two events of one video."""
    source = real_data("mini", "AVE")
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "AVE").symlink_to(source / "AVE")
    rows = []
    for split in ("train", "val", "test"):
        listed = (source / f"{split}Set.txt").read_text().splitlines()
        kept = [line for name in ("Dog, bark", "Frog") for line in _of(name, listed)[:2]]
        if split == "train":
            kept.append(kept[0].replace("Dog, bark", "Frog"))
        (folder / f"{split}Set.txt").write_text("\n".join(kept))
        rows += kept
    (folder / "Annotations.txt").write_text("\n".join(sorted(rows)))
    return folder


SETTINGS = ("visual.weights=random", "train.precision=fp32", "train.batch_size=3")


def run(root: Path, out: Path, *sets: str, method: str = "copl", task: str = "ave", **options: object):
    return avcore.run(
        method, task=task, visual="tiny", data=root, epochs=1, set=(*SETTINGS, *sets), out=out, quiet=True, **options
    )


def test_the_classes_are_those_of_the_files(root: Path, tmp_path: Path) -> None:
    trained = run(root, tmp_path / "run")
    assert trained.config.task_options.names == ("Dog, bark", "Frog", "background")


def test_other_classes_are_refused_before_anything_is_done(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AVCoreError, match=r"task_options\.classes has 2 classes"):
        run(root, tmp_path / "run", "task_options.classes=[Frog, Cat]")
    assert not (tmp_path / "run").exists()


def test_a_run_with_its_pictures_a_prediction_and_an_evaluation_later(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path / "run", "train.evaluate=[test, test_swapped]")
    assert done.config.method == "copl"
    assert done.model.head.output.out_features == 3
    metrics = done.results.metrics
    assert metrics.keys() == {"val", "test", "test_swapped"}
    assert metrics["test"].keys() == {"accuracy", "accuracy_event", "accuracy_background"}
    assert 0 <= metrics["test"]["accuracy"] <= 100
    assert done.results.selected_on == "val"
    pictures = sorted((tmp_path / "run" / "pictures").glob("test-*.png"))
    assert len(pictures) == 4

    again = avcore.load_run(tmp_path / "run")
    assert again.config.task_options.names == ("Dog, bark", "Frog", "background")
    assert again.evaluate("test") == metrics["test"]

    clip = next(iter(done.data.dataset.clips("test")))
    prediction = again.predict(clip.frames, tmp_path / "out")
    assert prediction.video.is_file()
    assert len(prediction.spans) == 10
    named = re.compile(r"(Dog, bark|Frog|background) \d+ %")
    assert all(named.fullmatch(span.text) for span in prediction.spans)


def test_the_paper_protocol_selects_on_test(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path / "run", method="none", protocol="paper", streams="audio")
    assert done.results.selected_on == "test"
    assert done.results.metrics["test"].keys() == {"accuracy", "accuracy_running"}


def test_labels_of_clips_alone_train_and_those_of_segments_judge(root: Path, tmp_path: Path) -> None:
    small = ("head.name=ave.cmbs", "head.visual_width=16", "head.attention=8", "head.temporal.width=16")
    (root / "quiet.txt").write_text("gone")
    done = run(root, tmp_path / "run", *small, "data.negatives=quiet", task="ave-weak", method="none")
    assert type(done.model.head.localisation).__name__ == "WeakLocalisation"
    assert {*done.data.dataset.target(done.data.dataset.clips("train")[0])} == {"clip_label"}
    assert done.results.metrics["test"].keys() == {"accuracy", "accuracy_event", "accuracy_background"}
    assert avcore.load_run(tmp_path / "run").evaluate("test") == done.results.metrics["test"]


def _own(tmp_path: Path) -> Path:
    """As a phone leaves it: capitals, accents apart, blanks, hidden files, a video without sound, a broken one."""
    folder = tmp_path / "phone"
    (folder / "Urlaub").mkdir(parents=True)
    names = ("IMG_1.MOV", "Urlaub/Ba\u0308r 2.mp4", "im Garten.MKV", "b.mp4", "c.mov", "d.m4v", "e.webm", "lang.mp4")
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        seconds = 5 if name == "lang.mp4" else 2
        sound = rng.integers(-9000, 9000, (8000 * seconds, 1), np.int16)
        made = grey_video(folder / "made.mkv", [30 * number] * (4 * seconds), sound, 8000, fps=4)
        made.rename(folder / name)
    with av.open(str(folder / "stumm.mp4"), "w") as container:
        pictures = container.add_stream("mpeg4", rate=4)
        pictures.height = pictures.width = 32
        for _ in range(8):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(pictures.encode(None))
    (folder / "kaputt.mp4").write_bytes(b"no video")
    for hidden in (".DS_Store", "._IMG_1.MOV", "Thumbs.db"):
        (folder / hidden).write_bytes(b"x")
    rows = [f"{name};0,5;1,5;{'Hund' if number % 2 else 'Katze'};train" for number, name in enumerate(names[:4])]
    rows += ["c.mov;0;2;Hund;val", "d.m4v;0;1;Katze;val", "E;0;2;Hund;test", "lang.mp4;2;4;Katze;test"]
    rows += ["stumm.mp4;0;1;Hund;train", "kaputt.mp4;0;1;Katze;test"]
    (folder / "events.csv").write_bytes("\r\n".join(["\ufefffile;start;end;label;split", *rows, ""]).encode())
    return folder


SHORT = ("data.segments=4", "data.clip_seconds=2", "data.window_seconds=0.5", "data.window_margin=0.5")


@pytest.mark.parametrize("task", ["ave", "ave-weak"])
def test_own_videos_train_and_are_predicted(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    from avcore.cli.data import data

    root = _own(tmp_path)
    with pytest.raises(SystemExit) as left:
        data.main(["verify", task, "--data", str(root), *[f"--set={text}" for text in SHORT], "--json"])
    assert left.value.code == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["dataset"], facts["clips"], facts["defects"]) == ("own-events", 12, 2)
    assert {split: held["counts"] for split, held in facts["splits"].items()} == {
        "train": {"files": 5},
        "val": {"files": 2},
        "test": {"files": 3, "windows": 3},
    }
    assert [finding["clip"] for finding in facts["findings"] if finding["defect"]] == ["stumm.mp4", "kaputt.mp4"]

    skip = ("data.broken=skip", "data.broken_limit=0.5")
    done = run(root, tmp_path / "run", *SHORT, *skip, task=task)
    assert done.config.data.dataset == "own-events"
    assert done.config.task_options.names == ("Hund", "Katze", "background")
    assert {split: [*clips] for split, clips in done.data.broken.items()} == {
        "train": ["stumm.mp4"],
        "test": ["kaputt.mp4"],
    }
    assert done.results.metrics["test"].keys() == {"accuracy", "accuracy_event", "accuracy_background"}
    shutil.move(root / "IMG_1.MOV", tmp_path / "video.MOV")
    shutil.rmtree(root)
    found = avcore.load_run(tmp_path / "run").predict(tmp_path / "video.MOV", tmp_path / "out")
    assert [span.start_s for span in found.spans] == [0.0, 0.5, 1.0, 1.5]
    assert {span.text.rsplit(" ", 2)[0] for span in found.spans} <= {"Hund", "Katze", "background"}


def test_what_is_to_be_known_of_own_videos_is_told_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _own(tmp_path)
    (root / "stumm.mp4").unlink()
    table = root / "events.csv"
    table.write_bytes(
        table.read_bytes().replace(b"stumm.mp4;0;1;Hund;train\r\n", b"").replace(b"kaputt.mp4;0", b"gone.mp4;0")
    )
    with pytest.raises(AVCoreError, match=r"1 of 5 clips of split 'test' lack files .*gone\.mp4 does not exist"):
        avcore.run("none", task="ave", visual="tiny", data=root, set=(*SETTINGS, *SHORT), out=tmp_path / "run")
    assert "Videos that no row of events.csv names, left out: kaputt.mp4." in capsys.readouterr().out.splitlines()
    table.write_bytes(table.read_bytes().replace(b"lang.mp4;2;4", b"lang.mp4;2000;4000"))
    with pytest.raises(
        AVCoreError, match=r"events\.csv' line 9: an event begins at 2000 s, but .*lang\.mp4' ends after"
    ):
        run(root, tmp_path / "again", *SHORT)


def test_data_info(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from avcore.cli.data import data

    arguments = ["info", "ave", "--data", str(root)]
    data.main(arguments, standalone_mode=False)
    shown = capsys.readouterr().out
    assert "train         5 clips   2 groups: Dog, bark 2, Frog 3" in shown
    assert "target   labels (10,)" in shown

    data.main(["info", "ave-weak", "--data", str(root)], standalone_mode=False)
    assert "clip_label" in capsys.readouterr().out
