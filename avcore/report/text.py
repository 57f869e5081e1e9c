"""Fonts for what is written on pictures: one that has the letters, or the text in plain letters."""

import unicodedata
from functools import lru_cache

from PIL import ImageFont

__all__ = ["Font", "fitted", "lettered"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
    "Helvetica.ttc",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "msgothic.ttc",
)
"""Fonts of systems, which Pillow finds by these names; its own has the letters of English alone."""
LACKING = "\U0010fffe"
"""No letter: what a font shows in place of one that it has not."""


@lru_cache(maxsize=64)
def _system_font(name: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, 12)
    except OSError:
        return None


@lru_cache(maxsize=1024)
def lettered(text: str, size: int) -> tuple[str, Font]:
    """The text, and a font of ``size`` px that has its letters.

    Where no font of the system has them, the letters without their accents, and ``?`` for the rest. English is written
    in Pillow's own font, so that it looks the same everywhere.
    """
    if not text.isascii():
        letters = {letter for letter in text if not letter.isascii() and not letter.isspace()}
        for font in filter(None, map(_system_font, FONTS)):
            lacking = bytes(font.getmask(LACKING))
            if all(bytes(font.getmask(letter)) != lacking for letter in letters):
                return text, font.font_variant(size=size)
        apart = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("ẞ", "SS"))
        text = "".join(letter for letter in apart if not unicodedata.combining(letter))
        text = text.encode("ascii", "replace").decode()
    return text, ImageFont.load_default(size=size)


def fitted(text: str, width: int, largest: int, smallest: int) -> tuple[str, Font]:
    """A line of text, and the largest font in which it fits; cut with an ellipsis where none does.

    Args:
        text: one line.
        width: px that there are.
        largest, smallest: sizes of the font, px.
    """
    for size in range(max(3, largest), max(2, smallest) - 1, -1):
        written, font = lettered(text, size)
        if font.getlength(written) <= width:
            return written, font
    while written and font.getlength(f"{written}...") > width:
        written = written[:-1].rstrip(" ,_")
    return f"{written}..." if written else "", font
