"""The clip cache on disk: pictures at the size and sound at the rate that a backbone takes, decoded once.

An entry is a ``.npy`` file, memory-mapped when it is read, and named by the content of its source files and by every
setting that shaped it. A changed file or setting therefore leads to another entry, never to stale data. Entries are
written aside and renamed, so that any number of processes may fill one cache: at worst two decode the same clip.
Writing does not wait for the disk; what a crash cut short or emptied is found out by its checksum and made again.

Shape letters: T segments of K pictures each, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from avcore.data.container import existing
from avcore.data.media import decode_audio, decode_frames, segment_times
from avcore.data.pictures import read_picture
from avcore.errors import DataError, why
from avcore.tasks import Clip

__all__ = [
    "CacheError",
    "ClipCache",
    "cache_home",
    "default_location",
    "read_frames",
    "read_sound",
    "write_aside",
]

FORMAT = 4  # part of every name; to be raised whenever the same settings come to mean other bytes
SETTLED_NS = 2_000_000_000  # a file changed this recently may change again within one tick of its timestamps


def cache_home() -> Path:
    """The folder of everything that can be made again: ``$AVCORE_CACHE``, else ``~/.cache/avcore``."""
    return Path(os.environ.get("AVCORE_CACHE") or Path.home() / ".cache" / "avcore")


def default_location() -> Path:
    """The folder of decoded clips: ``clips`` in `cache_home`."""
    return cache_home() / "clips"


class CacheError(DataError):
    """The cache itself cannot be read or written; the clip is not to blame."""


def read_frames(clip: Clip, segments: int, size: int, per_segment: int = 1) -> np.ndarray:
    """The pictures of a clip without any cache, (T * K, 3, Y, X), those of a segment one after the other.

    Args:
        clip: whose pictures.
        segments: T.
        size: Y = X, px.
        per_segment: K.

    Raises:
        AVCoreError: as `ClipCache.frames`.
    """
    if isinstance(clip.frames, Path):
        return decode_frames(clip.frames, segment_times(segments * per_segment, clip.start, clip.seconds), size)
    if len(clip.frames) != segments * per_segment:
        each = "" if per_segment == 1 else f", {per_segment} each,"
        raise DataError(f"Clip {clip.name} has {len(clip.frames)} pictures{each} for {segments} segments.")
    return np.stack([read_picture(path, size) for path in clip.frames])


def read_sound(clip: Clip, rate: int, channels: int = 1) -> np.ndarray:
    """The sound of a clip without any cache, as `ClipCache.audio`."""
    return decode_audio(_sound_file(clip), rate=rate, start=clip.start, seconds=clip.seconds, channels=channels)


def _sound_file(clip: Clip) -> Path:
    source = clip.frames if clip.audio is None else clip.audio
    if not isinstance(source, Path):
        raise DataError(f"Clip {clip.name} has neither a sound file nor a video to take the sound from.")
    return source


class ClipCache:
    """Decoded clips, kept under ``root`` (by default under `default_location`).

    Args:
        root: the folder; made when it is first needed.
        segments: T of each clip.

    Attributes:
        decoded: how many entries this object had to make because they were not there.
    """

    def __init__(self, root: Path | None, *, segments: int) -> None:
        self.root = default_location() if root is None else Path(root)
        self.segments = segments
        self.decoded = 0
        self._sources = _Sources(self.root / "sources.jsonl")
        self._checked: set[Path] = set()

    def frames(self, clip: Clip, size: int, per_segment: int = 1) -> np.ndarray:
        """The pictures of a clip, (T, 3, Y, X) uint8 at ``size`` px, read-only; (T, K, 3, Y, X) with K > 1.

        Of a video, the frame in the middle of each segment, or of each of the K equal pieces of it (`segment_times`).

        Args:
            clip: whose pictures.
            size: Y = X, px.
            per_segment: K.

        Raises:
            CacheError: the cache cannot be read or written.
            AVCoreError: a source file is missing or cannot be read, or the clip has not T * K pictures.
        """
        total = self.segments * per_segment
        make = partial(read_frames, clip, self.segments, size, per_segment)
        name = self.named_frames(clip, size, per_segment)
        found = self._entry("frames", name, (total, 3, size, size), np.uint8, make)
        return found if per_segment == 1 else found.reshape(self.segments, per_segment, 3, size, size)

    def audio(self, clip: Clip, rate: int, channels: int = 1) -> np.ndarray:
        """The sound of a clip, (S,) int16 at ``rate`` Hz with S = round(seconds * rate), read-only.

        Of two ``channels`` it is (2, S).

        Raises:
            CacheError: the cache cannot be read or written.
            AVCoreError: a source file is missing, cannot be read, or has no sound.
        """
        length = round(clip.seconds * rate)
        shape = (length,) if channels == 1 else (channels, length)
        make = partial(read_sound, clip, rate, channels)
        return self._entry("audio", self.named_audio(clip, rate, channels), shape, np.int16, make)

    def named_frames(self, clip: Clip, size: int, per_segment: int = 1) -> str:
        """The name that stands for what `frames` gives: for the content of its sources and for the settings."""
        sources = [clip.frames] if isinstance(clip.frames, Path) else list(clip.frames)
        settings: dict[str, Any] = {"size": size}
        if isinstance(clip.frames, Path):
            settings["times"] = segment_times(self.segments * per_segment, clip.start, clip.seconds)
        return self._name("frames", sources, settings)

    def named_audio(self, clip: Clip, rate: int, channels: int = 1) -> str:
        """The same for what `audio` gives."""
        settings: dict[str, Any] = {"rate": rate, "start": clip.start, "seconds": clip.seconds}
        if channels > 1:
            settings["channels"] = channels
        return self._name("audio", [_sound_file(clip)], settings)

    def _name(self, kind: str, sources: Sequence[Path], settings: Mapping[str, Any]) -> str:
        contents = [self._sources.digest(path) for path in sources]
        named_by = json.dumps([FORMAT, kind, contents, dict(settings)], sort_keys=True)
        return hashlib.sha256(named_by.encode()).hexdigest()[:40]

    def _entry(
        self,
        kind: str,
        name: str,
        shape: tuple[int, ...],
        dtype: type[np.generic],
        make: Callable[[], np.ndarray],
    ) -> np.ndarray:
        path = self.root / kind / name[:2] / f"{name}.npy"
        found = _load(path, shape, dtype)
        if found is not None and (path in self._checked or _intact(path, found)):
            self._checked.add(path)
            return found
        made = make()
        self.decoded += 1
        _save(path, made)
        return made


def _load(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray | None:
    """A memory map of an entry, None where it is missing, cut short or not what it should be."""
    try:
        entry: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    except OSError as error:
        raise _unusable(path.parent.parent.parent, "read", error) from error
    return entry if entry.shape == shape and entry.dtype == dtype else None


def _checksum(array: np.ndarray) -> bytes:
    return zlib.crc32(np.ascontiguousarray(array).data).to_bytes(4, "little")


def _intact(path: Path, entry: np.ndarray) -> bool:
    """Whether the checksum after the array, the last four bytes of the file, is that of its content."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return file.read() == _checksum(entry)


