"""Readers: a small set of the same format made here, and real files where they are at hand."""

import csv
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import avcore_avs
from avcore.errors import AVCoreError
from avcore.tasks import Dataset
from avcore.testing.golden import real_data
from avcore_avs.config import AVSDataConfig
from avcore_avs.datasets import AVSBenchMS3, AVSBenchS4

SIZE = 16
CONFIG = AVSDataConfig(size=SIZE)
HALF = np.zeros((SIZE, SIZE), dtype=np.uint8)
HALF[:, SIZE // 2 :] = 1


def palette_picture(indices_YX: np.ndarray) -> Image.Image:
    picture = Image.new("P", indices_YX.shape[::-1])
    picture.putdata(indices_YX.flatten().tolist())
    picture.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    return picture


def write(path: Path, picture: Image.Image | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture is None:
        path.write_bytes(b"")
    else:
        picture.save(path)


def make_s4(root: Path, header: str = "name,start time,category,split") -> Path:
    rows = [
        ("-b_id", "3", "dog", "train"),
        ("a id", "0", "cat", "train"),
        ("v1", "0", "dog", "val"),
        ("t1", "1", "cat", "test"),
    ]
    folder = root / "Single-source"
    data = folder / "s4_data"
    for name, _, category, split in rows:
        where = Path(split, category)
        write(data / "audio_wav" / where / f"{name}.wav")
        for number in range(1, 6):
            write(data / "visual_frames" / where / name / f"{name}_{number}.png", Image.new("RGB", (SIZE, SIZE)))
            if split != "train" or number == 1:
                mask = Image.fromarray((HALF if number % 2 else 0 * HALF) * 255).convert("1")
                write(data / "gt_masks" / where / name / f"{name}_{number}.png", mask)
    lines = [header] if header else []
    (folder / "s4_meta_data.csv").write_text("\n".join([*lines, *(",".join(row) for row in rows)]) + "\n\n")
    return folder


def make_ms3(root: Path) -> Path:
    folder = root / "Multi-sources"
    data = folder / "ms3_data"
    for name, split in (("x_0", "train"), ("y_1", "test"), ("z_2", "val")):
        write(data / "audio_wav" / split / f"{name}.wav")
        for number in range(1, 6):
            write(data / "visual_frames" / name / f"{name}.mp4_{number}.png", Image.new("RGB", (SIZE, SIZE)))
            write(data / "gt_masks" / split / name / f"{name}_{number}.png", palette_picture(HALF * 255 * (number < 5)))
    (folder / "ms3_meta_data.csv").write_text("name,split\nx_0,train\ny_1,test\nz_2,val\n")
    return folder


def test_s4_clips_in_file_order(tmp_path: Path) -> None:
    folder = make_s4(tmp_path)
    reader: Dataset = AVSBenchS4(CONFIG, tmp_path)
    assert [clip.name for clip in reader.clips("train")] == ["-b_id", "a id"]
    (clip,) = reader.clips("test")
    assert (clip.name, clip.group, clip.seconds, clip.start) == ("t1", "cat", 5.0, 0.0)
    assert clip.audio == folder / "s4_data/audio_wav/test/cat/t1.wav"
    assert clip.frames == tuple(folder / f"s4_data/visual_frames/test/cat/t1/t1_{number}.png" for number in range(1, 6))
    assert (reader.segments, reader.splits) == (5, ("train", "val", "test"))
    assert (reader.windows.length, reader.windows.margin) == (1.95, 2.05)
    assert AVSBenchS4(CONFIG, folder).clips("test") == reader.clips("test")


def test_s4_train_clips_have_one_mask_and_the_shape_of_all(tmp_path: Path) -> None:
    make_s4(tmp_path)
    reader = AVSBenchS4(CONFIG, tmp_path)
    train, test = (reader.target(reader.clips(split)[0]) for split in ("train", "test"))
    half_YX = torch.from_numpy(HALF).float()
    assert train["labelled"].tolist() == [True] + [False] * 4
    assert test["labelled"].tolist() == [True] * 5
    assert train["masks"].shape == test["masks"].shape == (5, SIZE, SIZE)
    assert train["masks"].dtype == torch.float32
    torch.testing.assert_close(train["masks"], torch.stack([half_YX] + [0 * half_YX] * 4))
    torch.testing.assert_close(test["masks"], torch.stack([half_YX, 0 * half_YX] * 2 + [half_YX]))


@pytest.mark.parametrize("header", ["split,x,y", "\ufeffname,start_time,category,split", "", "video,when,what,where"])
def test_columns_by_name_else_by_position(tmp_path: Path, header: str) -> None:
    folder = make_s4(tmp_path, header)
    if header == "split,x,y":  # another order: name and category by name
        table = folder / "s4_meta_data.csv"
        rows = [line.split(",") for line in table.read_text().split()[1:] if line.count(",") == 3]
        table.write_text("\n".join(["split,category,name", *(f"{row[3]},{row[2]},{row[0]}" for row in rows)]))
        assert [clip.name for clip in AVSBenchS4(CONFIG, tmp_path).clips("test")] == ["t1"]
    else:
        assert [clip.name for clip in AVSBenchS4(CONFIG, tmp_path).clips("train")] == ["-b_id", "a id"]


def test_ms3_clips_and_palette_masks(tmp_path: Path) -> None:
    folder = make_ms3(tmp_path)
    reader = AVSBenchMS3(CONFIG, tmp_path)
    (clip,) = reader.clips("train")
    assert clip.group == ""
    assert clip.frames[4] == folder / "ms3_data/visual_frames/x_0/x_0.mp4_5.png"
    assert clip.audio == folder / "ms3_data/audio_wav/train/x_0.wav"
    target = reader.target(clip)
    assert target["labelled"].all()
    # Index 255 is foreground, whatever its colour.
    assert target["masks"].amax((1, 2)).tolist() == [1, 1, 1, 1, 0]
    torch.testing.assert_close(target["masks"][0], torch.from_numpy(HALF).float())


@pytest.mark.parametrize(("make", "reader"), [(make_s4, AVSBenchS4), (make_ms3, AVSBenchMS3)])
def test_what_is_foreground_is_a_setting(tmp_path: Path, make: Callable[[Path], Path], reader: type[Dataset]) -> None:
    """A label image is neither dithered nor divided: it is refused by name, or taken by what is not 0."""
    make(tmp_path)
    clip = reader(CONFIG, tmp_path).clips("test")[0]
    expected = torch.from_numpy(HALF).float()
    for value in (1, 38, 255):
        for picture in (Image.fromarray(HALF * value), palette_picture(HALF * value)):
            picture.save(clip.files[0])
            mixed = reader(replace(CONFIG, foreground="nonzero"), tmp_path)
            torch.testing.assert_close(mixed.target(clip)["masks"][0], expected)
            if value == 255:
                torch.testing.assert_close(reader(CONFIG, tmp_path).target(clip)["masks"][0], expected)
                continue
            with pytest.raises(AVCoreError, match=rf"_1\.png' holds the .* 0, {value}: .*data\.foreground=nonzero"):
                reader(CONFIG, tmp_path).target(clip)


def test_windows_and_length_are_settings(tmp_path: Path) -> None:
    make_ms3(tmp_path)
    config = AVSDataConfig(size=SIZE, segments=3, clip_seconds=3.0, window_seconds=1.0, window_margin=1.1)
    reader = AVSBenchMS3(config, tmp_path)
    assert (reader.segments, reader.windows.length, reader.windows.margin) == (3, 1.0, 1.1)
    (clip,) = reader.clips("val")
    assert (len(clip.frames), clip.seconds) == (3, 3.0)
    assert reader.target(clip)["masks"].shape == (3, SIZE, SIZE)
    with pytest.raises(ValueError, match="window_margin"):
        AVSDataConfig(window_seconds=1.0, window_margin=0.9)
    with pytest.raises(ValueError, match="segments"):
        AVSDataConfig(segments=0)


def test_a_clip_is_listed_whether_or_not_its_files_are_there(tmp_path: Path) -> None:
    folder = make_s4(tmp_path)
    whole = AVSBenchS4(CONFIG, tmp_path).clips("test")
    (folder / "s4_data/gt_masks/test/cat/t1/t1_2.png").unlink()
    (folder / "s4_data/audio_wav/test/cat/t1.wav").unlink()
    reader = AVSBenchS4(CONFIG, tmp_path)
    assert reader.clips("test") == whole
    with pytest.raises(AVCoreError, match=r"t1_2\.png does not exist"):
        reader.target(whole[0])


def test_what_is_there_but_is_no_file_is_a_matter_of_its_clip(tmp_path: Path) -> None:
    folder = make_s4(tmp_path)
    mask, sound = folder / "s4_data/gt_masks/test/cat/t1/t1_2.png", folder / "s4_data/audio_wav/test/cat/t1.wav"
    for path in (mask, sound):
        path.unlink()
    os.mkfifo(mask)
    sound.mkdir()
    reader = AVSBenchS4(CONFIG, tmp_path)
    clip = next(clip for clip in reader.clips("test") if clip.name == "t1")
    with pytest.raises(AVCoreError, match=r"t1_2\.png is not a regular file"):
        reader.target(clip)


def test_pickles_alone_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_ms3(tmp_path)
    AVSBenchMS3(CONFIG, tmp_path)
    assert not caplog.messages
    (folder / "ms3_data/audio_wav").rename(folder / "ms3_data/audio_log_mel")
    assert len(AVSBenchMS3(CONFIG, tmp_path).clips("val")) == 1
    assert "Put the wav files of the clips into audio_wav" in caplog.messages[0]


def test_wrong_roots_splits_and_tables(tmp_path: Path) -> None:
    with pytest.raises(AVCoreError, match=r"Multi-sources/ms3_meta_data\.csv"):
        AVSBenchMS3(CONFIG, tmp_path)
    folder = make_ms3(tmp_path)
    reader = AVSBenchMS3(CONFIG, tmp_path)
    with pytest.raises(AVCoreError, match="no split 'valid'"):
        reader.clips("valid")
    table = folder / "ms3_meta_data.csv"
    table.write_text("name,split\nx_0,trian\n")
    with pytest.raises(AVCoreError, match="line 2: split 'trian'"):
        reader.clips("train")
    table.write_text("name,split\nx_0\n")
    with pytest.raises(AVCoreError, match="line 2 has 1 columns"):
        reader.clips("train")
    table.write_text("name,split\nx_0,train\n")
    with pytest.raises(AVCoreError, match="no clip of split 'test'"):
        reader.clips("test")
    table.write_text("")
    with pytest.raises(AVCoreError, match="no clip"):
        reader.clips("test")
    table.write_bytes("name,split\ncaf\xe9,test\n".encode("latin-1"))
    with pytest.raises(AVCoreError, match=r"ms3_meta_data\.csv' cannot be read as a table in UTF-8"):
        reader.clips("test")


@pytest.mark.parametrize(
    ("reader", "counts"),
    [(AVSBenchS4, {"train": 120, "val": 30, "test": 30}), (AVSBenchMS3, {"train": 60, "val": 20, "test": 20})],
)
def test_real_files(reader: type, counts: dict[str, int]) -> None:
    data = reader(AVSDataConfig(), real_data("mini", "AVS"))
    for split, wanted in counts.items():
        clips = data.clips(split)
        assert len({clip.name for clip in clips}) == wanted
        target = data.target(clips[-1])
        labelled = 1 if reader is AVSBenchS4 and split == "train" else 5
        assert int(target["labelled"].sum()) == labelled
        assert set(target["masks"].unique().tolist()) <= {0.0, 1.0}
        assert 0 < target["masks"][:labelled].mean() < 1


@pytest.mark.parametrize(("file", "clips"), [("avs1_s4_test.csv", 740), ("avs1_ms3_test.csv", 64)])
def test_real_test_lists_read_as_frames_of_clips(file: str, clips: int, tmp_path: Path) -> None:
    """The public lists name frames; their clips make a table that the readers take."""
    with real_data("annotations", "AVSBench", file).open(newline="") as lines:
        rows = list(csv.reader(lines))
    frames = Counter(row[0].rpartition("_")[0] for row in rows)
    assert len(frames) == clips
    s4, ms3 = avcore_avs.avcore_datasets()
    assert (s4 if clips == 740 else ms3).official["test"] == clips
    assert set(frames.values()) == {5}
    if clips == 740:
        category = {row[0].rpartition("_")[0]: row[1] for row in rows}
        table = [f"{name},0,{category[name]},test" for name in frames]
        folder, kind = tmp_path / "Single-source", AVSBenchS4
    else:
        table = [f"{name},test" for name in frames]
        folder, kind = tmp_path / "Multi-sources", AVSBenchMS3
    folder.mkdir()
    header = ",".join(kind.columns) if clips == 64 else "name,start time,category,split"
    (folder / kind.table).write_text("\n".join([header, *table]))
    read = kind(CONFIG, tmp_path).clips("test")
    assert len(read) == clips
    assert {len({*clip.frames, clip.audio, *clip.files}) for clip in read} == {11}
