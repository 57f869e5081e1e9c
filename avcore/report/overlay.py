"""Picture strips: the segments of a clip side by side, rows of them with labels, waveforms. uint8 RGB throughout.

Shape letters: T segments, Y and X image rows and columns, S samples.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from avcore.errors import AVCoreError, why
from avcore.report.text import lettered

__all__ = [
    "BACKGROUND",
    "Pixels",
    "column_width",
    "fitting",
    "resize",
    "save_bytes",
    "save_png",
    "side_by_side",
    "stack",
    "strip",
    "waveform",
]

Pixels = np.ndarray
"""(..., Y, X, 3) uint8, RGB."""

BACKGROUND = (246, 246, 244)
INK = (45, 48, 52)
SOUND = (58, 110, 165)
BASELINE = (205, 207, 208)
GAP = 6
MARGIN = 14
TEXT = 13
LEADING = 18
NAME_BYTES = 200  # of the 255 that a name may have: endings fit behind it, and the names of unfinished files


def _width(text: str) -> int:
    """Width of a line of text in px, rounded up."""
    written, font = lettered(text, TEXT)
    return int(np.ceil(font.getlength(written)))


def _shorten(text: str, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than ``width`` px."""
    if _width(text) <= width:
        return text
    while text and _width(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _canvas(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), BACKGROUND, dtype=np.uint8)


def _write(picture_YX3: Pixels, lines: Sequence[tuple[int, int, str]]) -> Pixels:
    """Write each (x, y, text), y the middle of the line, in px."""
    image = Image.fromarray(picture_YX3)
    draw = ImageDraw.Draw(image)
    for x, y, text in lines:
        written, font = lettered(text, TEXT)
        draw.text((x, y), written, fill=INK, font=font, anchor="lm")
    return np.asarray(image)


def resize(picture_YX3: Pixels, height: int, width: int) -> Pixels:
    """The picture at another size in px; small pictures are enlarged smoothly."""
    if picture_YX3.shape[:2] == (height, width):
        return picture_YX3
    return np.asarray(Image.fromarray(picture_YX3).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0))


def column_width(frame_shape: tuple[int, ...], height: int) -> int:
    """Width in px of a frame of shape (Y, X, 3) that is shown ``height`` px high."""
    return max(1, round(frame_shape[1] * height / frame_shape[0]))


