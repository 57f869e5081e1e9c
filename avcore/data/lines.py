"""Text files as people have them. Imports nothing heavy, so that settings are read from files fast."""

from pathlib import Path

from avcore.errors import DataError, why

__all__ = ["read_lines"]


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1, without blanks at their ends.

    A byte-order mark and the line ends of any system do no harm.

    Raises:
        DataError: it cannot be read, or is no text in UTF-8; names it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = why(error) if isinstance(error, OSError) else "it is not UTF-8 text; save it again as UTF-8"
        raise DataError(f"Cannot read '{path}': {reason}.") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
