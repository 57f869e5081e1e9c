"""Own videos in a folder for each class: which splits and classes they are, what becomes of them, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from media import grey_video

from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.registry import load_registry
from avcore.specs import RecordingSettings
from avcore_avar.config import AVARTaskConfig
from avcore_avar.own import OwnFolders, settings_in
from avcore_avar.task import AVARTask

RATE = 8000


def video(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = [10 * (index % 20) for index in range(round(2 * seconds))]
    return grey_video(path, levels, np.zeros((round(RATE * seconds), 1), np.int16), RATE, fps=2)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read(root: Path, task: AVARTask | None = None, **settings: object) -> OwnFolders:
    return OwnFolders(RecordingSettings(**settings), root, task)


def test_folders_are_classes_and_a_hash_splits(tmp_path: Path) -> None:
    files = [f"{name}/{index}.mp4" for name in ("Katze", "B\u00e4r", "dog") for index in range(20)]
    reader = read(touch(tmp_path, *(name.replace("\u00e4", "a\u0308") for name in files)))  # as macOS stores names
    assert reader.classes == ("B\u00e4r", "Katze", "dog")
    assert settings_in(tmp_path) == {"task_options.classes": ["B\u00e4r", "Katze", "dog"]}
    held = {split: [clip.name for clip in reader.clips(split)] for split in reader.splits}
    assert list(held) == ["train", "val", "test"]
    assert sorted(name for names in held.values() for name in names) == sorted(files)
    for names in held.values():
        assert {name.split("/")[0] for name in names} == set(reader.classes)
    assert 30 <= len(held["train"]) <= 50
    (note,) = reader.notes()
    assert note.startswith(f"A hash of the files' names chooses the splits: train {len(held['train'])}, val ")
    again = read(touch(tmp_path, "dog/another one.mp4"))
    assert set(held["test"]) - {clip.name for clip in again.clips("test")} == set()


def test_labels_are_indices_of_the_classes(tmp_path: Path) -> None:
    reader = read(touch(tmp_path, "b/1.mp4", "a/2.mp4", "b/deeper/3.MOV"), fractions=(1, 0, 0))
    found = {clip.name: (clip.group, int(reader.target(clip)["label"])) for clip in reader.clips("train")}
    assert found == {"a/2.mp4": ("a", 0), "b/1.mp4": ("b", 1), "b/deeper/3.MOV": ("b", 1)}


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folders_of_splits_are_honoured(tmp_path: Path, val: str) -> None:
    files = ["train/a/1.mp4", "train/b/1.mp4", f"{val}/a/2.mp4", "test/b/3.mp4"]
    reader = read(touch(tmp_path, *files))
    assert {split: [clip.name for clip in reader.clips(split)] for split in reader.splits} == {
        "train": files[:2],
        "val": files[2:3],
        "test": files[3:],
    }
    assert reader.notes() == ["Classes of which val has no clip: b.", "Classes of which test has no clip: a."]


def test_a_folder_of_test_alone_is_enough_to_score_on(tmp_path: Path) -> None:
    reader = read(touch(tmp_path, "test/b/1.mp4", "test/a/2.mp4", "train/notes.txt"))
    assert [(split, [clip.name for clip in reader.clips(split)]) for split in reader.splits] == [
        ("test", ["test/a/2.mp4", "test/b/1.mp4"])
    ]
    assert reader.notes() == ["Left out, no videos: train/notes.txt."]


def test_a_split_without_a_folder_is_drawn_from_train(tmp_path: Path) -> None:
    files = [f"{split}/{name}/{index}.mp4" for split in ("train", "test") for name in "ab" for index in range(10)]
    reader = read(touch(tmp_path, *files))
    assert {clip.name for clip in reader.clips("test")} == {name for name in files if name.startswith("test")}
    assert {clip.name for split in ("train", "val") for clip in reader.clips(split)} == set(files[:20])
    assert {clip.group for clip in reader.clips("val")} == {"a", "b"}
    assert "chooses val from the files of train" in reader.notes()[0]


def test_train_is_a_class_beside_others(tmp_path: Path) -> None:
    reader = read(touch(tmp_path, "train/1.mp4", "bus/1.mp4"), fractions=(1, 0, 0))
    assert reader.classes == ("bus", "train")
    for extra in ("test/a/1.mp4", "val/a/1.mp4"):
        with pytest.raises(AVCoreError, match=r"holds the splits .*train.* and beside them 'bus': put the folders"):
            read(touch(tmp_path, extra))


def test_longer_ones_are_cut_and_shorter_ones_filled_up(tmp_path: Path) -> None:
    for name, seconds in {"a/long.mkv": 25, "b/short.mkv": 3, "b/fits.mkv": 10}.items():
        video(tmp_path / name, seconds)
    reader = read(tmp_path, fractions=(1, 0, 0))
    assert [(clip.name, clip.start, clip.group) for clip in reader.clips("train")] == [
        ("a/long.mkv@0", 0.0, "a"),
        ("a/long.mkv@10", 10.0, "a"),
        ("a/long.mkv@15", 15.0, "a"),
        ("b/fits.mkv", 0.0, "b"),
        ("b/short.mkv", 0.0, "b"),
    ]
    assert reader.counts("train") == {"files": 3, "windows": 3, "padded": 1}
    assert reader.notes() == ["Clips shorter than 10 s, filled up with silence and their last picture: 1."]
    assert [clip.start for clip in read(tmp_path, fractions=(1, 0, 0), long="middle").clips("train")] == [7.5, 0.0, 0.0]


def test_what_a_phone_or_a_system_leaves_there_does_no_harm(tmp_path: Path) -> None:
    files = [
        "a/1.MP4",
        "a/.DS_Store",
        "a/._1.MP4",
        "b/1.mov",
        "b/Thumbs.db",
        ".cache/x.mp4",
        "b/IMG.heic",
        "read me.txt",
    ]
    reader = read(touch(tmp_path, *files, "empty/notes.txt"), fractions=(1, 0, 0))
    assert [clip.name for clip in reader.clips("train")] == ["a/1.MP4", "b/1.mov"]
    assert reader.notes() == [
        "Folders without a video: empty.",
        "Left out, no videos: read me.txt; b/IMG.heic; empty/notes.txt.",
    ]


def test_what_is_no_folder_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AVCoreError, match=r"gone' is no folder; give --data one with your videos"):
        read(tmp_path / "gone")
    with pytest.raises(AVCoreError, match=r"has no folder of a class, and no lists of Kinetics-Sounds or VGGSound"):
        read(touch(tmp_path, "1.mp4"))
    with pytest.raises(
        AVCoreError, match=r"has no folder with a video in it\. Put your videos there as FOLDER/<class>"
    ):
        settings_in(touch(tmp_path, "a/notes.txt"))


def test_one_class_can_be_scored_and_not_trained_on(tmp_path: Path) -> None:
    touch(tmp_path, "test/dog/1.mp4")
    assert settings_in(tmp_path) == {}
    (clip,) = (reader := read(tmp_path, AVARTask(AVARTaskConfig(classes=("cat", "dog"))))).clips("test")
    assert int(reader.target(clip)["label"]) == 1
    with pytest.raises(AVCoreError, match=r"has only folder 'dog' with videos; two classes are needed at least\. Put"):
        read(tmp_path, AVARTask(AVARTaskConfig()))


def test_the_files_say_which_data_set_it_is(tmp_path: Path) -> None:
    registry = load_registry()

    def chosen() -> str | None:
        return resolve_config(
            registry, method="none", task="avar", visual="demo_vit", data=tmp_path
        ).config.data.dataset

    touch(tmp_path, "cat/1.mp4", "dog/1.mp4", "my_notes.txt")
    assert chosen() == "own-folders"
    (tmp_path / "my_train.txt").write_text("a,10,0\n")
    assert chosen() == "kinetics-sounds"
    (tmp_path / "my_train.txt").unlink()
    (tmp_path / "test.csv").write_text("a_000001.mp4,dog\nb_000001.mp4,cat\n")
    assert chosen() == "vggsound"


def test_a_task_may_know_more_classes_and_none_less(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.mp4", "dog/1.mp4")
    reader = read(tmp_path, AVARTask(AVARTaskConfig(classes=("mouse", "dog", "cat"))), fractions=(1, 0, 0))
    assert {clip.group: int(reader.target(clip)["label"]) for clip in reader.clips("train")} == {"cat": 2, "dog": 1}
    with pytest.raises(
        AVCoreError, match=r"has the class dog, which is not among task_options\.classes \(cat; mouse\)"
    ):
        read(tmp_path, AVARTask(AVARTaskConfig(classes=("cat", "mouse"))))
