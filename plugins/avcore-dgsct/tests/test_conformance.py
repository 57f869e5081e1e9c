"""The conformance kit of avcore on this plugin, its heads on a handful of clips of the data sets that they are for."""

from collections.abc import Callable
from pathlib import Path

from llp_files import make_files
from PIL import Image

from avcore.testing import parametrize_with_checks
from avcore_demo.render import ensure

EVENTS = ("Bark&clip0&good&2&5", "Truck&clip1&good&0&10", "Bark&clip2&good&7&9")


def make_ave(root: Path) -> Path:
    (root / "Annotations.txt").write_text("\n".join(EVENTS) + "\n")
    for split in ("train", "val", "test"):
        (root / f"{split}Set.txt").write_text("\n".join(EVENTS) + "\n")
    (root / "raw_audio").mkdir()
    for number in range(len(EVENTS)):
        folder = root / "video_frames" / f"clip{number}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "0001.jpg")
        (root / "raw_audio" / f"clip{number}.wav").touch()
    return root


def render(folder: Path) -> Path:
    return ensure(folder, layout="s4", size=32, counts={"train": 1, "val": 1, "test": 3})


SETS = {
    "dgsct.avs": ["head.size=32", "head.width=8", "head.audio_width=8", "head.output_widths=[8,4]", "data.size=32"],
}


@parametrize_with_checks("avcore-dgsct", data={"ave": make_ave, "avsbench-s4": render, "llp": make_files}, sets=SETS)
def test_conforms(check: Callable[[], None]) -> None:
    check()
