"""Where the files of the demo's clips go: one module for each official layout.

A layout is written by two functions: `Layout.clip` for each clip, in any order and by several threads at once, and
`Layout.lists` for what names them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .. import KNOWN, UNKNOWN
from ..makes import dress
from ..world import Clip
from . import ave, avqa, avsbench, kinetics, llp

__all__ = ["LAYOUTS", "Layout", "Named"]

Named = tuple[str, str, Clip]
"""A clip with its name and its split."""


@dataclass(frozen=True)
class Layout:
    """An official layout of files.

    Attributes:
        clip: Writes the files of one clip: (root, name, split, clip, side of the pictures in px).
        lists: Writes the lists of all clips: (root, clips).
        style: The style of its clips.
        balanced: Whether each kind is in turn what is seen and heard.
        further: Splits beside train, val and test, and their styles.
        dress: What becomes of the n-th clip of a split, if not itself.
        code: Further modules of the package that its files follow from.
    """

    clip: Callable[[Path, str, str, Clip, int], None]
    lists: Callable[[Path, list[Named]], None]
    style: str
    balanced: bool = False
    further: dict[str, str] = field(default_factory=dict)
    dress: Callable[[Clip, int], Clip] | None = None
    code: tuple[str, ...] = ()


LAYOUTS: dict[str, Layout] = {
    "s4": Layout(avsbench.write_s4, partial(avsbench.write_table, style="s4"), "s4"),
    "ms3": Layout(avsbench.write_ms3, partial(avsbench.write_table, style="ms3"), "ms3"),
    "ave": Layout(ave.write_clip, ave.write_lists, "event", balanced=True, further={ave.NEGATIVES: "no_event"}),
    "kinetics": Layout(kinetics.write_clip, kinetics.write_lists, "recognition", balanced=True),
    "fewshot": Layout(
        kinetics.write_clip,
        partial(kinetics.write_lists, classes=KNOWN + UNKNOWN),
        "recognition",
        balanced=True,
        dress=dress,
        code=("makes", "__init__"),
    ),
    "llp": Layout(llp.write_clip, llp.write_lists, "parsing"),
    "avqa": Layout(avqa.write_clip, avqa.write_lists, "asked", balanced=True, code=("questions",)),
}
"""The layouts by name."""
