"""A contact sheet of demo clips: a picture to look at, and below it what sounds, cut out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .world import clip_seed, make_clip


def contact_sheet(path: Path, *, clips: int = 8, seed: int = 0, style: str = "s4", size: int = 192) -> None:
    """Writes a png of `clips` clips side by side: each picture (`size` px), and below it only what sounds lit."""
    columns = []
    for number in range(clips):
        clip = make_clip(clip_seed("sheet", seed, style, number), style)
        t = number % 5 + 15 / 16
        frame_YX3, mask_YX = clip.frame(t, size), clip.sounding_mask(t, size)
        columns.append(np.concatenate([_frame(frame_YX3), _frame(_spotlight(frame_YX3, mask_YX))]))
    Image.fromarray(np.concatenate(columns, axis=1)).save(path, optimize=True)


def _spotlight(frame_YX3: NDArray[np.uint8], mask_YX: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Dims and greys all but the mask."""
    grey_YX1 = frame_YX3.mean(-1, keepdims=True) * 0.32 + 24
    return np.where(mask_YX[..., None], frame_YX3, grey_YX1).astype(np.uint8)


def _frame(picture_YX3: NDArray[np.uint8], border: int = 3) -> NDArray[np.uint8]:
    """Adds a white border, px."""
    return np.pad(picture_YX3, ((border, border), (border, border), (0, 0)), constant_values=255)
