"""What avcore calls when a run names no data: render the demo once, then find it again."""

from collections.abc import Callable
from pathlib import Path

from avcore_demo import SIZE
from avcore_demo.render import ensure

__all__ = ["COUNTS", "provide"]

COUNTS = {"train": 240, "val": 40, "test": 60}
"""Clips of each split."""

_STYLES = {"avs": "s4", "avs-ms3": "ms3"}


def provide(task: str, cache: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of the demo for ``task`` under ``cache``, rendering it if it is not there.

    Args:
        task: ``avs`` or ``avs-ms3``.
        cache: a folder for files that can be made again.
        progress: called with (clips done, clips in all).
    """
    return ensure(cache, style=_STYLES[task], size=SIZE, counts=COUNTS, progress=progress)
