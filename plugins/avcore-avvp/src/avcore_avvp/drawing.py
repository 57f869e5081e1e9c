"""Time lines painted on pictures: a row for each class and modality at the lower edge."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from avcore.report.text import fitted

__all__ = ["Row", "colour", "paint_line", "paint_moment", "row_height"]

SHARE = 0.085
"""Height of a row, of the shorter side of the picture."""
MOST = 0.6
"""The share of the picture that rows may cover; those that do not fit are counted in the last one."""
INK = (255, 255, 255)
QUIET = 0.3
"""How bright a row is where its class does not occur."""


class Row(NamedTuple):
    """A class in one modality over time: what is written on it, the class's number, and where it occurs."""

    name: str
    number: int
    here: tuple[bool, ...]


def colour(index: int) -> tuple[int, int, int]:
    """The colour of a class, RGB; hues of neighbours lie far apart."""
    red, green, blue = colorsys.hsv_to_rgb(0.05 + index * 0.381966 % 1.0, 0.72, 0.68)
    return round(255 * red), round(255 * green), round(255 * blue)


def row_height(frame_YX3: np.ndarray) -> int:
    """Height in px of a row on a picture."""
    height: int = max(4, round(SHARE * min(frame_YX3.shape[:2])))
    return height


def paint_moment(frame_YX3: np.ndarray, rows: Sequence[Row], place: int) -> np.ndarray:
    """The rows as they are in one segment: full where the class occurs in it, dark where it does not."""
    return _paint(frame_YX3, [Row(row.name, row.number, (row.here[place],)) for row in rows], None)


def paint_line(frame_YX3: np.ndarray, rows: Sequence[Row], place: int) -> np.ndarray:
    """The rows over the whole clip from left to right, with white edges around the segment ``place``."""
    return _paint(frame_YX3, rows, place)


def _paint(frame_YX3: np.ndarray, rows: Sequence[Row], place: int | None) -> np.ndarray:
    height, columns = row_height(frame_YX3), frame_YX3.shape[1]
    fit = max(1, int(MOST * frame_YX3.shape[0] / height))
    left_out = len(rows) - fit + 1 if len(rows) > fit else 0
    shown = rows[: len(rows) - left_out]
    painted = frame_YX3.copy()
    top = frame_YX3.shape[0] - height * (len(shown) + (left_out > 0))
    for at, row in enumerate(shown):
        band = painted[top + at * height : top + (at + 1) * height]
        edges = np.linspace(0, columns, len(row.here) + 1).round().astype(int)
        for here, begin, end in zip(row.here, edges, edges[1:], strict=False):
            band[:, begin:end] = colour(row.number) if here else [round(QUIET * value) for value in colour(row.number)]
        if place is not None:
            for edge in (edges[place], edges[place + 1] - 1):
                band[:, edge] = INK
        band[-1] = band[-1] // 2
    if left_out:
        painted[-height:] = 40
    texts = [row.name for row in shown] + ([f"and {left_out} more"] if left_out else [])
    image = Image.fromarray(painted)
    for at, name in enumerate(texts):
        text, font = fitted(name, columns - height // 2, round(0.85 * height), round(0.55 * height))
        ImageDraw.Draw(image).text((height // 4, top + (at + 0.5) * height), text, INK, font, "lm")
    return np.asarray(image)
