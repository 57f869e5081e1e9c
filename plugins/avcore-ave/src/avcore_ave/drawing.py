"""Labels painted on pictures: a bar at the lower edge of each."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from avcore.report.text import fitted

__all__ = ["bar_height", "colour", "label_bar"]

SHARE = 0.13
"""Height of the bar, of the shorter side of the picture."""
GREY = (96, 98, 101)
INK = (255, 255, 255)


def colour(index: int, background: int) -> tuple[int, int, int]:
    """The colour of a class, RGB: grey for background, for events hues that lie far apart for neighbours."""
    if index == background:
        return GREY
    red, green, blue = colorsys.hsv_to_rgb(0.05 + index * 0.381966 % 1.0, 0.72, 0.68)
    return round(255 * red), round(255 * green), round(255 * blue)


def bar_height(frame_YX3: np.ndarray) -> int:
    """Height in px of the bar on a picture."""
    rows, columns, _ = frame_YX3.shape
    height: int = max(3, round(SHARE * min(rows, columns)))
    return height


def label_bar(frame_YX3: np.ndarray, name: str, paint: tuple[int, int, int], filled: float = 1.0) -> np.ndarray:
    """Paint one label over the lower edge of one picture.

    Args:
        frame_YX3: uint8.
        name: of the class; a long one is written smaller, then cut.
        paint: colour of its bar, RGB.
        filled: share of the bar that is painted from the left, the rest is darker: how sure the prediction is.

    Returns:
        (Y, X, 3) uint8.
    """
    rows, columns, _ = frame_YX3.shape
    height = bar_height(frame_YX3)
    painted = frame_YX3.copy()
    painted[-height:] = [round(0.45 * value) for value in paint]
    painted[-height:, : round(columns * filled)] = paint
    image = Image.fromarray(painted)
    text, font = fitted(name, columns - height // 2, round(0.75 * height), round(0.5 * height))
    ImageDraw.Draw(image).text((height // 4, rows - height / 2), text, fill=INK, font=font, anchor="lm")
    return np.asarray(image)
