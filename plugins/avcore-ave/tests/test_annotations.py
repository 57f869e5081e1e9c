"""The official annotation files, where they are at hand, and the small real set."""

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from avcore.tasks import Clip
from avcore.testing.golden import real_data
from avcore_ave.annotations import CLASSES, read_classes, read_events
from avcore_ave.config import AVEDataConfig, AVETaskConfig
from avcore_ave.datasets import AVE, read_order
from avcore_ave.task import AVETask

SPLITS = {"train": 3339, "val": 402, "test": 402}
COUNTS = (
    *(188, 176, 171, 184, 188, 175, 178, 187, 172, 163, 182, 138, 102, 99, 186, 176, 160, 183, 100, 83),
    *(69, 160, 60, 64, 180, 109, 154, 156),
)


@pytest.fixture(scope="module")
def root() -> Path:
    return real_data("annotations", "AVE")


@pytest.fixture(scope="module")
def labels(root: Path) -> torch.Tensor:
    """The labels of every row, (4143, 10)."""
    reader = AVE(AVEDataConfig(), root, AVETask(AVETaskConfig()))
    return torch.stack([_label(reader, row) for row in range(len(reader.events))])


def _label(reader: AVE, row: int) -> torch.Tensor:
    event = reader.events[row]
    clip = Clip(name=reader.names[row], frames=Path("none"), audio=None, seconds=10.0, info={"event": event})
    return reader.target(clip)["labels"]


def test_rows_classes_and_their_counts(root: Path) -> None:
    events = read_events(root / "Annotations.txt")
    assert len(events) == 4143
    assert len({event.video for event in events}) == 4097
    counted = Counter(event.category for event in events)
    assert tuple(counted) == CLASSES == read_classes(root / "categories.txt")
    assert tuple(counted.values()) == COUNTS
    assert sum((event.start, event.end) == (0, 10) for event in events) == 2750
    nowhere = [row for row, event in enumerate(events) if event.start == event.end]
    assert nowhere == [26]
    assert events[26].video == "VWi2ENBuTbw"


def test_labels_agree_with_the_official_ones_in_every_cell(root: Path, labels: torch.Tensor) -> None:
    with h5py.File(root / "labels_closs.h5") as file:
        is_event = np.asarray(file["avadataset"])
    assert is_event.shape == labels.shape == (4143, 10)
    assert ((labels != 28).numpy() == (is_event == 1)).all()
    assert (labels[26] == 28).all()
    with h5py.File(root / "mil_labels.h5") as file:
        of_clip = np.asarray(file["avadataset"]).argmax(1)
    whole = [row for row in range(4143) if row != 26]
    assert (labels.min(1).values.numpy()[whole] == of_clip[whole]).all()


def test_splits_in_both_forms(root: Path, tmp_path: Path) -> None:
    events = read_events(root / "Annotations.txt")
    for split, wanted in SPLITS.items():
        by_number = read_order(root, split, events)
        (tmp_path / f"{split}Set.txt").symlink_to(root / f"{split}Set.txt")
        assert len(by_number) == len(set(by_number)) == wanted
        assert read_order(tmp_path, split, events) == by_number


def test_shares_of_background_and_leaks(root: Path, labels: torch.Tensor) -> None:
    events = read_events(root / "Annotations.txt")
    rows = {split: read_order(root, split, events) for split in SPLITS}
    background = {split: float((labels[rows[split]] == 28).double().mean()) for split in SPLITS}
    assert {split: round(100 * share, 1) for split, share in background.items()} == {
        "train": 16.9,
        "val": 18.2,
        "test": 17.8,
    }
    assert round(100 * background["test"], 2) == 17.79  # so 82.21 without ever saying background
    videos = {split: {events[row].video for row in rows[split]} for split in SPLITS}
    assert len(videos["train"] & videos["test"]) == 8
    assert len(videos["train"] & videos["val"]) == 10
    test = labels[rows["test"]]
    assert test.numel() == 4020
    assert round(100 * float((test != 28).all(1).double().mean())) == 65


def test_the_small_real_set() -> None:
    root = real_data("mini", "AVE")
    reader = AVE(AVEDataConfig(), root, AVETask(AVETaskConfig(classes=read_classes(root / "categories.txt"))))
    assert len(reader.classes) == 9
    silent = {}
    for split, wanted in {"train": 240, "val": 60, "test": 60}.items():
        clips = reader.clips(split)
        assert len({clip.name for clip in clips}) == len(clips) == wanted
        assert all(isinstance(clip.frames, Path) and clip.audio is None for clip in clips)
        labels = torch.stack([reader.target(clip)["labels"] for clip in clips])
        assert 0.36 < float((labels == 9).double().mean()) < 0.46
        silent[split] = int((labels == 9).all(1).sum())
    assert silent == {"train": 1, "val": 0, "test": 0}
    assert any(clip.name[0] in "-_" for clip in reader.clips("train"))
