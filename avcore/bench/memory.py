"""What a step needs of a device's memory, by setting and batch, and the largest batch that fits; from shapes alone."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from avcore.bench.bare import BARE, bare_of
from avcore.bench.estimate import Estimate, estimate, shapes_of
from avcore.bench.record import about, settings_of
from avcore.bench.step import with_random_weights
from avcore.config import RunConfig
from avcore.errors import ConfigError
from avcore.registry import Registry

__all__ = ["MEMORY", "bench_memory", "bytes_of", "largest_batch", "with_memory"]

Memory = Literal["fast", "balanced", "low"]
MEMORY: tuple[Memory, ...] = get_args(Memory)
"""The values of ``train.memory``, from the fastest to the leanest."""
SLACK = 1.05
"""What of the allocator's memory lies between tensors, as a factor."""
CONTEXT = 600 * 10**6
"""Bytes of a CUDA context with its libraries."""
MOST = 4096
"""Clips of the largest batch that is looked for."""


def bytes_of(text: str) -> int:
    """``24GB`` (10^9 bytes each) or ``24GiB`` (2^30) as bytes.

    Raises:
        AVCoreError: it is no such amount.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(i?)b\s*", text.lower())
    if found is None:
        raise ConfigError(f"'{text}' is no amount of memory: write it as 24GB or 22.5GiB.")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" kmgt".index(prefix)))


def bench_memory(
    name: str,
    config: RunConfig,
    registry: Registry,
    *,
    clips: Sequence[int] = (1, 4, 8, 16),
    fit: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Estimate a training step of a run for every ``train.memory`` and batch, and of its bare backbone.

    Args:
        name: of the rows.
        config: of the run.
        registry: where its names are looked up.
        clips: batches.
        fit: bytes of a device: also look for the largest batch that fits, for each setting.
        say: told what goes on.

    Returns:
        A record: `about`, ``rows``, and with ``fit`` the largest batch of each setting, 0 where none fits.

    Raises:
        AVCoreError: the run cannot be assembled.
    """
    config = with_random_weights(config)
    rows, largest = [], {}
    for memory in MEMORY:
        say(f"shapes with train.memory={memory}")
        model = shapes_of(with_memory(config, memory), registry)
        rows += [_figures(name, memory, estimate(model, count)) for count in clips]
        if fit is not None:
            largest[memory] = largest_batch(lambda count, model=model: estimate(model, count).peak, fit)  # type: ignore[misc]
    model = shapes_of(with_memory(config, MEMORY[0]), registry)
    rows += [_figures(BARE, MEMORY[0], estimate(bare_of(model, registry), count)) for count in clips]
    settings = {**settings_of(config), "memory": None}
    found = {**about("memory", torch.device("meta"), settings), "rows": rows}
    return found if fit is None else {**found, "fit_bytes": fit, "largest": largest}


def with_memory(config: RunConfig, memory: Memory) -> RunConfig:
    """The same run with another ``train.memory``."""
    return replace(config, train=replace(config.train, memory=memory))


def largest_batch(peak: Callable[[int], int], limit: int) -> int:
    """The most clips whose step fits, with what a device needs besides: its context, and gaps between tensors.

    Args:
        peak: clips -> bytes; it grows with the clips, nearly in proportion.
        limit: bytes of the device.
    """
    known: dict[int, int] = {}

    def need(count: int) -> int:
        if count not in known:
            known[count] = int(peak(count) * SLACK) + CONTEXT
        return known[count]

    fits, fails = 0, MOST + 1
    guess = 1
    while fails - fits > 1:
        if need(guess) <= limit:
            fits = guess
        else:
            fails = guess
        first, *_, last = sorted(known) if len(known) > 1 else (0, guess)
        slope = (need(last) - need(first)) / (last - first) if first else need(last) / last
        nearest = fits or fails
        ahead = nearest + int((limit - need(nearest)) // max(1.0, slope))
        # What the line says, next to it the other side, so that two calls settle it where it is right.
        guess = min(max(ahead + (ahead == fits), fits + 1), fails - 1)
    return fits


def _figures(name: str, memory: str, cost: Estimate) -> dict[str, Any]:
    return {
        "row": name,
        "memory": memory,
        "clips": cost.clips,
        "peak_bytes": cost.peak,
        "kept_bytes": cost.kept,
        "tflop": sum(cost.flop.values()) / 1e12,
        "kernels": dict(cost.kernels),
    }
