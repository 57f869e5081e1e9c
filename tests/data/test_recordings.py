"""Recordings of any length as clips of one length, in splits that stay."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from media import grey_video

from avcore.data.recordings import Recording, Recordings, find_videos, split_by_hash, within
from avcore.errors import AVCoreError, DataError
from avcore.specs import RecordingSettings

THREE = {"train": 0.7, "val": 0.15, "test": 0.15}
RATE = 8000


def video(path: Path, seconds: float) -> Path:
    """A grey video of 2 pictures a second."""
    levels = [10 * (index % 20) for index in range(round(2 * seconds))]
    return grey_video(path, levels, np.zeros((round(RATE * seconds), 1), np.int16), RATE, fps=2)


def names(count: int, stem: str = "clip") -> dict[str, str]:
    return {f"{stem} {index}.mp4": "a" for index in range(count)}


# ------------------------------------------------------------------------------------------------------------ the split


def test_a_split_follows_from_the_name_alone() -> None:
    few, many = split_by_hash(names(100), THREE), split_by_hash(names(400), THREE)
    assert {name: many[name] for name in few} == few
    assert {split: [*many.values()].count(split) for split in THREE} == {"train": 280, "val": 61, "test": 59}
    # Written down once: the same on every machine, and in every release that means it for good.
    place = int.from_bytes(hashlib.sha256(b"0/clip 1").digest()[:8], "big") / 2**64
    assert many["clip 1.mp4"] == ("train" if place < 0.7 else "val" if place < 0.85 else "test")
    other = split_by_hash(names(400), THREE, seed=1)
    assert 100 < sum(other[name] != many[name] for name in many) < 250


def test_neither_the_ending_nor_the_way_an_accent_is_stored_decides() -> None:
    one = split_by_hash({"B\u00e4r.MOV": "a", **names(9)}, THREE)["B\u00e4r.MOV"]
    assert split_by_hash({"Ba\u0308r.mp4": "a", **names(9)}, THREE)["Ba\u0308r.mp4"] == one


@pytest.mark.parametrize("count", [4, 6, 9])
def test_every_split_has_a_file_of_every_class_of_which_it_is_due_one(count: int) -> None:
    for seed in range(20):
        groups = {**names(count), **{f"other {index}.mp4": "b" for index in range(count)}}
        found = split_by_hash(groups, THREE, seed)
        for group in "ab":
            assert {found[name] for name in groups if groups[name] == group} == set(THREE)


def test_small_classes_are_trained_on_and_no_split_is_empty() -> None:
    trios = [
        [*split_by_hash({**names(3), **names(3, "b"), **names(30, "c")}, THREE, seed).values()] for seed in range(20)
    ]
    # Three are not torn apart for the sake of 15 %.
    assert sum(found[:3].count("train") + found[3:6].count("train") for found in trios) > 0.6 * 20 * 6
    for seed in range(20):
        groups = {f"{index}.mp4": f"class {index // 2}" for index in range(10)}
        found = split_by_hash(groups, THREE, seed)
        assert set(found.values()) == set(THREE)
        trained = {groups[name] for name in groups if found[name] == "train"}
        assert len(trained) >= 3  # val and test take one each at most
    assert set(split_by_hash(names(2), {"train": 1.0, "val": 0.0, "test": 1.0}).values()) == {"train", "test"}


# -------------------------------------------------------------------------------------------------------- the listing


def test_videos_are_found_by_their_endings_and_hidden_files_passed_over(tmp_path: Path) -> None:
    for name in ("b 10.MOV", "b 9.mp4", "x/Ä.MKV", ".hidden.mp4", "._b.mov", ".trash/c.mp4", "Thumbs.db", "a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    videos, others = find_videos(tmp_path)
    assert [within(path, tmp_path) for path in videos] == ["b 9.mp4", "b 10.MOV", "x/Ä.MKV"]
    assert [path.name for path in others] == ["a.jpg"]


def reader(tmp_path: Path, *recordings: Recording, **settings: object) -> Recordings:
    return Recordings(RecordingSettings(**{"segments": 4, "clip_seconds": 4.0, **settings}), recordings, tmp_path)


def recording(path: Path, split: str = "train") -> Recording:
    return Recording(name=path.stem, path=path, group="grey", split=split)


@pytest.fixture
def cut(tmp_path: Path) -> tuple[Recording, ...]:
    lengths = {"short": 2.0, "fits": 4.2, "long": 9.0}
    return tuple(recording(video(tmp_path / f"{name}.mkv", seconds)) for name, seconds in lengths.items())


def test_recordings_are_cut_as_predict_cuts_and_what_is_short_is_counted(
    tmp_path: Path, cut: tuple[Recording, ...]
) -> None:
    found = reader(tmp_path, *cut, fractions=(1, 0, 0))
    clips = found.clips("train")
    assert [(clip.name, clip.start, clip.seconds) for clip in clips] == [
        ("short", 0.0, 4.0),
        ("fits", 0.0, 4.0),
        ("long@0", 0.0, 4.0),
        ("long@4", 4.0, 4.0),
        ("long@5", 5.0, 4.0),
    ]
    assert {clip.group for clip in clips} == {"grey"}
    assert found.counts("train") == {"files": 3, "windows": 3, "padded": 1}
    assert found.notes() == ["Clips shorter than 4 s, filled up with silence and their last picture: 1."]
    assert (found.splits, found.segments, found.windows.length) == (("train",), 4, 1.0)


@pytest.mark.parametrize(("long", "starts"), [("first", [0.0, 0.0, 0.0]), ("middle", [0.0, 0.1, 2.5])])
def test_one_clip_of_each(tmp_path: Path, cut: tuple[Recording, ...], long: str, starts: list[float]) -> None:
    found = reader(tmp_path, *cut, fractions=(1, 0, 0), long=long)
    assert [clip.start for clip in found.clips("train")] == pytest.approx(starts)
    assert found.counts("train") == {"files": 3, "padded": 1}


def test_a_file_that_cannot_be_read_is_one_clip_for_the_core_to_judge(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    lost = [recording(tmp_path / "broken.mp4"), recording(tmp_path / "gone.mp4")]
    found = reader(tmp_path, *lost, fractions=(1, 0, 0))
    assert [clip.name for clip in found.clips("train")] == ["broken", "gone"]
    assert found.counts("train") == {"files": 2}


def test_splits_that_are_named_stay_and_those_that_are_not_are_drawn(tmp_path: Path) -> None:
    named = [recording(tmp_path / f"{index}.mp4", "test" if index < 3 else "train") for index in range(40)]
    found = reader(tmp_path, *named)
    test = [clip.name for clip in found.clips("test")]
    assert test == ["0", "1", "2"]
    assert found.splits == ("train", "val", "test")
    train, val = ([clip.name for clip in found.clips(split)] for split in ("train", "val"))
    assert len(train) + len(val) == 37
    assert 2 <= len(val) <= 12
    (note,) = found.notes()
    assert note.startswith(f"A hash of the files' names chooses val from the files of train: train {len(train)}, val")
    assert reader(tmp_path, *named, fractions=(1, 0, 0)).splits == ("train", "test")


def test_without_any_a_hash_decides_and_says_so(tmp_path: Path) -> None:
    free = [recording(tmp_path / f"{index}.mp4", "") for index in range(12)]
    found = reader(tmp_path, *free, fractions=(2, 1, 1))
    (note,) = found.notes()
    assert note.startswith("A hash of the files' names chooses the splits: train ")
    assert "data.fractions" in note
    assert sum(len(found.clips(split)) for split in found.splits) == 12
    assert [found.split_of(one) for one in free] == [
        reader(tmp_path, *free, fractions=(4, 2, 2)).split_of(one) for one in free
    ]


def test_classes_that_a_split_has_not_are_told(tmp_path: Path) -> None:
    def one(name: str, group: str, split: str) -> Recording:
        return Recording(name=name, path=tmp_path / f"{name}.mp4", group=group, split=split)

    ones = [one("a", "cat", "train"), one("b", "cat", "val"), one("c", "owl", "test"), one("d", "none", "test")]

    class Quiet(Recordings):
        nothing = "none"

    assert Quiet(RecordingSettings(), ones, tmp_path).notes() == [
        "Classes of which train has no clip, so that they cannot be learnt: owl.",
        "Classes of which val has no clip: owl.",
        "Classes of which test has no clip: cat.",
    ]


def test_notes_are_there_where_a_split_is_not(tmp_path: Path) -> None:
    class Refusing(Recordings):
        def lasts(self, one):
            if one.split == "val":
                raise DataError("wrong")
            return super().lasts(one)

    named = [recording(tmp_path / f"{split}.mp4", split) for split in ("train", "val", "test")]
    assert Refusing(RecordingSettings(), named, tmp_path).notes() == []


def test_a_split_alone_is_enough_to_score_on(tmp_path: Path) -> None:
    found = reader(tmp_path, recording(tmp_path / "a.mp4", "test"), recording(tmp_path / "b.mp4", "test"))
    assert (found.splits, len(found.clips("test")), found.notes()) == (("test",), 2, [])


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    def of(*splits: str, **settings: object) -> Recordings:
        named = (recording(tmp_path / f"{index}.mp4", split) for index, split in enumerate(splits))
        return reader(tmp_path, *named, **settings)

    for splits, message in (
        ((), "lists no video"),
        (("", ""), r"lists too few files \(2\) for the splits train, val, test: add some"),
        (("train", ""), "a split for some recordings and none for others \\(1\\)"),
        (("train", "dev"), "split 'dev' of '1' is none of train, val, test"),
    ):
        with pytest.raises(AVCoreError, match=message):
            of(*splits)
    with pytest.raises(AVCoreError, match="has no split 'val', only train, test"):
        of("", "", fractions=(1, 0, 1)).clips("val")
    for wrong in ((0, 1, 1), (1, -1, 1)):
        with pytest.raises(ValueError, match="fractions must not be negative, and that of train above 0"):
            RecordingSettings(fractions=wrong)


def test_a_piece_may_become_none_or_several(tmp_path: Path, cut: tuple[Recording, ...]) -> None:
    class Doubled(Recordings):
        def made_of(self, clip, one, lasts):
            assert lasts == pytest.approx({"short": 2.0, "fits": 4.2, "long": 9.0}[one.name], abs=0.6)
            return [] if clip.start else [clip, clip]

    found = Doubled(RecordingSettings(segments=4, clip_seconds=4.0, fractions=(1, 0, 0)), cut, tmp_path)
    assert [clip.name for clip in found.clips("train")] == ["short", "short", "fits", "fits", "long@0", "long@0"]
    assert found.counts("train") == {"files": 3, "windows": 2, "padded": 2}

    class Nothing(Recordings):
        def made_of(self, clip, one, lasts):
            return []

    with pytest.raises(AVCoreError, match="No clip is left in split 'train'"):
        Nothing(RecordingSettings(fractions=(1, 0, 0)), cut, tmp_path).clips("train")
