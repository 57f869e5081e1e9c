"""LLP's text files: read as they are, with their official defects and damaged on purpose."""

from pathlib import Path

import pytest

from avcore.errors import AVCoreError, DataError
from avcore.testing.golden import real_data
from avcore_avvp import OFFICIAL
from avcore_avvp.annotations import (
    BEYOND,
    CLASS_FOR_CLIP,
    CLASSES,
    IN_TWO_SPLITS,
    LISTS,
    NO_CLIP,
    NO_SECOND,
    OF_TRAIN,
    REPEATED,
    SAME_MEDIA,
    Labelled,
    Remark,
    class_settings_in,
    classes_in,
    find_root,
    look_at_events,
    look_at_lists,
    read_clips,
    read_events,
    settings_in,
    told,
)

HEADER, SECONDS = "filename\tevent_labels\n", "filename\tonset\toffset\tevent_labels\n"


@pytest.fixture(scope="module")
def official() -> Path:
    return real_data("annotations", "LLP")


def test_the_official_lists_have_the_counts_of_the_paper(official: Path) -> None:
    clips = {split: read_clips(official / file)[0] for split, file in LISTS.items()}
    assert {split: len(listed) for split, listed in clips.items()} == OFFICIAL
    names = [clip.name for listed in clips.values() for clip in listed]
    assert len(names) == len(set(names)) == 11849
    assert len({clip.media for listed in clips.values() for clip in listed}) == 11849
    train = [len(clip.labels) for clip in clips["train"]]
    assert [train.count(number) for number in (1, 2, 3)] == [4032, 5879, 89]
    assert sum(train) / len(train) == pytest.approx(1.61, abs=0.005)
    assert sum(len(clip.labels) for clip in clips["val"]) / 649 == pytest.approx(1.80, abs=0.005)
    assert sum(len(clip.labels) for clip in clips["test"]) / 1200 == pytest.approx(1.815, abs=0.0005)
    assert sum("Speech" in clip.labels for clip in clips["train"]) == 4988
    assert classes_in(official) == CLASSES
    assert len(CLASSES) == 25
    assert {label for listed in clips.values() for clip in listed for label in clip.labels} == set(CLASSES)
    (twice,) = [remark for file in LISTS.values() for remark in read_clips(official / file)[1]]
    assert twice.kind == "names a class twice"


@pytest.mark.parametrize(
    ("file", "rows", "test", "val", "test_clips", "val_clips", "unknown"),
    [
        ("AVVP_eval_audio.csv", 4131, 2666, 1451, 1195, 645, 8),
        ("AVVP_eval_audio.before_2024_fix.csv", 4131, 2663, 1451, 1195, 645, 10),
        ("AVVP_eval_visual.csv", 2495, 1628, 856, 1079, 579, 7),
    ],
)
def test_the_official_seconds(
    official: Path, file: str, rows: int, test: int, val: int, test_clips: int, val_clips: int, unknown: int
) -> None:
    splits = {clip.name: split for split, listed in LISTS.items() for clip in read_clips(official / listed)[0]}
    events = read_events(official / file, CLASSES)
    assert len(events) == rows
    of = {split: [event for event in events if splits.get(event.name) == split] for split in ("train", "val", "test")}
    assert (len(of["train"]), len(of["val"]), len(of["test"])) == (0, val, test)
    assert len({event.name for event in of["test"]}) == test_clips
    assert len({event.name for event in of["val"]}) == val_clips
    remarks = look_at_events(official / file, events, splits, 10)
    nowhere = [remark for remark in remarks if "names no clip" in remark.kind]
    assert len({remark.name for remark in nowhere if "a class in" not in remark.kind}) == unknown - ("before" in file)
    without_seconds = [remark for remark in remarks if remark.kind == NO_SECOND]
    assert len(without_seconds) == (0 if "visual" in file else 6)
    assert len(remarks) == len(nowhere) + len(without_seconds)
    texts = told(remarks)
    assert len(texts) == {"AVVP_eval_audio.csv": 2, "AVVP_eval_visual.csv": 1}.get(file, 4)
    if "before" in file:
        assert f"{file}: line 930 (Baby_cry_infant_cry), line 931 (Baby_cry_infant_cry) {CLASS_FOR_CLIP}." in texts
        assert f"{file}: line 2449 (KvIjsmANkxI_10_20`) names no clip, with a ` too much." in texts


