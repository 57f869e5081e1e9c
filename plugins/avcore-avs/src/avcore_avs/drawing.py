"""Masks painted over pictures, with numpy and pillow alone."""

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["outline", "overlay"]

Mask = npt.NDArray[np.bool_]

TINT = (255, 92, 0)
EDGE = (255, 240, 170)


def overlay(
    frame_YX3: np.ndarray,
    mask_YX: np.ndarray,
    *,
    tint: tuple[int, int, int] = TINT,
    edge: tuple[int, int, int] = EDGE,
    strength: float = 0.4,
    dim: float = 0.75,
) -> np.ndarray:
    """Paint one mask over one frame: the inside tinted, a bright outline, the rest darker and greyer.

    Args:
        frame_YX3: uint8.
        mask_YX: values in 0..1 of any size; brought to the frame's size, inside is > 0.5.
        tint: colour inside, RGB.
        edge: colour of the outline, RGB.
        strength: share of the tint inside.
        dim: brightness left outside.

    Returns:
        (Y, X, 3) uint8.
    """
    rows, columns, _ = frame_YX3.shape
    resized = Image.fromarray(mask_YX.astype(np.float32)).resize((columns, rows), Image.Resampling.BILINEAR)
    inside = np.asarray(resized) > 0.5
    frame = frame_YX3.astype(np.float32)
    grey = frame.mean(-1, keepdims=True)
    painted: npt.NDArray[np.float32] = dim * (0.7 * frame + 0.3 * grey)
    painted[inside] = (1 - strength) * frame[inside] + strength * np.array(tint, dtype=np.float32)
    painted[outline(inside, thickness=max(1, round(min(rows, columns) / 150)))] = edge
    return painted.round().clip(0, 255).astype(np.uint8)


def outline(inside_YX: Mask, *, thickness: int) -> Mask:
    """The pixels of a region (Y, X) bool within ``thickness`` px of its rim; the picture's border is no rim."""
    core: Mask = inside_YX
    for _ in range(thickness):
        padded: Mask = np.pad(core, 1, mode="edge")
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rim: Mask = inside_YX & ~core
    return rim
