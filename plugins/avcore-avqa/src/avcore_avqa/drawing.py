"""Questions, answers and what was attended, painted on pictures.

Shape letters: T segments, Y and X image rows and columns, G and H rows and columns of the grid of tokens.
"""

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from avcore.report.text import fitted

__all__ = ["paint_heat", "paint_seconds", "paint_text", "seconds_height"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

LINE = 0.08
"""Height of a line of text, of the shorter side of the picture."""
MOST = 2
"""Lines of a text before it is cut."""
UNITS = re.compile(r" (?![\d%])")
"""Where a line may end: an answer stays with its share."""
UNBOUNDED = 1 << 30
"""More px than any line has."""
BAR = 0.13
"""Height of the bar of seconds, of the shorter side of the picture."""
INK = (255, 255, 255)
DARK = 0.3
"""How bright the picture stays under text and bar."""
HOT = (255, 60, 0)
STRENGTH = 0.65
"""How much of the colour there is where the heat is greatest."""
PALE = 0.6
"""How grey the picture is under the heat."""
SAME = 1e-4
"""Weights that differ by no more than this share of them are equal."""
SOUND, PICTURES = (70, 160, 255), (255, 150, 40)
"""Colours of what is attended to of sound and of pictures."""


def paint_heat(frame_YX3: np.ndarray, heat_GH: np.ndarray) -> np.ndarray:
    """The picture paler, and redder where the heat is greater: clear up to its mean, from there on to its greatest.

    Args:
        frame_YX3: uint8.
        heat_GH: weights on a grid over the whole picture; equal ones leave it as it is.
    """
    rows, columns, _ = frame_YX3.shape
    mean, greatest = float(heat_GH.mean()), float(heat_GH.max())
    if greatest - mean <= SAME * greatest:
        return frame_YX3
    relative = Image.fromarray(((heat_GH - mean) / (greatest - mean)).astype(np.float32))
    heat_YX1 = np.asarray(relative.resize((columns, rows), Image.Resampling.BICUBIC))[..., None].clip(0, 1)
    share_YX1 = STRENGTH * heat_YX1
    # The rest loses colour, so that what is red by itself is not taken for heat.
    pale_YX3 = PALE * frame_YX3.mean(-1, keepdims=True) + (1 - PALE) * frame_YX3
    painted: np.ndarray = (1 - share_YX1) * pale_YX3 + share_YX1 * np.array(HOT, np.float32)
    return painted.round().astype(np.uint8)


def seconds_height(frame_YX3: np.ndarray) -> int:
    """Height in px of the bar of seconds on a picture."""
    height: int = max(6, round(BAR * min(frame_YX3.shape[:2])))
    return height


def paint_seconds(frame_YX3: np.ndarray, weights_T2: np.ndarray, place: int) -> np.ndarray:
    """A bar at the lower edge with the seconds of a clip: how much of its sound (left) and its pictures (right) counts.

    Args:
        frame_YX3: uint8.
        weights_T2: of sound and pictures in each segment; the greatest fills the height.
        place: the present segment, which is framed.
    """
    rows, columns, _ = frame_YX3.shape
    height = seconds_height(frame_YX3)
    painted = frame_YX3.copy()
    painted[rows - height :] = (DARK * painted[rows - height :]).astype(np.uint8)
    edges = np.linspace(0, columns, len(weights_T2) + 1).round().astype(int)
    reach_T2 = (weights_T2 / max(float(weights_T2.max()), 1e-9) * (height - 2)).round().astype(int)
    for segment, reaches in enumerate(reach_T2.tolist()):
        left, right = edges[segment] + 1, edges[segment + 1] - 1
        middle = (left + right) // 2
        for reach, begin, end, colour in ((reaches[0], left, middle, SOUND), (reaches[1], middle, right, PICTURES)):
            painted[rows - reach : rows, begin:end] = colour
    left, right = edges[place], edges[place + 1]
    painted[rows - height :, [left, right - 1]] = INK
    painted[[rows - height, rows - 1], left:right] = INK
    return painted


def paint_text(frame_YX3: np.ndarray, text: str, *, bottom: int | None = None) -> np.ndarray:
    """The picture with a text over a darkened band: at the upper edge, or so that it ends at row ``bottom``.

    A long text is written smaller and in two lines, then cut.
    """
    rows, columns, _ = frame_YX3.shape
    height = max(5, round(LINE * min(rows, columns)))
    lines, font = _wrapped(text, columns - height // 2, round(0.85 * height), round(0.6 * height))
    top = 0 if bottom is None else max(0, bottom - height * len(lines))
    painted = frame_YX3.copy()
    band = painted[top : top + height * len(lines)]
    band[:] = (DARK * band).astype(np.uint8)
    image = Image.fromarray(painted)
    for at, line in enumerate(lines):
        ImageDraw.Draw(image).text((height // 4, top + (at + 0.5) * height), line, INK, font, "lm")
    return np.asarray(image)


def _wrapped(text: str, width: int, largest: int, smallest: int) -> tuple[list[str], Font]:
    """The lines of a text in the largest font in which it has `MOST` at most; the last one is cut where none does."""
    for size in range(max(4, largest), max(3, smallest) - 1, -1):
        written, font = fitted(text, UNBOUNDED, size, size)
        lines = _lines(UNITS.split(written), width, font)
        if len(lines) <= MOST and all(font.getlength(line) <= width for line in lines):
            break
    cut = [*lines[: MOST - 1], " ".join(lines[MOST - 1 :])]
    return [fitted(line, width, size, size)[0] for line in cut if line], font


def _lines(words: Sequence[str], width: int, font: Font) -> list[str]:
    lines = [words[0]]
    for word in words[1:]:
        longer = f"{lines[-1]} {word}"
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