def test_test_clips_whose_labels_are_not_those_of_their_seconds(official: Path) -> None:
    found: dict[str, set[str]] = {}
    for file in ("AVVP_eval_audio.csv", "AVVP_eval_visual.csv"):
        for event in read_events(official / file, CLASSES):
            found.setdefault(event.name, set()).add(event.label)
    clips = read_clips(official / LISTS["test"])[0]
    assert sum(set(clip.labels) != found.get(clip.name, set()) for clip in clips) == 51


# ------------------------------------------------------------------------------------------------------ damaged files


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("damage", ["crlf", "bom", "blank", "no header", "spaces"])
def test_what_editors_do_to_files_does_no_harm(tmp_path: Path, damage: str) -> None:
    body = "a_0_10\tDog,Cat\n-b_0_10\tSpeech\n"
    text = {
        "crlf": (HEADER + body).replace("\n", "\r\n"),
        "bom": "\ufeff" + HEADER + body,
        "blank": "\n" + HEADER + "\n" + body.replace("\n", "\n\n") + "\n \n",
        "no header": body.rstrip("\n"),
        "spaces": HEADER + body.replace("\t", " \t ").replace(",", ", "),
    }[damage]
    clips, remarks = read_clips(write(tmp_path / "list.csv", text))
    assert [(clip.name, clip.labels) for clip in clips] == [("a_0_10", ("Dog", "Cat")), ("-b_0_10", ("Speech",))]
    assert remarks == []
    seconds = SECONDS + "a_0_10\t2\t5\tDog\n"
    if damage == "crlf":
        seconds = seconds.replace("\n", "\r\n")
    (event,) = read_events(write(tmp_path / "seconds.csv", "\ufeff" + seconds), CLASSES)
    assert (event.name, event.onset, event.offset, event.label) == ("a_0_10", 2, 5, "Dog")


def test_a_repeated_line_counts_once_and_a_contradiction_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", HEADER + "a_0_10\tDog,Cat\nb_0_10\tDog\na_0_10\tCat,Dog\n")
    clips, (remark,) = read_clips(path)
    assert [clip.name for clip in clips] == ["a_0_10", "b_0_10"]
    assert remark == Remark("list.csv", 4, "a_0_10", REPEATED)
    write(path, HEADER + "a_0_10\tDog\nb_0_10\tDog\na_0_10\tCat\n")
    with pytest.raises(DataError, match=r"'a_0_10' in line 2 \(Dog\) and in line 4 \(Cat\): take one out"):
        read_clips(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a_0_10", r"list\.csv' line 2 is not filename, event_labels, parted by tabs: 'a_0_10'"),
        ("a_0_10\tDog\tCat", "line 2 is not filename"),
        ("\tDog", "line 2 is not filename"),
        ("a_0_10 Dog", "line 2 is not filename"),
        ("a_0_10\t,", "'a_0_10' has no class"),
    ],
)
def test_malformed_lines_of_a_list_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_clips(write(tmp_path / "list.csv", HEADER + line + "\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a_0_10\t0\tDog", r"seconds\.csv' line 2 is not filename, onset, offset, event_labels"),
        ("a_0_10\t0\tten\tDog", "line 2: '0' and 'ten' are no whole seconds"),
        ("a_0_10\t0.5\t2\tDog", "line 2: '0.5' and '2' are no whole seconds"),
        ("a_0_10\t0\t2\tDogs", "line 2: 'Dogs' is none of the 25 classes. Did you mean 'Dog'"),
    ],
)
def test_malformed_seconds_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_events(write(tmp_path / "seconds.csv", SECONDS + line + "\n"), CLASSES)


