"""Readers: official layouts, extracted media, what is held out as val, and files that do not fit the task."""

from pathlib import Path

import pytest

from avcore.errors import DataError
from avcore.testing.golden import real_data
from avcore_avar.classes import LISTS
from avcore_avar.config import AVARTaskConfig, KineticsSoundsConfig, ListedConfig
from avcore_avar.kinetics import KineticsSounds
from avcore_avar.kinetics_lists import settings_in
from avcore_avar.task import AVARTask
from avcore_avar.vggsound import VGGSound


def reader(root: Path, *, classes: tuple[str, ...] = (), **settings: object) -> KineticsSounds:
    task = AVARTask(AVARTaskConfig(classes=classes)) if classes else None
    return KineticsSounds(KineticsSoundsConfig(**settings), root, task)


def lists(root: Path, **rows: str) -> Path:
    """``my_<split>.txt``, each clip with the index that follows it: ``train="a0 b1"``."""
    root.mkdir(exist_ok=True)
    for split, text in rows.items():
        (root / f"my_{split}.txt").write_text("".join(f"{row[:-1]},10,{row[-1]}\n" for row in text.split()))
    (root / "videos").mkdir(exist_ok=True)
    return root


MANY = " ".join(f"c{number}-{number % 2}" for number in range(40))


def names(data: KineticsSounds | VGGSound, split: str) -> list[str]:
    return [clip.name for clip in data.clips(split)]


def test_the_lists_of_classes() -> None:
    assert [len(names) for names in LISTS.values()] == [31, 32, 34]
    assert all(names == tuple(sorted(set(names))) for names in LISTS.values())
    assert set(LISTS["ks-32"]) - set(LISTS["ks-31"]) == {"strumming_guitar"}
    assert AVARTaskConfig(classes=("ks-32",)).classes == LISTS["ks-32"]
    assert AVARTaskConfig().classes == LISTS["ks-31"]


@pytest.mark.parametrize("classes", [(), ("a",), ("a", "a"), ("ks-33",)])
def test_what_is_no_list_of_classes_is_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="classes must be different names, two at least, or one of"):
        AVARTaskConfig(classes=classes)


def test_small_real_files() -> None:
    root = real_data("mini", "KS")
    classes = tuple(settings_in(root)["task_options.classes"])
    assert classes[:3] == ("bird", "cat", "cattle")
    data = reader(root, classes=classes)
    assert {split: len(data.clips(split)) for split in data.splits} == {"train": 76, "val": 14, "test": 45}
    clip = data.clips("test")[0]
    assert (clip.name, clip.group, int(data.target(clip)["label"])) == ("9t1xO5ubnJ0_000280_000290", "frog", 4)
    assert clip.frames.is_file()
    assert len({clip.group for clip in data.clips("val")}) == 9


def test_val_follows_from_the_names_alone(tmp_path: Path) -> None:
    data = reader(lists(tmp_path / "a", train=MANY, test="t0 u1"))
    held = names(data, "val")
    assert 2 <= len(held) < 10
    assert sorted(held + names(data, "train")) == sorted(f"c{number}-" for number in range(40))
    again = reader(lists(tmp_path / "b", train=" ".join(reversed(MANY.split())), test="t0"))
    assert names(again, "val") == held[::-1]


def test_val_may_be_larger_or_nothing_or_a_list(tmp_path: Path) -> None:
    root = lists(tmp_path, train=MANY, test="t0")
    assert 10 < len(reader(root, val_share=0.5).clips("val")) < 30
    none = reader(root, val_share=0.0)
    assert (none.splits, len(none.clips("train"))) == (("train", "test"), 40)
    with pytest.raises(DataError, match=r"no split 'val'.*data\.val_share=0\.1"):
        none.clips("val")
    lists(tmp_path, val="v0")
    listed = reader(root)
    assert (names(listed, "val"), len(listed.clips("train"))) == (["v"], 40)
    assert not any("list of val" in note for note in listed.notes())


def test_a_person_is_told_what_is_held_out_and_what_is_amiss(tmp_path: Path) -> None:
    found = reader(lists(tmp_path, train="a1 b1 c2 d2", test="a1 e0"), val_share=0.3).notes()
    assert found.pop(0).startswith("No file names the classes: their indices are taken for those of 31 classes")
    assert found[0].startswith("There is no list of val: 2 of the 4 clips of train are held out")
    assert "data.val_share=0" in found[0]
    overlap, missing = found[1:]
    assert overlap in ("Clips of test that are in train too: 1, the first of them a.", overlap.replace("train", "val"))
    assert missing.startswith("Classes of which train has no clip: blowing_nose; chopping_wood")
    assert missing.endswith("and 24 more. (Indices count from 0.)")


