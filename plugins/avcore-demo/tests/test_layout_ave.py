"""The demo in AVE's layout, through the official reader: its labels are what is seen and heard at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avcore_ave.annotations import CLASSES, read_events, settings_in
from avcore_ave.config import AVEDataConfig, AVEWeakDataConfig
from avcore_ave.datasets import AVE, AVEWeak, read_order
from avcore_demo import KINDS
from avcore_demo.render import render

COUNTS = {"train": 7, "val": 2, "test": 2, "negatives": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ave") / "demo"
    render(folder, seed=1, counts=COUNTS, layout="ave", size=32)
    return folder


@pytest.fixture(scope="module")
def truth(root: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((root / "objects.json").read_text())["clips"]
    return described


def test_the_classes_are_the_kinds(root: Path) -> None:
    assert settings_in(root) == {"task_options.classes": list(KINDS)}
    assert (root / "categories.txt").read_text().splitlines() == list(KINDS)
    assert not set(KINDS) & set(CLASSES)


def test_labels_are_what_is_seen_and_heard_at_once(root: Path, truth: dict[str, Any]) -> None:
    reader = AVE(AVEDataConfig(), root)
    for split in ("train", "val", "test"):
        clips = reader.clips(split)
        assert [clip.name for clip in clips] == [name for name, entry in truth.items() if entry["split"] == split]
        for clip in clips:
            entry = truth[clip.name]
            assert clip.frames.is_file()  # type: ignore[union-attr]
            for label, seen, heard in zip(
                reader.target(clip)["labels"].tolist(), entry["seen"], entry["heard"], strict=True
            ):
                assert ([*KINDS, None][label],) == (tuple(set(seen) & set(heard)) or (None,))


def test_both_lists_of_a_split_say_the_same(root: Path) -> None:
    events = read_events(root / "Annotations.txt")
    for split in ("train", "val", "test"):
        numbers = read_order(root, split, events)
        assert [events[number] for number in numbers] == read_events(root / f"{split}Set.txt")
        assert len(numbers) == COUNTS[split]


def test_negatives_have_no_event(root: Path, truth: dict[str, Any]) -> None:
    without = AVEWeak(AVEWeakDataConfig(), root).clips("train")
    clips = AVEWeak(AVEWeakDataConfig(negatives="negatives"), root).clips("train")
    assert len(clips) == len(without) + COUNTS["negatives"]
    for clip in clips[len(without) :]:
        assert clip.frames.is_file()  # type: ignore[union-attr]
        entry = truth[clip.name]
        assert not any(set(seen) & set(heard) for seen, heard in zip(entry["seen"], entry["heard"], strict=True))
