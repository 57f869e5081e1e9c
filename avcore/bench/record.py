"""Records of measurements, and two of them side by side."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import avcore
from avcore.config import RunConfig, plain
from avcore.engine.records import commit_of, versions
from avcore.errors import DataError
from avcore.report.tables import Cell, render_table

__all__ = ["about", "compared", "render", "settings_of"]

NAMES = ("row", "pass", "clips", "memory", "command")
"""Fields that say which row it is; numbers among the others are figures."""
SHOWN = {
    "ms": "ms",
    "ms_low": "25 %",
    "ms_high": "75 %",
    "clips_per_s": "clips/s",
    "of_bare": "% of bare",
    "peak_bytes": "peak GiB",
    "estimated_bytes": "estimated GiB",
    "kept_bytes": "kept GiB",
    "tflop": "TFLOP",
    "kernels": "kernels",
}
"""Figures with a title and a unit of their own."""


def about(kind: str, device: torch.device, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What every record begins with: what was measured, where, with which code.

    Args:
        kind: the command, such as ``step``.
        device: where it was measured.
        settings: what decides the figures.
    """
    commit = commit_of(Path(avcore.__file__).parent)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "kind": kind,
        "device": {
            "kind": device.type,
            "name": named,
            "threads": torch.get_num_threads(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "settings": dict(settings),
        "versions": versions(),
        "commit": commit and commit.removesuffix("-dirty"),
        "dirty": bool(commit and commit.endswith("-dirty")),
    }


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What decides the cost of a run's step, in plain values."""
    train = plain(config.train)
    return {
        "task": config.task,
        "visual": config.visual.backbone,
        "audio": config.audio.backbone or "shared",
        "streams": config.streams,
        "segments": config.data.settings.segments,
        **{key: train[key] for key in ("precision", "memory", "compile") if key in train},
        "seed": config.seed,
    }


def _processor() -> str:
    """What the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a record as a table; figures that no row has are left out."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    titles = [SHOWN.get(key, key.replace("_", " ")) for key in keys]
    return render_table(titles, [[_cell(key, row.get(key)) for key in keys] for row in rows])


def _cell(key: str, value: Any) -> Cell:
    if isinstance(value, Mapping):
        return " + ".join(f"{one:,.2f}" if isinstance(one, float) else f"{one:,}" for one in value.values())
    if value is None:
        return None
    if key.endswith("_bytes"):
        return float(value) / 2**30
    cell: Cell = 100.0 * value if key == "of_bare" else value
    return cell


# --------------------------------------------------------------------------------------------------------- side by side


def compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Two records of one kind, row by row: figures of both and the second over the first.

    Returns:
        What differs between them and may be why, a line each; the rows: which, ``figure``, ``A``, ``B``, ``B/A``.

    Raises:
        AVCoreError: they measured different things, or on different devices.
    """
    for name, record in (("A", first), ("B", second)):
        if not {"kind", "device", "settings", "rows"} <= record.keys():
            raise DataError(f"{name} is no record of 'avcore bench': write one with --json FILE.")
    _refuse(first, second, "kind", "measures another thing")
    _refuse(first, second, "device", "was measured on another device, or with other threads")
    for key in ("task", "visual", "audio", "streams", "segments", "clips"):
        _refuse(first["settings"], second["settings"], key, f"has another {key}")
    told = [
        f"{key}: {one[key]} in A, {other[key]} in B"
        for one, other in ((first["settings"], second["settings"]), (first["versions"], second["versions"]))
        for key in sorted(one.keys() & other.keys())
        if one[key] != other[key]
    ]
    told += [f"commit: {_commit(first)} in A, {_commit(second)} in B"] if _commit(first) != _commit(second) else []
    others = {_which(row): row for row in second["rows"]}
    rows = [
        {**dict(which), "figure": figure, "A": a, "B": b, "B/A": b / a if a else None}
        for which, row in ((_which(row), row) for row in first["rows"])
        for figure, a, b in _figures(row, others.get(which, {}))
    ]
    if not rows:
        raise DataError("A and B have no row in common: measure the same methods and batches.")
    mine = {_which(row) for row in first["rows"]}
    alone = [(name, which) for name, found, rest in (("A", mine, others), ("B", [*others], mine)) for which in found
             if which not in rest]  # fmt: skip
    told += [f"only in {name}: {', '.join(str(value) for _, value in which)}" for name, which in alone]
    return told, rows


def _which(row: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, row[key]) for key in NAMES if key in row)


def _figures(row: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    found: list[tuple[str, float, float]] = []
    for key, value in row.items():
        if key in NAMES or other.get(key) is None:
            continue
        a, b = (sum(one.values()) if isinstance(one, Mapping) else one for one in (value, other[key]))
        if isinstance(a, int | float) and isinstance(b, int | float):
            found.append((key, a, b))
    return found


def _refuse(first: Mapping[str, Any], second: Mapping[str, Any], key: str, words: str) -> None:
    if first.get(key) != second.get(key):
        raise DataError(f"B {words} than A, so they do not compare: {second.get(key)}, and in A {first.get(key)}.")


def _commit(record: Mapping[str, Any]) -> str:
    return f"{(record.get('commit') or 'unknown')[:10]}{' with changes' if record.get('dirty') else ''}"
