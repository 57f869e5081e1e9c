"""What avcore calls when a run names no data: render the demo once, then find it again."""

from collections.abc import Callable
from pathlib import Path

from avcore_demo import SIZE
from avcore_demo.render import ensure

__all__ = ["COUNTS", "LAYOUTS", "provide"]

COUNTS = {
    "s4": {"train": 720, "val": 40, "test": 100},
    "ms3": {"train": 720, "val": 40, "test": 100},
    "ave": {"train": 144, "val": 30, "test": 60, "negatives": 36},
    "kinetics": {"train": 120, "val": 30, "test": 60},
    # 16 of each of the twelve classes, from which fewer may be taken.
    "fewshot": {"train": 192, "val": 48, "test": 120},
    "llp": {"train": 160, "val": 30, "test": 60},
    # Less than two questions each.
    "avqa": {"train": 600, "val": 84, "test": 180},
}
"""Clips of each split, by layout."""

LAYOUTS = {
    "avs": "s4",
    "avs-ms3": "ms3",
    "ave": "ave",
    "ave-weak": "ave",
    "avar": "kinetics",
    "fewshot": "fewshot",
    "avvp": "llp",
    "avqa": "avqa",
}
"""The layout of each task."""


def provide(task: str, cache: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of the demo for ``task`` under ``cache``, rendering it if it is not there.

    Args:
        task: a key of `LAYOUTS`.
        cache: a folder for files that can be made again.
        progress: called with (clips done, clips in all).
    """
    layout = LAYOUTS[task]
    return ensure(cache, layout=layout, size=SIZE, counts=COUNTS[layout], progress=progress)