def test_seconds_that_mean_nothing_are_remarked_and_kept(tmp_path: Path) -> None:
    lines = ("a_0_10\t5\t5\tDog", "a_0_10\t8\t12\tDog", "gone_0_10\t0\t1\tDog", "t_0_10\t0\t1\tDog", "Dog\t0\t1\tCat")
    path = write(tmp_path / "seconds.csv", SECONDS + "\n".join(lines))
    events = read_events(path, CLASSES)
    remarks = look_at_events(path, events, {"a_0_10": "test", "t_0_10": "train"}, 10)
    assert told(remarks) == [
        f"seconds.csv: line 2 (a_0_10) {NO_SECOND}.",
        f"seconds.csv: line 3 (a_0_10) {BEYOND}.",
        f"seconds.csv: line 4 (gone_0_10) {NO_CLIP}.",
        f"seconds.csv: line 5 (t_0_10) {OF_TRAIN}.",
        f"seconds.csv: line 6 (Dog) {CLASS_FOR_CLIP}.",
    ]


def test_clips_on_two_lists_and_with_the_same_media_are_told() -> None:
    lists = {
        "train": [Labelled("aaaaaaaaaaa_0_10", ("Dog",), 2), Labelled("aaaaaaaaaaa_10_20", ("Dog",), 3)],
        "test": [Labelled("aaaaaaaaaaa_0_10", ("Dog",), 2), Labelled("bbbbbbbbbbb_0_10", ("Dog",), 3)],
    }
    assert told(look_at_lists(lists)) == [
        f"AVVP_train.csv: line 3 (aaaaaaaaaaa_10_20) {SAME_MEDIA}.",
        f"AVVP_test_pd.csv: line 2 (aaaaaaaaaaa_0_10) {IN_TWO_SPLITS}.",
    ]


def test_many_lines_are_counted() -> None:
    (text,) = told(Remark("a.csv", line, "x", NO_CLIP) for line in range(1, 26))
    assert text.endswith(f"line 20 (x), and 5 more {NO_CLIP}.")


def test_whole_seconds_may_have_a_point(tmp_path: Path) -> None:
    (event,) = read_events(write(tmp_path / "seconds.csv", SECONDS + "a_0_10\t2.0\t5.0\tDog\n"), CLASSES)
    assert (event.onset, event.offset) == (2, 5)


# ------------------------------------------------------------------------------------------------------------ classes


def test_classes_are_those_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "AVVP_train.csv", HEADER + "a_0_10\tDog,Cat\n")
    own = {"task_options.classes": list(CLASSES)}
    assert class_settings_in(tmp_path) == own
    assert settings_in(tmp_path) == {**own, "task_options.features": []}
    (tmp_path / "feats" / "r2plus1d_18").mkdir(parents=True)
    assert settings_in(tmp_path) == own
    write(tmp_path / "AVVP_test_pd.csv", HEADER + "b_0_10\tWhale,Dog\n")
    assert classes_in(tmp_path) == ("Dog", "Cat", "Whale")
    write(tmp_path / "categories.txt", "\ufeffWhale\r\n\r\nCat\r\nDog\r\n")
    assert classes_in(tmp_path) == ("Whale", "Cat", "Dog")
    write(tmp_path / "categories.txt", "Whale\nCat\n")
    with pytest.raises(DataError, match=r"train\.csv' line 2: 'Dog' is none of the 2 classes of .*categories\.txt"):
        classes_in(tmp_path)
    write(tmp_path / "categories.txt", "Dog\nCat\nDog\nWhale\n")
    with pytest.raises(DataError, match="each class once"):
        classes_in(tmp_path)


def test_the_folder_is_found(tmp_path: Path) -> None:
    with pytest.raises(AVCoreError, match=r"holds no AVVP_train\.csv, nor do data, LLP_dataset, LLP in it"):
        find_root(tmp_path)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "AVVP_train.csv", HEADER)
    assert find_root(tmp_path) == tmp_path / "data"
    with pytest.raises(DataError, match=r"Cannot read '.*gone\.csv'"):
        read_clips(tmp_path / "gone.csv")
    (tmp_path / "latin.csv").write_bytes(b"filename\tevent_labels\na\xe9\tDog")
    with pytest.raises(DataError, match="not UTF-8"):
        read_clips(tmp_path / "latin.csv")
