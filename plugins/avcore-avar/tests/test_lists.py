"""Lists of clips as people have them: what does no harm is read, the rest is refused with file and line."""

import logging
from pathlib import Path

import pytest

from avcore.errors import DataError
from avcore.testing.golden import real_data
from avcore_avar.classes import LISTS
from avcore_avar.kinetics_lists import classes_in, read_classes, read_list, settings_in
from avcore_avar.lists import Entry
from avcore_avar.vggsound_lists import classes_in as vggsound_classes_in
from avcore_avar.vggsound_lists import read_split, read_table


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_windows_line_ends_a_bom_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "my_train.txt", b"\xef\xbb\xbfa_1,10,0\r\n\r\n  b_2 , 10 , 3 \r\n\n")
    assert read_list(path) == (Entry(clip="a_1", label=0, line=1), Entry(clip="b_2", label=3, line=3))


def test_what_is_listed_again_counts_once_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "my_train.txt", "a,10,0\nb,10,1\na,10,0\n")
    with caplog.at_level(logging.WARNING, "avcore"):
        for _ in range(2):
            assert [entry.clip for entry in read_list(path)] == ["a", "b"]
    assert caplog.text.count(f"'{path}' lists 1 clips again") == 1
    assert "'a' in lines 1 and 3" in caplog.text


def test_a_list_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "my_train.txt", "a,10,0\n")
    assert len(read_list(path)) == 1
    assert len(read_list(write(path, "a,10,0\nb,10,1\n"))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,10,0\nb,10\n", "line 2 has 2 columns, not the 3 of clip,10,label: 'b,10'"),
        ("a,10,0,x\n", "line 1 has 4 columns, not the 3 .*; a cell with a comma in it stands in double quotes"),
        ("\na,10,-1\n", "line 2 has '-1' where the index of a class stands"),
        ("a,10,1.0\n", "line 1 has '1.0' where the index of a class stands"),
        ("a,10,dog\n", "line 1 has 'dog' where the index of a class stands"),
        (",10,0\n", "line 1 names no clip"),
        ('"a,10,0\n', "line 1 is no row of clip,10,label"),
        ("a,10,0\nb,10,0\na,10,1\n", "lists 'a' as 0 in line 1 and as 1 in line 3"),
        (b"\xff\xfea,10,0", "it is not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_refused_with_file_and_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path / "my_train.txt", text)
    with pytest.raises(DataError, match=message) as refused:
        read_list(path)
    assert str(path) in str(refused.value)


def test_a_list_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*my_train\.txt"):
        read_list(tmp_path / "my_train.txt")


@pytest.mark.parametrize("text", ["0\tcat\n1\tdog barking\n", "1 dog barking\n0 cat\n", "cat\r\ndog barking\r\n"])
def test_names_of_classes_with_or_without_their_indices(tmp_path: Path, text: str) -> None:
    assert read_classes(write(tmp_path / "classes.txt", text)) == ("cat", "dog barking")


@pytest.mark.parametrize("text", ["0 a\n2 b\n", "0 a\n0 b\n", "1 a\n2 b\n"])
def test_indices_of_classes_that_are_not_those_from_0_on_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"line [12]: .* must be 0 to 1, each once"):
        read_classes(write(tmp_path / "classes.txt", text))


@pytest.mark.parametrize(("highest", "names"), [(30, "ks-31"), (31, "ks-32"), (33, "ks-34"), (4, "ks-31")])
def test_the_shortest_list_that_holds_all_indices(tmp_path: Path, highest: int, names: str) -> None:
    write(tmp_path / "my_train.txt", f"a,10,0\nb,10,{highest}\n")
    assert classes_in(tmp_path) == LISTS[names]


def test_more_classes_than_any_known_list_need_their_names(tmp_path: Path) -> None:
    write(tmp_path / "my_test.txt", "a,10,34\n")
    with pytest.raises(DataError, match=r"class index 34.* has 34: write the names into .*classes\.txt"):
        settings_in(tmp_path)


def test_the_official_lists_of_kinetics_sounds() -> None:
    root = real_data("annotations", "Kinetics-Sounds")
    train, test = read_list(root / "my_train.txt"), read_list(root / "my_test.txt")
    assert (len(train), len(test)) == (14799, 2597)
    assert {entry.label for entry in train} == {entry.label for entry in test} == set(range(31))
    assert (train[0].clip, train[0].label) == ("--4-0ihtnBU_000058_000068", 4)
    assert settings_in(root) == {"task_options.classes": list(LISTS["ks-31"])}
    named = [line.split("\t")[1] for line in (root / "classes_31.txt").read_text().splitlines()]
    assert named == list(LISTS["ks-31"])


def test_the_official_lists_of_vggsound() -> None:
    root = real_data("annotations", "VGGSound")
    test = read_split(root / "test.csv")
    assert len(test) == 15446
    assert (test[0].clip, test[0].label) == ("glLQrEijrKg_000300", "playing hammond organ")
    names = vggsound_classes_in(root)
    assert len(names) == 309
    assert {entry.label for entry in test} == set(names)
    assert "bird chirping, tweeting" in names


def test_one_table_of_vggsound(tmp_path: Path) -> None:
    text = '---a,1,"people marching",test\r\n-bc,30,"dog, bark",train\r\n---a,20,cat purring,train\r\n'
    found = read_table(write(tmp_path / "vggsound.csv", text))
    listed = {split: [(one.clip, one.label) for one in entries] for split, entries in found.items()}
    assert listed == {
        "train": [("-bc_000030", "dog, bark"), ("---a_000020", "cat purring")],
        "val": [],
        "test": [("---a_000001", "people marching")],
    }
    assert vggsound_classes_in(tmp_path) == ("cat purring", "dog, bark", "people marching")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1,dog, bark,train\n", "line 1 has 5 columns, not the 4 of .* stands in double quotes"),
        ("a,1.5,dog,train\n", "line 1 has '1.5' where the second stands"),
        ("a,1,dog,valid\n", "line 1 has the split 'valid', which is none of train, val, test"),
        ("a,1,dog,train\na,1,cat,train\n", "lists 'a_000001' as dog in line 1 and as cat in line 2"),
        ("a,1,dog,train\n\na,1,dog,test\n", "line 3 puts 'a_000001' into test, which is in train already"),
        (",1,dog,train\n", "line 1 names no video or no class"),
    ],
)
def test_what_is_wrong_in_the_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "vggsound.csv", text))


@pytest.mark.parametrize("header", ["id,start,class,split", "# YouTube ID, start seconds, label, train/test split"])
def test_a_line_of_column_names_is_left_out(tmp_path: Path, header: str) -> None:
    found = read_table(write(tmp_path / "vggsound.csv", f"{header}\na,1,dog,train\n"))
    assert [one.clip for one in found["train"]] == ["a_000001"]
