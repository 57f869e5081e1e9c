"""Features of frozen streams on disk: what a stream made of a segment once, it need not make again.

A file holds the features of one segment, and is named by what its pictures or sound are (`ClipCache.named_frames`,
`named_audio`) and by everything else that they depend on: weights, settings, number format and code (`Wanted.key`).
Files are written aside and renamed, so that any number of processes may share them, and end in a checksum: what is
damaged is told and made again.

Shape letters: B clips, T segments, M = B*T, N tokens, D width.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from avcore.data.cache import write_aside
from avcore.errors import why
from avcore.features import Kept

__all__ = ["Wanted", "kept_or_made", "load_segments", "save_segments"]

_logger = logging.getLogger(__name__)
_full: set[Path] = set()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which features of a frozen stream are looked for.

    Attributes:
        folder: where they lie.
        key: stands for all that they depend on beside pictures and sound.
    """

    folder: Path
    key: str

    def files(self, segments: Sequence[tuple[str, int]]) -> list[str]:
        """The file of each segment: the name of what its clip shows or sounds like, and its place in that clip."""
        names = [hashlib.sha256(f"{self.key}/{name}/{place}".encode()).hexdigest()[:40] for name, place in segments]
        return [str(self.folder / name[:2] / f"{name}.safetensors") for name in names]


def load_segments(files: Sequence[str]) -> dict[str, Tensor] | None:
    """The features of segments, stacked, (T, ...) by field; None where one is missing or damaged."""
    found: list[dict[str, Tensor]] = []
    for file in files:
        one = _load(Path(file))
        if one is None:
            return None
        found.append(one)
    if len({tuple(one) for one in found}) != 1:
        return None
    return {field: torch.stack([one[field] for one in found]) for field in found[0]}


def save_segments(files: Sequence[str], features: Mapping[str, Tensor]) -> None:
    """Keep the features of segments, (T, ...) by field; those that are there stay.

    A disk that takes no more is told of once: features are then made anew each time.
    """
    for place, file in enumerate(files):
        path = Path(file)
        folder = path.parent.parent
        if folder in _full:
            return
        try:
            if path.exists():
                if _load(path) is not None:
                    continue
                _logger.warning("%s is damaged and is made again.", path)
            # A copy: a view would be saved with all that it is a view of.
            whole = {
                field: of[place].cpu().clone(memory_format=torch.contiguous_format) for field, of in features.items()
            }
            content = safetensors.torch.save(whole)
            write_aside(path, content + zlib.crc32(content).to_bytes(4, "little"))
        except OSError as error:
            _full.add(folder)
            _logger.warning("Features cannot be kept in %s any more, and are made each time: %s.", folder, why(error))


def kept_or_made(
    kept: Kept, stream: str, make: Callable[[int], dict[str, Tensor]], device: torch.device
) -> dict[str, Tensor]:
    """The features of the clips of a batch, (M, ...) by field: those that were found, and the others made and kept.

    Args:
        kept: what was found on disk when the batch was read.
        stream: whose features these are.
        make: the features of the segments of one clip, given its number in the batch, (T, ...) by field. Clips are made
            one by one, so that what is kept does not depend on what stands beside it in a batch.
        device: where features go that are found only now.
    """
    before = f"{stream}."
    known = {key.removeprefix(before): one for key, one in kept.features.items() if key.startswith(before)}
    if all(kept.known[stream]):
        return known
    clips: list[dict[str, Tensor]] = []
    first = 0
    for number, (there, files) in enumerate(zip(kept.known[stream], kept.files[stream], strict=True)):
        if there:
            clips.append({field: one[first : first + len(files)] for field, one in known.items()})
            first += len(files)
            continue
        # It may be there by now: of this batch, or of one before that was made while this one was read.
        found = load_segments(files)
        if found is None:
            found = make(number)
            save_segments(files, found)
        clips.append({field: one.to(device) for field, one in found.items()})
    return {field: torch.cat([one[field] for one in clips]) for field in clips[0]}


def _load(path: Path) -> dict[str, Tensor] | None:
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    content, checksum = whole[:-4], whole[-4:]
    if len(whole) < 4 or zlib.crc32(content).to_bytes(4, "little") != checksum:
        return None
    found: dict[str, Tensor] = safetensors.torch.load(content)
    return dict(sorted(found.items()))
