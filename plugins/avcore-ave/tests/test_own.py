"""Own videos with ``events.csv``: the table, the files that it means, clips, labels, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from media import grey_video

from avcore.data.broken import refuse_missing
from avcore.errors import AVCoreError
from avcore_ave.config import AVETaskConfig, OwnEventsConfig
from avcore_ave.own import OwnEvents, covered
from avcore_ave.table import Row, read_table, settings_in
from avcore_ave.task import AVETask, AVEWeakTask

RATE = 8000


def video(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = [10 * (index % 20) for index in range(round(2 * seconds))]
    return grey_video(path, levels, np.zeros((round(RATE * seconds), 1), np.int16), RATE, fps=2)


def write(root: Path, *lines: str, header: str = "file,start,end,label") -> Path:
    (root / "events.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return root


def read(root: Path, task: AVETask | None = None, **settings: object) -> OwnEvents:
    return OwnEvents(OwnEventsConfig(**{"fractions": (1, 0, 0), **settings}), root, task)


def labels(reader: OwnEvents, split: str = "train") -> dict[str, str]:
    """Of each clip a letter for each segment, ``.`` for background."""
    letters = [*(name[0] for name in reader.classes), "."]
    return {
        clip.name: "".join(letters[label] for label in reader.target(clip)["labels"].tolist())
        for clip in reader.clips(split)
    }


# ------------------------------------------------------------------------------------------------------------ the table


def test_a_table_as_written_by_hand(tmp_path: Path) -> None:
    write(
        tmp_path,
        'a b.mp4, 0.5, 2 ,"Bark, loud"',
        "",
        "c.mp4,1,2,meow,",
        'a b.mp4,0.50,2.0,"Bark, loud"',
        "d.mp4,,,Background",
    )
    table = read_table(tmp_path)
    assert table.rows == (
        Row(line=2, file="a b.mp4", start=0.5, end=2.0, label="Bark, loud"),
        Row(line=4, file="c.mp4", start=1.0, end=2.0, label="meow"),
        Row(line=6, file="d.mp4", label=""),
    )
    assert (table.repeated, table.classes) == (1, ("Bark, loud", "meow"))
    assert settings_in(tmp_path) == {"task_options.classes": ["Bark, loud", "meow"]}


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffile,start,end,label\r\nä.mp4,0.5,2,Hund\r\n\r\n",
        "File;Start;End;Label\r\nä.mp4;0,5;2;Hund\r\n",
        "label\tend\tnote\tstart\tfile\nHund\t2\tx, y\t0.5\tä.mp4",
        "sep=;\r\nfile;start;end;label\r\nä.mp4;0.5;2;Hund\r\n",
        "\n\nfile , start , end , label\rä.mp4,0.5,2,Hund\r",
    ],
    ids=["windows", "german", "tabs-other-order", "excel", "old-mac"],
)
def test_a_table_as_programs_write_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "events.csv").write_bytes(text.encode())
    (row,) = read_table(tmp_path).rows
    assert (row.file, row.start, row.end, row.label) == ("ä.mp4", 0.5, 2.0, "Hund")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column 'file' in its first line"),
        ("a.mp4,0,1,dog", r"no column 'file' in its first line.* must be file,start,end,label"),
        ("file,begin,end,label\na.mp4,0,1,dog", "no column 'start'"),
        ("file,start,ende,label\na.mp4,0,1,dog", r"no column 'end' in its first line\. Did you mean 'ende'"),
        ("file,start,end,label,label\na.mp4,0,1,dog,x", "several columns 'label'"),
        ("file,start,end,label", "names no event"),
        ("file,start,end,label\na.mp4,0,1,background", "names no event"),
        ("file,start,end,label\n\na.mp4,0,1", "line 3 has 3 cells for 4 columns: 'a.mp4,0,1'"),
        ("file,start,end,label\na.mp4,0,1,dog, bark", "line 2 has 5 cells.* needs quotes"),
        ("file,start,end,label\na.mp4,x,1,dog", "line 2: 'x' and '1' are no times in s, such as 2.5"),
        ("file,start,end,label\na.mp4,0:05,1,dog", "line 2: '0:05' and '1' are no times"),
        ("file,start,end,label\na.mp4,2,2,dog", "line 2: an event cannot last from 2 to 2 s"),
        ("file,start,end,label\na.mp4,3,2,dog", "line 2: an event cannot last from 3 to 2 s: start must be"),
        ("file,start,end,label\na.mp4,-1,2,dog", "line 2: an event cannot last from -1 to 2 s"),
        ("file,start,end,label\na.mp4,0,inf,dog", "line 2: an event cannot last from 0 to inf s"),
        ("file,start,end,label\na.mp4,nan,1,dog", "line 2: an event cannot last from nan to 1 s"),
        ("file,start,end,label\n,0,1,dog", "line 2 names no file"),
        ('file,start,end,label\na.mp4,0,1,"dog', "line 2: .*Is a quote missing"),
        ("file,start,end,label,split\na.mp4,0,1,dog,train\na.mp4,0,1,dog,test", "line 3: the event of line 2 again"),
    ],
)
def test_malformed_tables_are_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "events.csv").write_text(text)
    with pytest.raises(AVCoreError, match=message) as refused:
        read_table(tmp_path)
    assert str(tmp_path / "events.csv") in str(refused.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        AVCoreError, match=r"has no events\.csv: put one beside your videos, with the columns file,start"
    ):
        read(tmp_path)
    (tmp_path / "events.csv").write_bytes("file,start,end,label\nBär.mp4,0,1,dog".encode("cp1252"))
    with pytest.raises(AVCoreError, match=r"is not UTF-8 text: save it again as 'CSV UTF-8'"):
        read(tmp_path)


# ------------------------------------------------------------------------------------------------------------ the files


def test_files_are_found_however_their_names_were_written(tmp_path: Path) -> None:
    there = ("Ba\u0308r im Garten.MOV", "IMG_1.mp4", "sub/x.webm", "y.mp4", "Ba\u0308r.raw", "Y.mp4")
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = ["B\u00e4r im Garten.mov", "img_1", "sub\\x.webm", "y.mp4", "Ba\u0308r.raw", "y"]
    reader = read(write(tmp_path, *(f"{row},0,1,dog" for row in rows)))
    assert [one.path for one in reader.recordings] == [tmp_path / name for name in (*there[:5], "y")]
    assert reader.recordings[0].name == "B\u00e4r im Garten.MOV"
    clips = reader.clips("train")
    with pytest.raises(AVCoreError, match=r"1 of 6 clips of split 'train' lack files .*/y does not exist"):
        refuse_missing("train", clips, visual=True, audio=True)
    assert reader.notes() == ["Videos that no row of events.csv names, left out: Y.mp4."]


def test_labels_are_alike_however_accents_are_stored_and_capitals_are_told(tmp_path: Path) -> None:
    rows = ["a.mp4,0,1,Ba\u0308r", "b.mp4,0,1,B\u00e4r", "c.mp4,0,1,dog", "d.mp4,0,1,Dog"]
    reader = read(write(tmp_path, *rows))
    assert reader.classes == ("B\u00e4r", "Dog", "dog")
    assert reader.notes() == ["Classes whose names differ in capitals alone: dog and Dog."]


@pytest.mark.parametrize("name", ["/media/a.mp4", "../a.mp4", "..\\a.mp4", "C:\\videos\\a.mp4"])
def test_files_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AVCoreError, match=r"events\.csv' line 2: .* must lie below"):
        read(write(tmp_path, f"{name},0,1,dog"))


def test_a_column_says_which_split_a_file_is_in(tmp_path: Path) -> None:
    rows = ["a.mp4,0,1,dog,train", "b.mp4,0,1,dog,Val", "c.mp4,0,1,cat,test", "a.mp4,3,4,dog,train"]
    reader = read(write(tmp_path, *rows, header="file,start,end,label,split"), fractions=(1, 1, 1))
    assert {split: [clip.name for clip in reader.clips(split)] for split in reader.splits} == {
        "train": ["a.mp4"],
        "val": ["b.mp4"],
        "test": ["c.mp4"],
    }
    assert reader.notes() == [
        "Classes of which train has no clip, so that they cannot be learnt: cat.",
        "Classes of which val has no clip: cat.",
        "Classes of which test has no clip: dog.",
    ]
    for rows, message in (
        (["a.mp4,0,1,dog,train", "a.mp4,2,3,dog,test"], "line 3 puts 'a.mp4' into split 'test', line 2 into 'train'"),
        (["a.mp4,0,1,dog,train", "b.mp4,2,3,dog,dev"], "split 'dev' of 'b.mp4' is none of train, val, test"),
        (["a.mp4,0,1,dog,train", "b.mp4,2,3,dog,"], r"a split for some recordings and none for others \(b.mp4\)"),
    ):
        with pytest.raises(AVCoreError, match=message):
            read(write(tmp_path, *rows, header="file,start,end,label,split"))


# ------------------------------------------------------------------------------------------------------------ the truth


@pytest.mark.parametrize(
    ("start", "end", "marked"),
    [
        (2, 5, {2: 1.0, 3: 1.0, 4: 1.0}),
        (2.5, 4.4, {2: 0.5, 3: 1.0}),
        (2.6, 4.6, {3: 1.0, 4: 0.6}),
        (2.8, 3.1, {2: 0.2}),
        (2.8, 3.4, {3: 0.4}),
        (-1.5, 0.5, {-2: 0.5, -1: 1.0, 0: 0.5}),
    ],
)
def test_a_segment_has_the_event_that_covers_half_of_it(start: float, end: float, marked: dict[int, float]) -> None:
    assert covered(start, end, 1.0) == pytest.approx(marked)
    assert covered(start / 2, end / 2, 0.5) == pytest.approx(marked)


def test_recordings_become_clips_with_labels(tmp_path: Path) -> None:
    for name, seconds in {"short.mkv": 4, "long.mkv": 23, "quiet.mkv": 10}.items():
        video(tmp_path / name, seconds)
    write(
        tmp_path,
        "short.mkv,1,9,dog",
        "long.mkv,3.4,5,dog",
        "long.mkv,12,14,cat",
        "long.mkv,17,18.2,cat",
        "quiet.mkv,,,",
    )
    reader = read(tmp_path)
    assert labels(reader) == {
        "short.mkv": ".ddd......",
        "long.mkv@0": "...dd.....",
        "long.mkv@10": "..cc...c..",
        "long.mkv@13": "c...c.....",
        "quiet.mkv": "..........",
    }
    assert [clip.group for clip in reader.clips("train")] == ["dog", "dog", "cat", "cat", "background"]
    assert reader.counts("train") == {"files": 3, "windows": 3, "padded": 1}
    assert reader.notes() == [
        "Clips shorter than 10 s, filled up with silence and their last picture: 1.",
        "Events of events.csv that end with their files, not later as it says: line 2.",
    ]
    only = read(tmp_path, empty="leave_out")
    assert [*labels(only)] == ["short.mkv", "long.mkv@0", "long.mkv@10", "long.mkv@13"]
    assert "Clips without an event, left out by data.empty=leave_out: 1." in only.notes()
    small = read(tmp_path, segments=4, clip_seconds=2.0)
    assert labels(small)["short.mkv@0"] == "..dd"
    assert len(small.clips("train")) == 2 + 12 + 5


def test_an_event_after_the_end_of_its_file_is_refused(tmp_path: Path) -> None:
    video(tmp_path / "a.mkv", 4)
    reader = read(write(tmp_path, "a.mkv,0,1,dog", "a.mkv,75,80,dog", "a.mkv,90,91,dog"))
    with pytest.raises(
        AVCoreError, match=r"events\.csv' lines 3 and 4: an event begins at 75 s, but .* ends after 4\.0 s"
    ):
        reader.clips("train")


def test_several_classes_in_a_clip_are_refused_split_or_kept(tmp_path: Path) -> None:
    video(tmp_path / "a.mkv", 20)
    write(tmp_path, "a.mkv,0,3,dog", "a.mkv,3,6.5,cat", "a.mkv,8,9,dog", "a.mkv,12,14,cat")
    with pytest.raises(
        AVCoreError,
        match=r"events\.csv' lines 2 and 3 and 4: 'a\.mkv' has 'dog' and 'cat' between 0 and 10 s, which is one clip, "
        r"and a clip has one class\. --set data\.several=split .* data\.several=keep",
    ):
        read(tmp_path).clips("train")
    apart = read(tmp_path, several="split")
    assert labels(apart) == {"a.mkv@0": "ddd.....d.", "a.mkv@0#2": "...cccc...", "a.mkv@10": "..cc......"}
    assert [clip.group for clip in apart.clips("train")] == ["dog", "cat", "cat"]
    assert apart.counts("train") == {"files": 1, "windows": 3}
    assert labels(read(tmp_path, several="keep")) == {"a.mkv@0": "dddcccc.d.", "a.mkv@10": "..cc......"}
    write(tmp_path, "a.mkv,0,3.5,dog", "a.mkv,3.5,6,cat")
    assert labels(read(tmp_path, several="keep"))["a.mkv@0"] == "ddddcc...."
    write(tmp_path, "a.mkv,0,4,dog", "a.mkv,2,4,dog", "a.mkv,4,6,cat")
    assert labels(read(tmp_path, several="keep"))["a.mkv@0"] == "ddddcc...."
    write(tmp_path, "a.mkv,0,4,dog", "a.mkv,3,6,cat")
    with pytest.raises(
        AVCoreError, match=r"lines 2 and 3: .* in the same second, between 0 and 10 s, and a segment has one"
    ):
        read(tmp_path, several="keep").clips("train")
    assert labels(read(tmp_path, several="split"))["a.mkv@0#2"] == "...ccc...."


def test_labels_of_clips_alone(tmp_path: Path) -> None:
    write(tmp_path, "a.mkv,0,3,dog,train", "b.mkv,,,,train", "c.mkv,1,2,cat,test", header="file,start,end,label,split")
    task = AVEWeakTask(AVETaskConfig(classes=("cat", "dog")))
    reader = read(tmp_path, task)
    assert [{name: int(label) for name, label in reader.target(clip).items()} for clip in reader.clips("train")] == [
        {"clip_label": 1},
        {"clip_label": 2},
    ]
    (clip,) = reader.clips("test")
    assert torch.equal(reader.target(clip)["labels"], torch.tensor([2, 0, *[2] * 8]))
    assert int(reader.target(clip)["clip_label"]) == 0
    with pytest.raises(AVCoreError, match=r"data\.several=keep: a task that learns from the classes of whole clips"):
        read(tmp_path, task, several="keep")
    write(tmp_path, "a.mkv,0,3,dog", "a.mkv,5,6,cat")
    with pytest.raises(AVCoreError, match="makes a clip for each of them; shorter clips"):
        read(tmp_path, task).clips("train")


def test_a_task_may_know_more_classes_and_none_less(tmp_path: Path) -> None:
    write(tmp_path, "a.mkv,0,3,dog")
    assert labels(read(tmp_path, AVETask(AVETaskConfig(classes=("mouse", "dog", "cat"))))) == {"a.mkv": "ddd......."}
    with pytest.raises(
        AVCoreError, match=r"events\.csv' has the label dog, which is not among task_options\.classes \(cat\): leave"
    ):
        read(tmp_path, AVETask(AVETaskConfig(classes=("cat",))))
