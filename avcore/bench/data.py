"""How fast clips come: decoded for the first time, and from the cache."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from avcore.bench.estimate import shapes_of
from avcore.bench.record import about, settings_of
from avcore.bench.step import with_random_weights
from avcore.config import RunConfig
from avcore.data.loader import ClipLoader
from avcore.data.workers import workers_watched
from avcore.registry import Registry
from avcore.runs.data import RunData, open_files

__all__ = ["bench_data"]


def bench_data(
    config: RunConfig,
    registry: Registry,
    *,
    batches: int = 8,
    repeats: int = 5,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure the loader of a run's training split, in a cache of its own that goes again.

    Args:
        config: of the run: its data, backbones (which say sizes and rates), batch and ``data.workers``.
        registry: where its names are looked up.
        batches: so many of the last ones of an epoch.
        repeats: passes over them from the cache.
        say: told what goes on.

    Returns:
        A record: `about`, and ``rows``: clips/s from the files, by wall clock and by second of processor time of one
        process, with the bytes of a clip in the cache; clips/s from the cache, the best pass.

    Raises:
        AVCoreError: the data are missing or cannot be read.
    """
    model = shapes_of(with_random_weights(config), registry)
    dataset, root = open_files(config, registry)
    with TemporaryDirectory(prefix="avcore-bench-") as folder, workers_watched():
        cached = replace(config.data, cache=Path(folder))

        def loader(workers: int) -> ClipLoader:
            own = replace(config, data=replace(cached, workers=workers))
            return RunData(own, model, dataset, root).loader("train", train=True)

        alone = loader(0)
        first = max(0, len(alone) - batches)
        say(f"decoding {len(alone) - first} batches, which no cache holds")
        processor = time.process_time()
        clips, seconds = _pass(alone, first)
        processor = time.process_time() - processor
        held = sum(file.stat().st_size for file in Path(folder).rglob("*.npy"))
        rows: list[dict[str, Any]] = [
            {
                "row": "decoding, one process",
                "clips": clips,
                "clips_per_s": clips / seconds,
                "clips_per_core_second": clips / processor,
                "cached_bytes_per_clip": held // clips,
            }
        ]
        for workers in dict.fromkeys((0, config.data.workers)):
            reading = loader(workers)
            say(f"reading them from the cache, {repeats} times, data.workers={workers}")
            best = min(_pass(reading, first)[1] for _ in range(repeats))
            reading.close()
            rows.append({"row": f"warm cache, {workers} workers", "clips": clips, "clips_per_s": clips / best})
    settings = {**settings_of(config), "clips": config.train.batch_size, "dataset": config.data.dataset}
    return {**about("data", torch.device("cpu"), settings), "rows": rows}


def _pass(loader: ClipLoader, first: int) -> tuple[int, float]:
    """Clips of the batches from the ``first`` on, and the seconds that they took."""
    loader.set_position(first)
    begin, clips = time.perf_counter(), 0
    for batch in loader:
        clips += len(batch)
    return clips, time.perf_counter() - begin