def strip(frames_TYX3: Pixels, titles: Sequence[str | None] | None = None, *, height: int = 144) -> Pixels:
    """The frames of a clip from left to right, with small gaps and a caption above each.

    Args:
        frames_TYX3: (T, Y, X, 3) uint8, T at least 1.
        titles: T captions; None for none. One that is wider than its frame goes on over frames behind it that have an
            empty one, and is shortened where the next begins.
        height: of every frame as shown, px; the aspect is kept.

    Returns:
        (Y', X', 3) uint8.

    Raises:
        ValueError: the frames are not (T, Y, X, 3) uint8, or the number of titles is not T.
    """
    if frames_TYX3.ndim != 4 or frames_TYX3.shape[-1] != 3 or frames_TYX3.dtype != np.uint8 or not len(frames_TYX3):
        raise ValueError(f"A strip takes (T, Y, X, 3) uint8, got {frames_TYX3.shape} {frames_TYX3.dtype}.")
    if titles is not None and len(titles) != len(frames_TYX3):
        raise ValueError(f"{len(titles)} titles for {len(frames_TYX3)} frames.")
    width = column_width(frames_TYX3.shape[1:], height)
    top = LEADING if titles is not None else 0
    step = width + GAP
    picture = _canvas(top + height, step * len(frames_TYX3) - GAP)
    for index, frame_YX3 in enumerate(frames_TYX3):
        picture[top:, index * step : index * step + width] = resize(frame_YX3, height, width)
    if titles is None:
        return picture
    told = [(index, title) for index, title in enumerate(titles) if title is not None]
    ends = [*[index for index, _ in told[1:]], len(titles)]
    texts = [(i * step, _shorten(title, (end - i) * step - GAP)) for (i, title), end in zip(told, ends, strict=True)]
    return _write(picture, [(x, LEADING // 2 - 1, text) for x, text in texts])


def waveform(segments_TS: np.ndarray, width: int, *, height: int = 40, peak: float | None = None) -> Pixels:
    """The sound of each segment drawn under its frame: columns of ``width`` px with the gaps of `strip`.

    Args:
        segments_TS: (T, S) samples of each segment, any number format.
        width: of a column, px.
        height: px.
        peak: the sample value that fills the height; None takes the loudest sample given.

    Returns:
        (height, X', 3) uint8, as wide as a strip of T frames of that width.
    """
    sound_TS = np.asarray(segments_TS, dtype=np.float64)
    count, samples = sound_TS.shape
    scale = float(np.abs(sound_TS).max(initial=0.0)) if peak is None else peak
    step = width + GAP
    picture = _canvas(height, step * count - GAP)
    middle = height // 2
    edges = np.linspace(0, samples, width + 1).astype(int)
    for index in range(count):
        left = index * step
        picture[middle, left : left + width] = BASELINE
        if scale <= 0.0 or samples == 0:
            continue
        for column in range(width):
            piece = sound_TS[index, edges[column] : max(edges[column + 1], edges[column] + 1)]
            reach = min(1.0, float(np.abs(piece).max()) / scale) * (middle - 1)
            picture[round(middle - reach) : round(middle + reach) + 1, left + column] = SOUND
    return picture


def stack(pictures: Sequence[Pixels], *, gap: int = GAP) -> Pixels:
    """Pictures one below the other on the neutral background, aligned to the left."""
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] for picture in pictures) + gap * (len(pictures) - 1)
    canvas = _canvas(height, width)
    top = 0
    for picture in pictures:
        canvas[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return canvas


def side_by_side(rows: Sequence[tuple[str, Pixels]], title: str | None = None) -> Pixels:
    """Strips one below the other, each with its label at the left: input, truth, prediction.

    Args:
        rows: label and strip of each row, from above; labels may have several lines.
        title: a line above everything.

    Returns:
        (Y', X', 3) uint8 with a margin all around.
    """
    labels = [label.split("\n") for label, _ in rows]
    left = MARGIN + max((_width(line) for lines in labels for line in lines if line), default=-MARGIN) + MARGIN
    top = MARGIN + (LEADING + GAP if title is not None else 0)
    body = stack([picture for _, picture in rows])
    # The title may be wider than the strips below it.
    width = max(left + body.shape[1] + MARGIN, MARGIN + (_width(title) if title is not None else 0) + MARGIN)
    canvas = _canvas(top + body.shape[0] + MARGIN, width)
    canvas[top : top + body.shape[0], left : left + body.shape[1]] = body
    texts = [] if title is None else [(MARGIN, MARGIN + LEADING // 2, title)]
    for lines, (_, picture) in zip(labels, rows, strict=True):
        first = top + picture.shape[0] // 2 - LEADING * (len(lines) - 1) // 2
        texts += [(MARGIN, first + LEADING * number, line) for number, line in enumerate(lines)]
        top += picture.shape[0] + GAP
    return _write(canvas, texts)


def fitting(name: str) -> str:
    """The name of a file, cut where it leaves no room for an ending.

    It ends with a digest of the whole name then, so that two do not become one.
    """
    whole = os.fsencode(name)
    if len(whole) <= NAME_BYTES:
        return name
    return f"{whole[: NAME_BYTES - 9].decode(errors='ignore')}~{hashlib.sha256(whole).hexdigest()[:8]}"


def save_png(picture_YX3: Pixels, path: Path) -> Path:
    """Write a picture as PNG; see `save_bytes`."""
    content = io.BytesIO()
    Image.fromarray(picture_YX3).save(content, format="PNG")
    return save_bytes(content.getvalue(), path)


def save_bytes(content: bytes, path: Path) -> Path:
    """Write a file, whole or not at all, making its folder; returns the path.

    Raises:
        AVCoreError: nothing can be written there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise AVCoreError(f"Cannot write {path}: {why(error)}.") from error
    finally:
        with suppress(OSError):
            aside.unlink()
    return path
