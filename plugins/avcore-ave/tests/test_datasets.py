"""The reader: small sets of the same format made here."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from avcore.data.broken import refuse_missing
from avcore.errors import AVCoreError
from avcore.tasks import Dataset
from avcore.testing.golden import real_data
from avcore_ave.config import AVEDataConfig, AVETaskConfig, AVEWeakDataConfig
from avcore_ave.datasets import AVE, AVEWeak
from avcore_ave.task import AVETask, AVEWeakTask

HEADER = "Category&VideoID&Quality&StartTime&EndTime"
ROWS = (
    "Dog, bark&-b_id&good&6&8",
    "Male speech, man speaking&_twice_here&good&0&10",
    "Dog, bark&silent_clip&good&0&0",
    "Female speech, woman speaking&_twice_here&good&3&9",
    "Male speech, man speaking&other_clip0&good&2&5",
)
CLASSES = ("Dog, bark", "Male speech, man speaking", "Female speech, woman speaking")
ORDERS = {"train": (3, 1, 2), "val": (4,), "test": (0,)}
IDS = ("-b_id", "_twice_here", "silent_clip", "other_clip0")


def write_order(path: Path, rows: object, name: str = "order") -> None:
    with h5py.File(path, "w") as file:
        file[name] = rows


def make(root: Path, *, header: bool = False, splits: str = "h5", media: str = "video") -> Path:
    root.mkdir(exist_ok=True)
    lines = [HEADER] if header else []
    (root / "Annotations.txt").write_text("\n".join([*lines, *ROWS]) + "\n")
    for split, order in ORDERS.items():
        if splits == "h5":
            write_order(root / f"{split}_order.h5", np.array(order, dtype=np.int64))
            # Belongs to another task, and must not be read.
            write_order(root / f"{split}_order_match.h5", np.zeros(1, dtype=np.int64))
        else:
            (root / f"{split}Set.txt").write_text("\n".join([*lines, *(ROWS[row] for row in order)]))
    for name in IDS:
        if media == "video":
            (root / "AVE").mkdir(exist_ok=True)
            (root / "AVE" / f"{name}.mp4").write_bytes(b"")
        else:
            folder = root / "video_frames" / name
            folder.mkdir(parents=True)
            for number in range(1, 31):
                Image.new("RGB", (4, 4)).save(
                    folder / (f"{number:04d}.jpg" if media == "frames" else f"{number:08d}.jpg")
                )
            (root / "raw_audio").mkdir(exist_ok=True)
            (root / "raw_audio" / f"{name}.wav").write_bytes(b"")
    return root


def read(root: Path, **settings: object) -> AVE:
    return AVE(AVEDataConfig(**settings), root)


@pytest.mark.parametrize("header", [False, True], ids=["plain", "header"])
@pytest.mark.parametrize("splits", ["h5", "txt"])
def test_clips_in_the_order_of_the_split(tmp_path: Path, header: bool, splits: str) -> None:
    reader: Dataset = read(make(tmp_path, header=header, splits=splits))
    clips = reader.clips("train")
    # Two events of one video are two clips, and their names differ in every split.
    assert [clip.name for clip in clips] == ["_twice_here#2", "_twice_here", "silent_clip"]
    assert [clip.group for clip in clips] == [CLASSES[2], CLASSES[1], CLASSES[0]]
    assert {clip.frames for clip in clips[:2]} == {tmp_path / "AVE/_twice_here.mp4"}
    (clip,) = reader.clips("test")
    assert (clip.name, clip.audio, clip.seconds, clip.start) == ("-b_id", None, 10.0, 0.0)
    assert reader.classes == CLASSES
    assert (reader.segments, reader.splits) == (10, ("train", "val", "test"))
    assert (reader.windows.length, reader.windows.margin) == (1.0, 1.1)


def test_labels_follow_from_the_annotations(tmp_path: Path) -> None:
    reader = read(make(tmp_path))
    twice, first, silent = (reader.target(clip)["labels"] for clip in reader.clips("train"))
    assert twice.tolist() == [3] * 3 + [2] * 6 + [3]
    assert first.tolist() == [1] * 10
    assert silent.tolist() == [3] * 10
    assert reader.target(reader.clips("test")[0])["labels"].tolist() == [3] * 6 + [0] * 2 + [3] * 2
    assert twice.dtype is first.dtype
    assert str(twice.dtype) == "torch.int64"


def test_segments_of_another_length(tmp_path: Path) -> None:
    reader = read(make(tmp_path), segments=5)
    # Begin at 0, 2, 4, 6, 8 s; the event lasts from 2 to 5.
    assert reader.target(reader.clips("val")[0])["labels"].tolist() == [3, 1, 1, 3, 3]


@pytest.mark.parametrize("media", ["frames", "frames_of_eight_digits"])
def test_extracted_media(tmp_path: Path, media: str) -> None:
    reader = read(make(tmp_path, media=media))
    (clip,) = reader.clips("test")
    assert clip.audio == tmp_path / "raw_audio/-b_id.wav"
    # linspace(1, 30, 10), cut down to whole numbers.
    assert [int(path.stem) for path in clip.frames] == [1, 4, 7, 10, 13, 17, 20, 23, 26, 30]
    middle = read(tmp_path, pictures="middle").clips("test")[0]
    assert [int(path.stem) for path in middle.frames] == [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]


@pytest.mark.parametrize("name", ["{}.jpg", "frame_{}.jpg", "{:02d}.jpg"])
def test_pictures_go_by_their_numbers(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path, media="frames") / "video_frames" / "-b_id"
    for number, path in enumerate(sorted(folder.iterdir()), start=1):
        path.rename(folder / name.format(number))
    (clip,) = read(tmp_path).clips("test")
    assert [path.name for path in clip.frames] == [name.format(n) for n in (1, 4, 7, 10, 13, 17, 20, 23, 26, 30)]


def test_few_pictures_are_repeated(tmp_path: Path) -> None:
    make(tmp_path, media="frames")
    for path in sorted((tmp_path / "video_frames/-b_id").iterdir())[3:]:
        path.unlink()
    for pictures in ("even", "middle"):
        (clip,) = read(tmp_path, pictures=pictures).clips("test")
        numbers = [int(path.stem) for path in clip.frames]
        assert len(numbers) == 10
        assert set(numbers) == {1, 2, 3}
        assert numbers == sorted(numbers)


def test_videos_go_before_extracted_media_unless_asked(tmp_path: Path) -> None:
    make(tmp_path, media="frames")
    make(tmp_path, media="video")
    assert read(tmp_path).clips("test")[0].audio is None
    assert read(tmp_path, media="frames").clips("test")[0].audio is not None
    assert read(tmp_path / ".." / tmp_path.name, media="video").clips("test")[0].audio is None


def test_the_folder_of_the_official_archive_is_found(tmp_path: Path) -> None:
    make(tmp_path / "AVE_Dataset")
    assert read(tmp_path).clips("test") == read(tmp_path / "AVE_Dataset").clips("test")


def test_classes_of_the_task_must_be_those_of_the_files(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(AVCoreError) as raised:
        AVE(AVEDataConfig(), tmp_path, AVETask(AVETaskConfig()))
    message = str(raised.value)
    assert "has 3 classes (Dog, bark; Male speech, man speaking; Female speech, woman speaking)" in message
    assert "28 classes (Church bell; Male speech, man speaking; ...; Mandolin)" in message
    assert message.endswith("leave that setting out, and the names are taken from the files.")
    AVE(AVEDataConfig(), tmp_path, AVETask(AVETaskConfig(classes=CLASSES)))
    with pytest.raises(AVCoreError, match=r"task_options\.classes"):
        AVE(AVEDataConfig(), tmp_path, AVETask(AVETaskConfig(classes=CLASSES[::-1])))


def test_a_list_of_categories_may_not_contradict_the_annotations(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "categories.txt").write_text("\n".join(CLASSES) + "\n")
    assert read(tmp_path).classes == CLASSES
    (tmp_path / "categories.txt").write_text("\n".join(CLASSES[::-1]))
    with pytest.raises(AVCoreError, match=r"categories\.txt.*first appearance"):
        read(tmp_path)
    (tmp_path / "categories.txt").write_text("\n".join(CLASSES[:2]))
    with pytest.raises(AVCoreError, match=r"has 2 classes"):
        read(tmp_path)


def test_a_clip_is_listed_whether_or_not_its_media_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path)
    (tmp_path / "AVE/-b_id.mp4").unlink()
    assert [clip.frames for clip in read(tmp_path).clips("test")] == [tmp_path / "AVE/-b_id.mp4"]
    make(tmp_path, media="frames")
    (tmp_path / "AVE").rename(tmp_path / "videos")
    (tmp_path / "raw_audio/-b_id.wav").unlink()
    for path in (tmp_path / "video_frames/-b_id").iterdir():
        path.unlink()
    for gone in (tmp_path / "video_frames/-b_id", tmp_path / "raw_audio"):
        (clip,) = read(tmp_path).clips("test")
        assert (set(clip.frames), len(clip.frames)) == ({tmp_path / "video_frames/-b_id/0001.jpg"}, 10)
        assert clip.audio == tmp_path / "raw_audio/-b_id.wav"
        gone.rmdir() if gone.name == "-b_id" else gone.rename(tmp_path / "wave")
    assert not caplog.messages
    read(tmp_path)
    assert "wave/*.npy but no raw_audio" in caplog.messages[0]
    (tmp_path / "video_frames").rename(tmp_path / "elsewhere")
    with pytest.raises(AVCoreError, match="has no media"):
        read(tmp_path).clips("test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Cat&a&good&0", "line 1 is not Category"),
        ("Cat&a&good&0&1\nCat&b&good&x&1", "line 2: 'x' and '1' are no times"),
        ("Cat&a&good&5&1", "line 1: an event cannot last from 5 to 1 s"),
        ("&a&good&0&1", "line 1 is not Category"),
    ],
)
def test_malformed_annotations(tmp_path: Path, text: str, message: str) -> None:
    make(tmp_path)
    (tmp_path / "Annotations.txt").write_text(text)
    with pytest.raises(AVCoreError, match=message):
        read(tmp_path)


def test_lines_of_windows_and_names_with_the_separator(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "Annotations.txt").write_bytes(
        b"\xef\xbb\xbfRock & roll&-b_id&good&0&4\r\n\r\nCat&other_clip0&good&1&2\r\n"
    )
    reader = read(tmp_path)
    assert reader.classes == ("Rock & roll", "Cat")
    assert [event.video for event in reader.events] == ["-b_id", "other_clip0"]


def test_orders_that_do_not_fit(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(AVCoreError, match="no split 'valid'"):
        read(tmp_path).clips("valid")
    order = tmp_path / "test_order.h5"
    for rows, message in (
        (np.array([7]), "names row 7, but Annotations.txt has 5 rows"),
        (np.array([-1]), "names row -1"),
        (np.array([0.5]), "whole numbers"),
        (np.array([], dtype=np.int64), "lists no clip"),
    ):
        write_order(order, rows)
        with pytest.raises(AVCoreError, match=message):
            read(tmp_path).clips("test")
    write_order(order, np.array([0]), name="other")
    with pytest.raises(AVCoreError, match="dataset 'order'"):
        read(tmp_path).clips("test")
    order.write_bytes(b"no such format")
    with pytest.raises(AVCoreError, match=r"test_order\.h5' is no HDF5"):
        read(tmp_path).clips("test")
    order.unlink()
    with pytest.raises(AVCoreError, match=r"neither '.*test_order\.h5' nor 'testSet\.txt'"):
        read(tmp_path).clips("test")
    (tmp_path / "testSet.txt").write_text("Cat&-b_id&good&6&8")
    with pytest.raises(AVCoreError, match=r"event of '-b_id'.*is not in Annotations"):
        read(tmp_path).clips("test")
    with pytest.raises(AVCoreError, match=r"AVE_Dataset/Annotations\.txt"):
        read(tmp_path / "AVE")


def test_the_handed_lists_with_a_video_left_out(tmp_path: Path) -> None:
    for path in real_data("faults", "missing-video").glob("*.txt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "AVE").mkdir()
    reader = read(tmp_path)
    wanted = {split: [clip.name for clip in reader.clips(split)] for split in reader.splits}
    assert {split: len(names) for split, names in wanted.items()} == {"train": 8, "val": 4, "test": 4}
    for names in wanted.values():
        for name in names[1:]:
            (tmp_path / "AVE" / f"{name}.mp4").touch()
    assert {split: [clip.name for clip in reader.clips(split)] for split in reader.splits} == wanted
    with pytest.raises(
        AVCoreError, match=rf"^1 of 8 clips of split 'train' lack files .*/{wanted['train'][0]}\.mp4 does"
    ):
        refuse_missing("train", reader.clips("train"), visual=True, audio=True)


# ------------------------------------------------------------------------------------------------ labels of clips alone


def read_weak(root: Path, **settings: object) -> AVEWeak:
    return AVEWeak(AVEWeakDataConfig(**settings), root)


def test_training_sees_the_classes_of_whole_clips_alone(tmp_path: Path) -> None:
    reader = read_weak(make(tmp_path))
    train = [reader.target(clip) for clip in reader.clips("train")]
    # The last clip lasts from 0 to 0: background throughout, with a class all the same, as in mil_labels.h5.
    assert [(set(found), int(found["clip_label"])) for found in train] == [({"clip_label"}, n) for n in (2, 1, 0)]
    for split in ("val", "test"):
        plain = read(tmp_path)
        for clip, known in zip(reader.clips(split), plain.clips(split), strict=True):
            found = reader.target(clip)
            assert found.keys() == {"labels", "clip_label"}
            assert torch.equal(found["labels"], plain.target(known)["labels"])
    task = AVEWeakTask(AVETaskConfig(classes=CLASSES))
    assert [task.is_empty({"clip_label": torch.tensor(label)}) for label in (0, 3)] == [False, True]
    assert task.is_empty({"labels": torch.tensor([3, 3]), "clip_label": torch.tensor(0)})


@pytest.mark.parametrize("media", ["video", "frames"])
def test_negatives_join_training_and_those_without_media_are_told(tmp_path: Path, media: str) -> None:
    make(tmp_path, media=media)
    (tmp_path / "noisy.txt").write_bytes(b"\xef\xbb\xbfquiet one\r\n\r\ngone\r\n")
    if media == "video":
        (tmp_path / "AVE/quiet one.mp4").touch()
    else:
        (tmp_path / "video_frames/quiet one").mkdir()
        (tmp_path / "video_frames/quiet one/0001.jpg").touch()
        (tmp_path / "raw_audio/quiet one.wav").touch()
    assert len(read_weak(tmp_path).clips("train")) == 3
    reader = read_weak(tmp_path, negatives="noisy")
    *_, clip = reader.clips("train")
    assert (clip.name, clip.group, clip.seconds) == ("quiet one", "background", 10.0)
    assert {name: int(label) for name, label in reader.target(clip).items()} == {"clip_label": 3}
    (message,) = reader.notes()
    assert message.startswith("1 of 2 negatives of noisy.txt")
    assert message.endswith("are left out: gone.")
    assert [len(reader.clips(split)) for split in reader.splits] == [4, 1, 1]


def test_lists_of_negatives_that_do_not_fit(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(AVCoreError, match=r"negatives=noisy, but there is no '.*noisy\.txt'.*one a line"):
        read_weak(tmp_path, negatives="noisy").clips("train")
    for text, message in (
        ("-b_id", "'-b_id' has an event in Annotations"),
        ("a\nb\na", "names 'a' in line 1 and in line 3: remove one"),
    ):
        (tmp_path / "noisy.txt").write_text(text)
        with pytest.raises(AVCoreError, match=message):
            read_weak(tmp_path, negatives="noisy").clips("train")