def test_indices_are_those_of_the_task_where_no_file_names_classes(tmp_path: Path) -> None:
    root = lists(tmp_path, train="a0 b1", test="c2")
    assert reader(root, classes=("x", "y", "z")).clips("test")[0].group == "z"
    with pytest.raises(DataError, match=r"my_test\.txt' line 1: clip 'c' has class index 2, and there are 2 classes"):
        reader(root, classes=("x", "y")).clips("test")


def test_a_file_with_other_classes_than_the_task_is_refused(tmp_path: Path) -> None:
    root = lists(tmp_path, train="a0 b1", test="c1")
    (root / "classes.txt").write_text("x\ny\n")
    assert reader(root, classes=("x", "y")).clips("test")[0].group == "y"
    with pytest.raises(DataError, match=r"classes\.txt' has 2 classes \(x, \.\.\., y\), but task_options"):
        reader(root, classes=("y", "x"))


def test_pictures_and_sound_as_they_are_extracted(tmp_path: Path) -> None:
    root = lists(tmp_path, train="a0 b1 c0 d1", test="e0", val="f0")
    (root / "videos").rmdir()
    with pytest.raises(DataError, match=r"has no media: neither videos/<clip>\.mp4 nor train/<clip>"):
        reader(root).clips("test")
    folder = root / "test" / "e"
    folder.mkdir(parents=True)
    for number in (0, 30, 60, 90, 300, 1000):
        (folder / f"{number:05d}.jpg").touch()
    clip = reader(root, segments=3).clips("test")[0]
    assert [path.name for path in clip.frames] == ["00030.jpg", "00090.jpg", "01000.jpg"]
    assert clip.audio == folder / "e.wav"
    assert reader(root, window_seconds=0.5).windows.length == 0.5
    assert reader(root).clips("train")[0].frames[0] == root / "train" / "a" / "00000.jpg"
    assert reader(root, media="video").clips("test")[0].frames == root / "videos" / "e.mp4"


def test_other_roots(tmp_path: Path) -> None:
    lists(tmp_path / "KineticSound", train="a0 b1", test="c1")
    assert names(reader(tmp_path), "test") == ["c"]
    with pytest.raises(DataError, match=r"holds neither my_train\.txt nor KineticSound/my_train\.txt"):
        reader(tmp_path / "KineticSound" / "videos")
    (tmp_path / "KineticSound" / "my_test.txt").unlink()
    with pytest.raises(DataError, match=r"There is no list .*my_test\.txt"):
        reader(tmp_path).clips("test")


def test_vggsound_in_one_table_or_in_two(tmp_path: Path) -> None:
    rows = [("a", 1, "dog, bark", "train"), ("b", 2, "dog, bark", "train"), ("c", 30, "cat", "test")]
    (tmp_path / "vggsound.csv").write_text(
        "".join(f'{video},{at},"{name}",{split}\n' for video, at, name, split in rows)
    )
    two = tmp_path / "two" / "data"
    two.mkdir(parents=True)
    (two / "video").mkdir()
    for split in ("train", "test"):
        lines = [f'{video}_{at:06d}.mp4,"{name}"\n' for video, at, name, where in rows if where == split]
        (two / f"{split}.csv").write_text("".join(lines))
    for given, root, folder in ((tmp_path, tmp_path, "videos"), (two.parent, two, "video")):
        data = VGGSound(ListedConfig(), given)
        assert data.classes == ("cat", "dog, bark")
        clip = data.clips("test")[0]
        assert (clip.name, clip.frames) == ("c_000030", root / folder / "c_000030.mp4")
        assert [int(data.target(clip)["label"]) for split in data.splits for clip in data.clips(split)] == [1, 1, 0]
        assert "1 of the 2 clips of train are held out" in data.notes()[0]


def test_vggsound_needs_its_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds neither vggsound\.csv nor train\.csv and test\.csv"):
        VGGSound(ListedConfig(), tmp_path)
    data = VGGSound(ListedConfig(), real_data("annotations", "VGGSound"))
    assert (len(data.classes), len(data.clips("test"))) == (309, 15446)
    with pytest.raises(DataError, match=r"There is neither .*vggsound\.csv' .* nor 'train\.csv'"):
        data.clips("train")


def test_a_class_that_stat_csv_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stat.csv").write_text("cat,3,animals\ndog,3,animals\n")
    (tmp_path / "test.csv").write_text("a_000001.mp4,cow\n")
    with pytest.raises(DataError, match=r"test\.csv' line 1: clip 'a_000001' has the class 'cow', which is none of"):
        VGGSound(ListedConfig(), tmp_path).clips("test")
