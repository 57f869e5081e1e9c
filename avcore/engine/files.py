"""Files that are whole or not there: written aside, flushed to disk, renamed."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from avcore.errors import AVCoreError, why

__all__ = [
    "clear_leftovers",
    "json_text",
    "read_json",
    "sha256",
    "sync_directory",
    "write_atomic",
    "write_json",
    "write_synced",
]

ASIDE = ".tmp-"
"""How the names of unfinished files and directories begin."""


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_leftovers(directory: Path) -> None:
    """Remove what a process that was killed while writing left in a directory, in which nobody else is writing."""
    for path in directory.glob(f"{ASIDE}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk; torn if that fails, so it is for places that do not count yet."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a machine that lost power, sees the old content or the new.

    Raises:
        AVCoreError: the disk is full or the place may not be written; the old file is as it was.
    """
    aside = path.with_name(f"{ASIDE}{path.name}-{os.getpid()}")
    try:
        write_synced(aside, content)
        os.replace(aside, path)
        sync_directory(path.parent)
    except OSError as error:
        raise AVCoreError(f"Cannot write {path}: {why(error)}.") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def json_text(content: Any) -> str:
    """Readable JSON. It knows no NaN and no infinity: they become null."""
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, content: Any) -> None:
    """Write what `json_text` makes; see `write_atomic`. Names of files that are no Unicode become escapes of JSON."""
    write_atomic(path, f"{json_text(content)}\n".encode(errors="backslashreplace"))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        AVCoreError: the file is missing, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AVCoreError(f"Cannot read {path}: {why(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise AVCoreError(f"{path} is damaged: {error}.") from error


def _finite(content: Any) -> Any:
    match content:
        case float():
            return content if math.isfinite(content) else None
        case Mapping():
            return {key: _finite(value) for key, value in content.items()}
        case list() | tuple():
            return [_finite(value) for value in content]
        case _:
            return content


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
