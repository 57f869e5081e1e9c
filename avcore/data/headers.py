"""What the headers of sound files say of their length, before FFmpeg reads what they count."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal

from avcore.errors import DataError

__all__ = ["check_riff", "states_length"]

RIFF_SLACK = 1024  # bytes; some writers count paddings or late chunks wrongly
FARTHEST = 1 << 40  # bytes that a piece may have; a damaged head counts anything
UNKNOWN_LENGTH = 0x7FFF0000  # programs that write to a pipe put something from here on, or 0, into a header


def check_riff(path: Path) -> None:
    """Refuse a wav or avi file of another length than its header says; FFmpeg reads what the header counts.

    Raises:
        AVCoreError: it is cut short, or goes on after the sound that is counted.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        stated = int.from_bytes(head[4:8], "little") + 8
        if head[:4] == b"RIFF" and size + RIFF_SLACK < stated < UNKNOWN_LENGTH:
            raise DataError(
                f"{path} is cut short: it should have {stated} bytes and has {size}. Copy or download it again."
            )
        if head[:4] == b"RIFF" and head[8:] == b"WAVE" and states_length(path):
            _check_wav_data(path, file, min(size, stated))


def _check_wav_data(path: Path, file: BinaryIO, end: int) -> None:
    """Refuse sound that goes on after the bytes that its header counts: no further piece begins there."""
    while len(head := file.read(8)) == 8:
        name, stated = head[:4], int.from_bytes(head[4:], "little")
        after = file.tell() + stated
        if after + RIFF_SLACK >= end:
            return
        file.seek(after)
        if name == b"data":
            # A piece of odd length should be followed by a byte that fills it up, but not all writers add it.
            following = file.read(5)
            named = _names_piece(following[:4]) or (stated % 2 and _names_piece(following[1:]))
            # Of two pieces of sound FFmpeg reads the second one alone.
            if not named or b"data" in following:
                raise DataError(
                    f"{path} is damaged: its header counts {stated} bytes of sound, and more follows. Copy or download "
                    "it again."
                )
            return
        file.seek(after + stated % 2)


def _names_piece(four: bytes) -> bool:
    return four.isascii() and four.decode().isprintable()


def states_length(path: Path) -> bool:
    """Whether a sound file counts its bytes; False for a wav, rf64 or caf file that was written to a pipe.

    Such a writer does not know how much will follow, and cannot come back to fill it in.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"caff":
            file.seek(8)
            return _stated(file, b"data", 8, "big") != (1 << 64) - 1
        if head[8:] != b"WAVE" or head[:4] not in (b"RIFF", b"RF64"):
            return True
        if head[:4] == b"RF64":  # its sizes stand in a piece of their own, which a pipe leaves empty
            file.seek(28)
            return 0 < int.from_bytes(file.read(8), "little") < 1 << 63
        whole, sound = int.from_bytes(head[4:8], "little"), _stated(file, b"data", 4, "little")
        known = file.tell() < whole + 8 < UNKNOWN_LENGTH
        return sound is None or 0 < sound < UNKNOWN_LENGTH or (known and sound == 0)


def _stated(file: BinaryIO, name: bytes, width: int, order: Literal["little", "big"]) -> int | None:
    """How many bytes a piece has, as its head says; the file then stands behind that head. None: there is no such."""
    while len(head := file.read(4 + width)) == 4 + width:
        stated = int.from_bytes(head[4:], order)
        if head[:4] == name:
            return stated
        file.seek(min(stated, FARTHEST) + (stated % 2 if order == "little" else 0), 1)
    return None
