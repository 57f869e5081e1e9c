"""The demo in the layout of Kinetics-Sounds, through its reader: the class is the only kind that is seen and heard."""

from __future__ import annotations

import json
from pathlib import Path

from avcore_avar.config import KineticsSoundsConfig
from avcore_avar.kinetics import KineticsSounds
from avcore_avar.kinetics_lists import settings_in
from avcore_demo import KINDS
from avcore_demo.render import render


def test_the_class_is_what_is_seen_and_heard(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    render(root, seed=1, counts={"train": 12, "val": 2, "test": 3}, layout="kinetics", size=32)
    assert settings_in(root) == {"task_options.classes": list(KINDS)}
    truth = json.loads((root / "objects.json").read_text())["clips"]
    reader = KineticsSounds(KineticsSoundsConfig(), root)
    found = {split: reader.clips(split) for split in ("train", "val", "test")}
    assert {split: len(clips) for split, clips in found.items()} == {"train": 12, "val": 2, "test": 3}
    for split, clips in found.items():
        for clip in clips:
            entry = truth[clip.name]
            assert entry["split"] == split
            assert KINDS[int(reader.target(clip)["label"])] == clip.group == entry["category"]
            assert clip.audio is not None
            assert clip.audio.is_file()
            assert all(path.is_file() for path in clip.frames)  # type: ignore[union-attr]
            assert len(clip.frames) == 10  # type: ignore[arg-type]
            for seen, heard in zip(entry["seen"], entry["heard"], strict=True):
                assert set(seen) & set(heard) == {clip.group}
                assert len(seen) > 1
                assert len(heard) > 1
