"""The conformance kit of avcore on this plugin, on a handful of clips in the official layouts."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from avcore.testing import parametrize_with_checks

LISTS = {"train": ("a_1", "b_1", "a_2", "b_2"), "test": ("a_3", "b_3", "a_4")}


def make_kinetics(root: Path) -> Path:
    for split, clips in LISTS.items():
        rows = [f"{clip},10,{'ab'.index(clip[0])}" for clip in clips]
        (root / f"my_{split}.txt").write_text("\n".join(rows) + "\n")
        for clip in clips:
            folder = root / split / clip
            folder.mkdir(parents=True)
            for second in range(10):
                Image.new("RGB", (8, 8)).save(folder / f"{second:05d}.jpg")
            (folder / f"{clip}.wav").touch()
    return root


def make_vggsound(root: Path) -> Path:
    rows = [f'{clip[0]},{clip[2]},"{clip[0]}, barking",{split}' for split, clips in LISTS.items() for clip in clips]
    (root / "vggsound.csv").write_text("\n".join(rows) + "\n")
    (root / "videos").mkdir()
    for clips in LISTS.values():
        for clip in clips:
            (root / "videos" / f"{clip[0]}_{int(clip[2]):06d}.mp4").touch()
    return root


def make_own(root: Path) -> Path:
    for name in ("sawing wood", "Vögel"):
        (root / name).mkdir()
        for number in range(4):
            (root / name / f"clip {number}.mp4").touch()
    return root


FILES = {"kinetics-sounds": make_kinetics, "vggsound": make_vggsound, "own-folders": make_own}


@parametrize_with_checks("avcore-avar", data=FILES)
def test_conforms(check: Callable[[], None]) -> None:
    check()
