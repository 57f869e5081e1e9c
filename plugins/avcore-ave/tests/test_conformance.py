"""The conformance kit of avcore on this plugin, on a handful of clips in AVE's layout and a folder of own ones."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from avcore.testing import parametrize_with_checks

EVENTS = ("Bark&clip0&good&2&5", "Truck&clip1&good&0&10", "Bark&clip2&good&7&9", "Clock&clip3&good&0&0")
SPLITS = {"train": (0, 1), "val": (2,), "test": (1, 2, 3)}


def make_files(root: Path) -> Path:
    (root / "Annotations.txt").write_text("\n".join(EVENTS) + "\n")
    for split, rows in SPLITS.items():
        (root / f"{split}Set.txt").write_text("\n".join(EVENTS[row] for row in rows) + "\n")
    (root / "raw_audio").mkdir()
    for number in range(len(EVENTS)):
        folder = root / "video_frames" / f"clip{number}"
        folder.mkdir(parents=True)
        for second in range(1, 11):
            Image.new("RGB", (8, 8)).save(folder / f"{second:04d}.jpg")
        (root / "raw_audio" / f"clip{number}.wav").touch()
    return root


def make_own(root: Path) -> Path:
    rows = [f"clip {number}.mp4,{number / 2},5.5,{'Bark' if number % 2 else 'Truck'}" for number in range(8)]
    (root / "events.csv").write_text("\n".join(["file,start,end,label", *rows]) + "\n")
    for number in range(8):
        (root / f"clip {number}.mp4").touch()
    return root


@parametrize_with_checks("avcore-ave", data={"ave": make_files, "ave-weak": make_files, "own-events": make_own})
def test_conforms(check: Callable[[], None]) -> None:
    check()
