"""The best classes painted on pictures: a bar for each."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from avcore.report.text import fitted

__all__ = ["best_bars"]

SHARE = 0.09
"""Height of a bar, of the shorter side of the picture."""
BAR, REST = (38, 110, 104), (34, 40, 46)
INK = (255, 255, 255)
LEGIBLE = 7
"""Height of a bar in px from which on there is text in it."""
SEEN = 0.35
"""How much of the picture is seen behind what is not filled of the bars."""


def best_bars(frame_YX3: np.ndarray, best: Sequence[tuple[str, float]]) -> np.ndarray:
    """Paint a bar for each class over the lower edge of one picture, the best one on top.

    Args:
        frame_YX3: uint8.
        best: names, and how sure each is (0 to 1), which is how far its bar is filled. On a picture that is too low
            for all of them the first ones are shown.

    Returns:
        (Y, X, 3) uint8.
    """
    rows, columns, _ = frame_YX3.shape
    height = max(3, round(SHARE * min(rows, columns)))
    shown = best[: max(1, rows // (2 * height))]
    painted = frame_YX3.copy()
    top = rows - height * len(shown)
    for place, (_, sure) in enumerate(shown):
        line = slice(top + place * height, top + (place + 1) * height)
        painted[line] = SEEN * frame_YX3[line] + (1 - SEEN) * np.array(REST)
        painted[line, : round(columns * sure)] = BAR
    if height < LEGIBLE:
        return painted
    image = Image.fromarray(painted)
    draw = ImageDraw.Draw(image)
    for place, (name, sure) in enumerate(shown):
        text = name.replace("_", " ") if sure == 1 else f"{name.replace('_', ' ')} {100 * sure:.0f} %"
        written, font = fitted(text, columns - height // 2, round(0.75 * height), round(0.5 * height))
        draw.text((height // 4, top + (place + 0.5) * height), written, fill=INK, font=font, anchor="lm")
    return np.asarray(image)
