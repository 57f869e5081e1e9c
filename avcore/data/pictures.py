"""Picture files: colours, masks, and the order of numbered ones.

Every picture is turned upright where its EXIF data ask for it, and 16 bits are scaled to 8. Shape letters: Y and X
image rows and columns, C channels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from avcore.data.container import check_size, existing
from avcore.errors import DataError

__all__ = ["Foreground", "by_number", "picture_size", "read_mask", "read_picture", "resized"]

Foreground = Literal["white", "nonzero"]
"""What of a mask file is foreground: pixels that are white, where all others are black; or all that are not 0."""

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WHITE = 255
DEEP_WHITE = 65535  # of 16 bits; Pillow reads such files as I;16, and some as I
SCALED = ("PNG", "PPM")  # formats of which Pillow's mode I has that white; elsewhere it is numbers of 32 bits
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")  # formats that may keep values near 0 and 255, not these
SHOWN = 6  # values of a refused mask that are named


def by_number(paths: Iterable[Path]) -> list[Path]:
    """Files in the order of the numbers in their names: ``2.jpg`` before ``10.jpg``, ``frame_9`` before ``frame_010``.

    A folder lists its files in any order, and sorted as texts ``10`` comes before ``2``.
    """
    return sorted(paths, key=lambda path: [(_pieces(part), part) for part in path.parts])


def _pieces(name: str) -> list[str | int]:
    """Texts at even places, numbers between them, so that the lists of any two names compare."""
    return [int(piece) if place % 2 else piece for place, piece in enumerate(re.split(r"([0-9]+)", name))]


def resized(picture: Image.Image, size: int) -> np.ndarray:
    """An RGB picture as (3, size, size) uint8: bicubic, antialiased, no crop."""
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def picture_size(path: Path | str) -> tuple[int, int]:
    """Width and height of a picture file once it is upright, px; raises as `read_picture` does."""
    with _opened(path) as picture:
        return _upright(picture).size


def read_picture(path: Path | str, size: int) -> np.ndarray:
    """Read a picture file of any colour mode and resize it to ``size`` px square (bicubic, antialiased, no crop).

    Returns:
        (3, Y, X) uint8, RGB, upright.

    Raises:
        AVCoreError: the file is missing, no picture, damaged, or more than 8192 px wide or high, or its numbers have no
            known white.
    """
    with _opened(path) as picture:
        return resized(_eight_bits(_upright(picture), picture.format in SCALED).convert("RGB"), size)


def read_mask(path: str | os.PathLike[str], size: int, *, foreground: Foreground = "white") -> Tensor:
    """Read a mask file: which pixels are foreground, by the nearest pixel at ``size`` px square.

    ``white`` takes files that say it themselves: of one bit; grey with 0 and 255, or 0 and 65535; colours black and
    white; a palette with the indices 0 and 255, of which 255 is foreground as in AVSBench, or with the
    colours black and white. Every other file is refused: a label image with 0 and 1, a dark colour or blurred edges has
    no foreground that could be told from its values. ``nonzero`` takes whatever is not 0: grey values, palette indices,
    colours that are not black. Nothing is dithered, and no threshold is guessed: edges that compression has blurred
    (JPEG) are refused in either way.

    Args:
        path: of the file.
        size: Y = X, px.
        foreground: usually a setting of the data set, ``data.foreground``, which the refusal names.

    Returns:
        (Y, X) fp32, 0 and 1.

    Raises:
        DataError: as `read_picture`; the file holds other values than ``foreground`` takes, or has 16 bits for each of
            its colours, or its palette or its transparency contradict its values. Names the file, what was found and
            what to do.
    """
    with _opened(path) as picture:
        pieces = getattr(picture, "tile", ())
        if picture.mode in ("RGB", "RGBA", "LA") and any("16" in str(piece.args) for piece in pieces):
            # Pillow keeps the upper 8 bits of these: the labels 1 to 255 become 0.
            raise DataError(f"The mask '{path}' has 16 bits for each colour: save it as grey or with 8 bits.")
        mask_YX = _foreground(_upright(picture), f"The mask '{path}'", foreground, picture.format in LOSSY)
        mask = Image.fromarray(mask_YX.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(mask, np.float32))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    path = existing(Path(path))
    try:
        with Image.open(path) as picture:
            check_size(path, *picture.size)
            yield picture
    # What Pillow raises for damaged files, beside OSError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}.") from error


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()  # which turns TIFF files by itself, and then says that they are upright
    with suppress(Exception):  # damaged EXIF data say nothing; the picture itself may be whole
        return picture.transpose(UPRIGHT[picture.getexif()[ORIENTATION]])
    return picture


def _eight_bits(picture: Image.Image, scaled: bool) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("it holds floating-point numbers, whose white is not known; save it with 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return picture
    if picture.mode == "I" and not scaled:
        raise ValueError("it holds numbers of 32 bits, whose white is not known; save it with 8 or 16 bits")
    values_YX = np.asarray(picture)
    if values_YX.min() < 0 or values_YX.max() > DEEP_WHITE:
        raise ValueError(f"its values are not within 0 and {DEEP_WHITE}; save it with 8 or 16 bits")
    return Image.fromarray(((values_YX.astype(np.int64) * WHITE + DEEP_WHITE // 2) // DEEP_WHITE).astype(np.uint8))


def _foreground(picture: Image.Image, named: str, foreground: Foreground, lossy: bool) -> np.ndarray:
    """(Y, X) bool."""
    if picture.mode == "1":
        return np.asarray(picture, bool)
    if picture.mode == "P":
        return _of_palette(picture, named, foreground)
    alone = picture.mode in ("L", "I", "F") or picture.mode.startswith("I;16")
    if not alone and picture.mode != "LA":
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    values_YXC = np.atleast_3d(np.asarray(picture))
    clear = None
    if picture.mode in ("LA", "RGBA"):
        values_YXC, clear = values_YXC[..., :-1], values_YXC[..., -1]
    lit_YX: np.ndarray = (values_YXC != 0).any(-1)
    if lossy and len(np.unique(values_YXC)) > 2:
        raise DataError(
            f"{named} has blurred edges: compression has left values near 0 and near white. Make it again from its "
            "source, as PNG."
        )
    if foreground == "white":
        white = DEEP_WHITE if picture.mode.startswith("I") and values_YXC.max() > WHITE else WHITE
        if not (lit_YX == (values_YXC == white).all(-1)).all():
            raise DataError(_other_values(named, "values" if alone else "colours", values_YXC))
    if clear is not None and clear.min() < clear.max() and not ((clear > 0) == lit_YX).all():
        raise DataError(f"{named} has transparent places that are not its black ones: save it without transparency.")
    return lit_YX


def _of_palette(picture: Image.Image, named: str, foreground: Foreground) -> np.ndarray:
    """(Y, X) bool: index 0 is background, whatever its colour, unless the colours say the opposite."""
    index_YX = np.asarray(picture)
    mask_YX: np.ndarray = index_YX != 0
    palette = np.zeros((256, 3), np.uint8)
    given = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(given)] = given
    if foreground == "white" and not np.isin(index_YX, (0, WHITE)).all():
        white_YX, black_YX = ((palette[index_YX] == value).all(-1) for value in (WHITE, 0))
        if not np.where(mask_YX, white_YX, black_YX).all():
            raise DataError(_other_values(named, "palette indices", index_YX[..., None]))
    others = palette[np.unique(index_YX[mask_YX])] if mask_YX.any() else palette[1 : len(given)]
    if palette[0].any() and not others.any():
        raise DataError(
            f"{named} has a palette that contradicts its indices: index 0, the background, has the colour "
            f"{tuple(palette[0].tolist())}, and what is not 0 is black. Save it as grey with 0 and 255."
        )
    return mask_YX


def _other_values(named: str, what: str, values_YXC: np.ndarray) -> str:
    found = np.unique(values_YXC.reshape(-1, values_YXC.shape[-1]), axis=0).tolist()
    texts = [str(one[0]) if len(one) == 1 else str(tuple(one)) for one in found]
    shown = ", ".join(texts[:SHOWN]) + (f", ... ({len(texts)} in all)" if len(texts) > SHOWN else "")
    return (
        f"{named} holds the {what} {shown}: its foreground is not known, as it is with 0 and 255, black and white, or "
        "one bit. Save it so, or take all that is not 0 with --set data.foreground=nonzero."
    )
