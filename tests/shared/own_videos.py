"""Folders of videos as a person has them; one of each class is a real clip, where there are any."""

import os
import shutil
from pathlib import Path

import numpy as np
from media import grey_video

__all__ = ["own_videos"]

REAL = {
    "dog": "vas_dog_video_02754.mp4",
    "horse": "avsbench_s4_0BLiYNtFSjA.mp4",
    "bus": "avsbench_s4_QYbisnpKlQ.mp4",
}
NAMES = ("IMG_0412.MOV", "in the garden.mp4", "März/VID 3.MP4", "VID 4.mp4")
RATE = 8000


def own_videos(folder: Path) -> None:
    """What docs/own-clips.md begins with: ``my-videos``, ``my-events`` and ``park.mov``."""
    rows = ["file,start,end,label"]
    for name in REAL:
        for place, file in enumerate(NAMES):
            _video(folder / "my-videos" / name / file, name, place)
            if name != "bus":
                _video(folder / "my-events" / f"{name} {file}", name, place)
                rows.append(f"{name} {file},{place + 0.5},{place + 2.25},{name}")
    (folder / "my-events" / "events.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    _video(folder / "park.mov", "bus", 0)


def _video(path: Path, name: str, place: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    real = os.environ.get("AVCORE_TEST_DATA")
    if real and place == 0:  # one of each: to read 10 s of a real video takes long
        shutil.copyfile(Path(real) / "clips" / REAL[name], path)
        return
    made = path.with_suffix(".mkv")
    levels = [(60 * [*REAL].index(name) + 9 * place + index) % 250 for index in range(20)]
    sound = np.random.default_rng(place).integers(-9000, 9000, (5 * RATE, 1), np.int16)
    grey_video(made, levels, sound, RATE, fps=4).rename(path)
