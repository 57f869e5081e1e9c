"""The demo in LLP's layout, through its reader: its seconds are what is seen and what is heard."""

from __future__ import annotations

import json
from pathlib import Path

from avcore_avvp.annotations import settings_in
from avcore_avvp.config import LLPDataConfig
from avcore_avvp.datasets import LLP
from avcore_demo import KINDS
from avcore_demo.render import render

COUNTS = {"train": 8, "val": 8, "test": 8}


def test_the_seconds_are_what_is_seen_and_what_is_heard(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    render(root, seed=1, counts=COUNTS, layout="llp", size=32)
    assert settings_in(root) == {"task_options.classes": list(KINDS), "task_options.features": []}
    truth = json.loads((root / "objects.json").read_text())["clips"]
    reader = LLP(LLPDataConfig(), root)
    (note,) = reader.notes()
    assert "features of motion" in note
    alone = set()
    for split, count in COUNTS.items():
        clips = reader.clips(split)
        assert len(clips) == count
        for clip in clips:
            entry = truth[clip.name[:11]]
            assert clip.name == f"{clip.name[:11]}_0_10"
            assert entry["split"] == split
            assert clip.audio is not None
            assert clip.audio.is_file()
            assert all(path.is_file() for path in clip.frames)  # type: ignore[union-attr]
            target = reader.target(clip)
            assert {KINDS[c] for c in target["labels"].nonzero().flatten()} == {t["kind"] for t in entry["things"]}
            alone |= {(any(thing["seen"]), any(thing["heard"])) for thing in entry["things"]}
            if split == "train":
                continue
            for stream, name in enumerate(("heard", "seen")):
                found = [{KINDS[c] for c in row.nonzero().flatten()} for row in target["seconds"][:, stream]]
                assert found == [set(kinds) for kinds in entry[name]]
    assert alone == {(True, True), (True, False), (False, True)}
