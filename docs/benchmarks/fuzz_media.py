"""Damages real media files at random and decodes them; then decodes intact and damaged ones many times over.

Every damaged file must decode or raise an AVCoreError that names it, within the deadline; and the memory of the process
must grow by 5 % at most between the second twentieth of the decodes and the last. Exit code 1 otherwise. Any folder of
media files will do:

    python docs/benchmarks/fuzz_media.py --mutants 2000 --decodes 10000 --out docs/benchmarks/fuzz_media.json \
        $AVCORE_TEST_DATA/clips $AVCORE_TEST_DATA/mini
"""

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL

from avcore.data.media import check_video, decode_audio, decode_frames, probe
from avcore.data.pictures import read_picture
from avcore.errors import AVCoreError

PICTURES = {".png", ".jpg"}
SOUNDS = {".wav", ".mp3", ".flac"}
VIDEOS = {".mp4", ".mkv", ".webm", ".avi", ".mov"}
KINDS = PICTURES | SOUNDS | VIDEOS
GROWTH = 0.05
SECONDS = 4.0  # of each file that are read
HEADER = 4096  # bytes in which damage does most


def read(path: Path) -> None:
    """Everything that avcore reads of a file."""
    if path.suffix in PICTURES:
        read_picture(path, 32)
        return
    probe(path)
    if path.suffix in VIDEOS:
        decode_frames(path, (0.1, SECONDS / 2, SECONDS), 32)
        check_video(path, seconds=SECONDS)
    decode_audio(path, rate=16000, seconds=SECONDS)


def outcome(path: Path) -> str:
    """``decoded``, ``refused`` with an error that names the file, or what went wrong."""
    try:
        read(path)
    except AVCoreError as error:
        return "refused" if path.name in str(error) else f"does not name the file: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "decoded"


def flip(content: bytearray, rng: np.random.Generator, end: int) -> None:
    """Flip one to 32 bits before ``end``."""
    for place in rng.integers(0, end, rng.integers(1, 33)):
        content[place] ^= 1 << int(rng.integers(8))


def blot(content: bytearray, rng: np.random.Generator, filling: Callable[[int], bytes]) -> None:
    """Overwrite up to 2 KiB anywhere."""
    start = int(rng.integers(len(content)))
    length = min(int(rng.integers(1, 2049)), len(content) - start)
    content[start : start + length] = filling(length)


def damage(content: bytearray, rng: np.random.Generator) -> str:
    """Damage a file in one of six ways; returns which."""
    kind = str(rng.choice(["bits", "header", "zeros", "noise", "hole", "end"]))
    match kind:
        case "bits":
            flip(content, rng, len(content))
        case "header":
            flip(content, rng, min(HEADER, len(content)))
        case "zeros":
            blot(content, rng, bytes)
        case "noise":
            blot(content, rng, rng.bytes)
        case "hole":
            start = int(rng.integers(len(content)))
            del content[start : start + int(rng.integers(1, 2049))]
        case "end":
            del content[int(rng.integers(len(content))) :]
    return kind


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def serve(pipe: Connection) -> None:
    """Read files on request, in a process that may be lost."""
    while (path := pipe.recv()) is not None:
        pipe.send((outcome(path), resident()))


class Victim:
    """A process that reads files, ended when it takes too long and made anew when it dies."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._start()

    def _start(self) -> None:
        self.pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def close(self) -> None:
        """Let the process end."""
        self.pipe.send(None)
        self.process.join()

    def read(self, path: Path) -> tuple[str, int]:
        """The outcome and the bytes that the process holds."""
        self.pipe.send(path)
        try:
            if self.pipe.poll(self.deadline):
                found: tuple[str, int] = self.pipe.recv()
                return found
            result = f"no end within {self.deadline:.0f} s"
        except EOFError:
            result = f"the process died with exit code {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        self._start()
        return result, 0


def fuzz(files: list[Path], mutants: int, victim: Victim, folder: Path, seed: int) -> dict[str, Any]:
    """Damage and read; keeps the files that went wrong in ``folder``."""
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    faults: list[dict[str, str]] = []
    slowest = (0.0, "")
    for number in range(mutants):
        source = files[number % len(files)]
        content = bytearray(source.read_bytes())
        kind = damage(content, rng)
        path = folder / f"mutant-{number}{source.suffix}"
        path.write_bytes(content)
        started = time.monotonic()
        found, _ = victim.read(path)
        slowest = max(slowest, (round(time.monotonic() - started, 2), f"{source.name}, {kind}, {number}"))
        if found in ("decoded", "refused"):
            counts[found] += 1
            path.unlink()
        else:
            faults.append({"file": source.name, "kind": kind, "number": str(number), "fault": found})
    return {"mutants": mutants, "seed": seed, **counts, "slowest": slowest, "faults": faults}


def soak(files: list[Path], decodes: int, victim: Victim, folder: Path, seed: int) -> dict[str, Any]:
    """Read intact files and, every other time, damaged ones, in one process."""
    rng = np.random.default_rng(seed)
    held: list[int] = []
    broken = []
    for source in files:
        content = bytearray(source.read_bytes())
        damage(content, rng)
        broken.append(folder / f"broken-{source.name}")
        broken[-1].write_bytes(content)
    for number in range(decodes):
        pool = (files, broken)[number % 2]
        held.append(victim.read(pool[number // 2 % len(pool)])[1])
    window = max(1, decodes // 20)  # several files: which one was read last makes a difference
    first, last = max(held[window : 2 * window]), max(held[-window:])
    growth = last / first - 1 if all(held) else float("inf")
    return {
        "decodes": decodes,
        "mib_early": round(first / 2**20, 1),
        "mib_late": round(last / 2**20, 1),
        "growth": round(growth, 4),
    }


def media(folders: list[Path], *, count: int, at_most: int, seed: int) -> list[Path]:
    """Media files from below the folders, of each kind as many, drawn with the seed."""
    found = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in KINDS)
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[Path]] = {}
    for index in rng.permutation(len(found)):
        if 0 < found[index].stat().st_size <= at_most:
            kinds.setdefault(found[index].suffix, []).append(found[index])
    in_turn = zip_longest(*(kinds[suffix] for suffix in sorted(kinds)))
    return [path for turn in in_turn for path in turn if path is not None][:count]


def main() -> int:
    """Fuzz, soak, write the result, and say whether it is what it should be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folders", nargs="+", type=Path, help="where media files lie")
    parser.add_argument("--mutants", type=int, default=200, help="files to damage and read once")
    parser.add_argument("--decodes", type=int, default=1000, help="readings of one process whose memory is watched")
    parser.add_argument("--deadline", type=float, default=60.0, help="s that one file may take")
    parser.add_argument("--files", type=int, default=60, help="how many of the files to use, drawn with the seed")
    parser.add_argument("--at-most", type=int, default=500_000, help="bytes of a file that is used")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()

    files = media(options.folders, count=options.files, at_most=options.at_most, seed=options.seed)
    if not files:
        parser.error("there are no media files in these folders")
    victim = Victim(options.deadline)
    with tempfile.TemporaryDirectory() as temporary:
        result = {
            "versions": {"python": platform.python_version(), "av": av.__version__, "pillow": PIL.__version__},
            "files": dict(Counter(path.suffix for path in files)),
            "fuzz": fuzz(files, options.mutants, victim, Path(temporary), options.seed),
            "soak": soak(files, options.decodes, victim, Path(temporary), options.seed),
        }
    victim.close()
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    return int(bool(result["fuzz"]["faults"]) or result["soak"]["growth"] > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
