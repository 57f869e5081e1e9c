"""Renders the demo world to real media files in official layouts (`layouts`): atomically, and only once."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import KINDS
from .layouts import LAYOUTS, Named
from .truth import describe
from .world import Clip, clip_seed, make_clip

SPLITS = ("train", "val", "test")
"""The splits of every layout; a layout may have further ones."""

Progress = Callable[[int, int], None]


def render(
    root: Path,
    *,
    seed: int,
    counts: dict[str, int],
    layout: str,
    size: int = 96,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Renders clips into a new folder, which appears only when it is complete.

    Args:
        root: The folder to make; must not exist, or be empty.
        seed: What all clips follow from.
        counts: Clips for each of "train", "val", "test", and of further splits that the layout has.
        layout: A name in `layouts.LAYOUTS`.
        size: Rows and columns of the pictures, px, even.
        workers: Threads; by default one for each core, at most 4.
        progress: Called with (clips done, clips in all) after each clip.

    Raises:
        FileExistsError: The folder exists and is not empty, or appeared meanwhile.
        ValueError: A setting is not among those above.
    """
    order = _Order(seed, counts, layout, size)
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists; the demo is rendered into a new folder only")
    if not _render_aside(root, order, workers, progress):
        raise FileExistsError(f"{root} appeared while the demo was rendered for it")


def ensure(
    cache_root: Path,
    *,
    layout: str,
    size: int = 96,
    seed: int = 0,
    counts: dict[str, int],
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Returns the folder of these settings under `cache_root`, rendering it if it is not there.

    The folder's name holds a digest of the settings and of the code that makes the world, so that neither a changed
    setting nor a changed world finds old files. When several processes need it at once, each renders aside and the
    first one to finish wins.
    """
    order = _Order(seed, counts, layout, size)
    key = json.dumps([code_digest(layout), layout, size, seed, sorted(counts.items())])
    root = Path(cache_root) / f"demo-{layout}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    if not root.is_dir():
        _render_aside(root, order, workers, progress)
    return root


def code_digest(layout: str) -> str:
    """Digest of the code that the files of a layout follow from."""
    digest, folder = hashlib.blake2b(digest_size=8), Path(__file__).parent
    chosen = LAYOUTS[layout]
    own = chosen.clip.__module__.removeprefix(f"{__package__}.").replace(".", "/")
    for name in ("looks", "media", "render", "scenery", "sounds", "styles", "truth", "world", own, *chosen.code):
        digest.update((folder / f"{name}.py").read_bytes())
    digest.update(repr((chosen.style, chosen.balanced, chosen.further)).encode())
    return digest.hexdigest()


def clips(*, seed: int, counts: dict[str, int], layout: str) -> list[Named]:
    """The name, the split and the clip of everything that `render` would write, in its order."""
    chosen = LAYOUTS[layout]
    made = []
    for split in (*SPLITS, *chosen.further):
        for number in range(counts.get(split, 0)):
            own = clip_seed("demo", seed, layout, split, number)
            name = base64.b32encode(own.to_bytes(7, "big")).decode().lower()[:11]
            kind = KINDS[number % len(KINDS)] if chosen.balanced else None
            clip = make_clip(own, chosen.further.get(split, chosen.style), kind)
            made.append((name, split, chosen.dress(clip, number) if chosen.dress else clip))
    return made


@dataclass(frozen=True)
class _Order:
    """What to render."""

    seed: int
    counts: dict[str, int]
    layout: str
    size: int

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}; it must be one of {', '.join(LAYOUTS)}")
        splits = (*SPLITS, *LAYOUTS[self.layout].further)
        if unknown := set(self.counts) - set(splits):
            raise ValueError(f"counts has {', '.join(sorted(unknown))}; splits are {', '.join(splits)}")
        if any(count < 0 for count in self.counts.values()) or not sum(self.counts.values()):
            raise ValueError(f"counts is {self.counts}; it must name at least one clip")
        if self.size < 16 or self.size % 2:
            raise ValueError(f"size is {self.size} px; it must be even (H.264) and at least 16")


def _render_aside(root: Path, order: _Order, workers: int | None, progress: Progress | None) -> bool:
    """Renders into a folder beside `root` and renames it; False if another was there first."""
    root.parent.mkdir(parents=True, exist_ok=True)
    aside = root.parent / f".{root.name}.{uuid.uuid4().hex[:12]}.part"
    try:
        aside.mkdir()
        _render_all(aside, order, workers, progress)
        try:
            # Renaming replaces an empty folder and nothing else.
            os.rename(aside, root)
        except OSError:
            if not root.exists():
                raise
            return False
        return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _render_all(root: Path, order: _Order, workers: int | None, progress: Progress | None) -> None:
    everything, layout = clips(seed=order.seed, counts=order.counts, layout=order.layout), LAYOUTS[order.layout]

    def write(name: str, split: str, clip: Clip) -> dict[str, Any]:
        layout.clip(root, name, split, clip, order.size)
        return {"split": split, **describe(clip, order.size)}

    described: dict[str, Any] = {}
    with ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 4)) as pool:
        jobs = {pool.submit(write, *one): one[0] for one in everything}
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                described[jobs[job]] = job.result()
                if progress:
                    progress(done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    layout.lists(root, everything)
    record = {
        **asdict(order),
        "code": code_digest(order.layout),
        "clips": {name: described[name] for name, _, _ in everything},
    }
    (root / "objects.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
