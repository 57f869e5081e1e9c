"""Annotation files as people have them: what changes nothing, what is refused and where, what is told."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from avcore.errors import DataError
from avcore_ave.annotations import settings_in
from avcore_ave.config import AVEDataConfig
from avcore_ave.datasets import AVE

HEADER = "Category&VideoID&Quality&StartTime&EndTime"
ROWS = (
    "Dog, bark&-b_id&good&6&8",
    "Cat&_twice_here&good&0&10",
    "Dog, bark&silent_clip&good&0&0",
    "Bus&_twice_here&good&3&9",
    "Cat&other_clip0&good&2&5",
)
ORDERS = {"train": (3, 1, 2), "val": (4,), "test": (0,)}


def write_order(path: Path, rows: tuple[int, ...]) -> None:
    with h5py.File(path, "w") as file:
        file["order"] = np.array(rows)


@pytest.fixture(params=["numbers", "lines", "numbers and lines"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Five events, whose splits stand in files of numbers, in files of lines, or in both as published."""
    (tmp_path / "AVE").mkdir()
    (tmp_path / "categories.txt").write_text("Dog, bark\nCat\nBus\n")
    (tmp_path / "Annotations.txt").write_text("\n".join(ROWS) + "\n")
    for split, order in ORDERS.items():
        if "numbers" in request.param:
            write_order(tmp_path / f"{split}_order.h5", order)
        if "lines" in request.param:
            (tmp_path / f"{split}Set.txt").write_text("\n".join(ROWS[row] for row in order) + "\n")
    return tmp_path


def read(root: Path) -> dict[str, list[tuple[str, list[int]]]]:
    """Names and labels of all splits."""
    reader = AVE(AVEDataConfig(), root)
    return {
        split: [(clip.name, reader.target(clip)["labels"].tolist()) for clip in reader.clips(split)]
        for split in reader.splits
    }


def spaced(text: bytes) -> bytes:
    return b"\n" + text.replace(b"\n", b"\n\n  \t\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
        spaced,
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b"&", b" & "),
        lambda text: HEADER.encode() + b"\n" + text if b"&" in text else text,
        lambda text: b"\xef\xbb\xbf" + HEADER.encode() + b"\r\n" + spaced(text) if b"&" in text else text,
    ],
    ids=["CRLF", "CR", "BOM", "BOM, CRLF", "blank lines", "no last line end", "spaces", "header", "all"],
)
def test_what_editors_do_to_text_changes_nothing(root: Path, damage: Callable[[bytes], bytes]) -> None:
    before = read(root)
    for path in root.glob("*.txt"):
        path.write_bytes(damage(path.read_bytes()))
    assert read(root) == before
    assert before["train"][0] == ("_twice_here#2", [3] * 3 + [2] * 6 + [3])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Cat&other", "cat&other", r"line 5: class 'cat' is 'Cat' in an earlier line\. Write it in one way"),
        ("Dog, bark&silent", "Dog,  bark&silent", "line 3: class 'Dog,  bark' is 'Dog, bark' in an earlier line"),
        ("Bus&_twice_here&good&3&9", "Cat&_twice_here&good&0&10", "same event in line 2 and in line 4: remove one"),
        ("&6&8", "&6&inf", "line 1: an event cannot last from 6 to inf s"),
        ("&6&8", "&nan&8", "line 1: an event cannot last from nan to 8 s"),
        ("Bus", "B\0us", r"line 4 is not Category&VideoID&Quality&StartTime&EndTime: 'B\\x00us&_twice_here"),
        ("&", "\t", r"line 1 is not Category&VideoID&Quality&StartTime&EndTime: 'Dog, bark\\t-b_id"),
        ("other_clip0&good&2&5", "other", "line 5 is not Category&VideoID&Quality&StartTime&EndTime: 'Cat&other'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(root: Path, old: str, new: str, message: str) -> None:
    path = root / "Annotations.txt"
    path.write_text(path.read_text().replace(old, new))
    (root / "categories.txt").unlink()
    with pytest.raises(DataError, match=rf"Annotations\.txt'.*{message}"):
        read(root)


def test_a_file_without_events_is_refused(root: Path) -> None:
    (root / "Annotations.txt").write_text(HEADER + "\n\n")
    with pytest.raises(DataError, match=r"Annotations\.txt' holds no event: its lines are Category&VideoID"):
        settings_in(root)


def test_a_clip_stands_once_in_a_split(root: Path) -> None:
    numbers, lines = root / "train_order.h5", root / "trainSet.txt"
    if numbers.is_file():
        write_order(numbers, (3, 1, 2, 1))
        with pytest.raises(DataError, match=r"train_order\.h5' names row 1 \('_twice_here'\) twice: remove one"):
            read(root)
    else:
        lines.write_text(lines.read_text() + ROWS[3])
        with pytest.raises(DataError, match=r"trainSet\.txt' has the same event in line 1 and in line 4: remove one"):
            read(root)


@pytest.mark.parametrize("root", ["numbers and lines"], indirect=True)
@pytest.mark.parametrize("change", ["a line less", "a line more", "another order"])
def test_numbers_that_no_longer_fit_the_annotations_are_noticed_by_the_lines(root: Path, change: str) -> None:
    numbers, lines = root / "train_order.h5", root / "trainSet.txt"
    if change == "a line more":  # all later rows move
        path = root / "Annotations.txt"
        path.write_text("Dog, bark&new&good&0&4\n" + path.read_text())
        found = "Clip 1 of '.*train_order.h5' is row 3, 'silent_clip' .*of 'trainSet.txt' beside it '_twice_here' .Bus"
    elif change == "a line less":
        lines.write_text("\n".join(lines.read_text().splitlines()[:2]))
        found = (
            "Clip 3 of '.*train_order.h5' is row 2, 'silent_clip' .Dog, bark., and of 'trainSet.txt' beside it missing"
        )
    else:
        write_order(numbers, (1, 3, 2))
        found = "Clip 1 of '.*train_order.h5' is row 1"
    with pytest.raises(DataError, match=f"{found}.*remove one of the two files"):
        read(root)


@pytest.mark.parametrize("root", ["numbers", "numbers and lines"], indirect=True)
def test_corrected_times_are_no_other_clip(root: Path) -> None:
    """The annotations say when an event is. (Without numbers, lines are found by their times too.)"""
    path = root / "Annotations.txt"
    path.write_text(path.read_text().replace("&3&9", "&4&5"))
    assert read(root)["train"][0][1] == [3] * 4 + [2] + [3] * 5


def test_events_behind_the_end_and_clips_in_two_splits_are_told(root: Path) -> None:
    assert AVE(AVEDataConfig(), root).notes() == []
    for path in root.glob("*.txt"):
        path.write_text(path.read_text().replace("&6&8", "&6&18"))
    (late,) = AVE(AVEDataConfig(), root).notes()
    assert "events that end after their clips of 10 s, 1 of 5, the first that of '-b_id' at 18 s" in late
    assert read(root)["test"] == [("-b_id", [3] * 6 + [0] * 4)]
    lines, numbers = root / "testSet.txt", root / "test_order.h5"
    if lines.is_file():
        lines.write_text(lines.read_text() + ROWS[1] + "\n")
    if numbers.is_file():
        write_order(numbers, (0, 1))
    _, shared = AVE(AVEDataConfig(), root).notes()
    assert shared == "1 of 2 clips of split 'test' are in train too, the first '_twice_here': its scores say less."