def write_aside(path: Path, content: bytes | memoryview) -> None:
    """Write a file aside and rename it, so that no reader ever sees half of it; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.{uuid4().hex}.tmp")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _save(path: Path, array: np.ndarray) -> None:
    try:
        # Not into the file at once: of a full disk numpy says how many numbers it wrote, not why.
        whole = io.BytesIO()
        np.save(whole, array, allow_pickle=False)
        whole.write(_checksum(array))
        write_aside(path, whole.getbuffer())
    except OSError as error:
        raise _unusable(path.parent.parent.parent, "written", error) from error


def _unusable(root: Path, how: str, error: OSError) -> CacheError:
    return CacheError(
        f"The clip cache {root} cannot be {how}: {why(error)}. "
        "Name another folder with AVCORE_CACHE or --set data.cache=PATH."
    )


class _Sources:
    """The SHA-256 of files, remembered by path, size and times, so that unchanged files are read once, not every epoch.

    The memory is a file of one JSON line for each digest, appended in a single write; a later line counts, and a line
    torn by a crash is skipped.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        self._known: dict[str, tuple[list[int], str]] | None = None

    def digest(self, path: Path) -> str:
        """The SHA-256 of a file's bytes, in hexadecimal."""
        path = existing(path)
        if self._known is None:
            self._known = self._read()
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        remembered = self._known.get(str(path))
        if remembered is not None and remembered[0] == stamp:
            return remembered[1]
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {why(error)}.") from error
        if time.time_ns() - max(stamp[1:]) > SETTLED_NS:
            self._known[str(path)] = (stamp, digest)
            self._append(json.dumps([str(path), stamp, digest]) + "\n")
        return digest

    def _read(self) -> dict[str, tuple[list[int], str]]:
        try:
            text = self.index.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _unusable(self.index.parent, "read", error) from error
        known: dict[str, tuple[list[int], str]] = {}
        for line in text.splitlines():
            with suppress(ValueError, TypeError):
                path, stamp, digest = json.loads(line)
                known[path] = (stamp, digest)
        return known

    def _append(self, line: str) -> None:
        try:
            self.index.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.index, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unusable(self.index.parent, "written", error) from error
