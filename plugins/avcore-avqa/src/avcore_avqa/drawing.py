"""Lines of text painted on pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from avcore.report.text import fitted

__all__ = ["paint_lines"]

SHARE = 0.11
"""Height of a line, of the shorter side of the picture."""
INK = (255, 255, 255)
DARK = 0.3
"""How bright the picture stays under the text."""


def paint_lines(frame_YX3: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The picture with lines of text over its darkened lower edge; a long line is written smaller, then cut.

    Args:
        frame_YX3: uint8.
        lines: from top to bottom.
    """
    rows, columns, _ = frame_YX3.shape
    height = max(4, round(SHARE * min(rows, columns)))
    top = max(0, rows - height * len(lines))
    painted = frame_YX3.copy()
    painted[top:] = (DARK * painted[top:]).astype(np.uint8)
    image = Image.fromarray(painted)
    for at, line in enumerate(lines):
        text, font = fitted(line, columns - height // 2, round(0.8 * height), round(0.45 * height))
        ImageDraw.Draw(image).text((height // 4, top + (at + 0.5) * height), text, INK, font, "lm")
    return np.asarray(image)
