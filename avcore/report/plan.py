"""What runs beside what: the stages of both streams and the plan of their blocks, in words and as plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

from avcore.injection import PlanEntry
from avcore.specs import StreamLayout

__all__ = ["plan_record", "render_plan"]


def plan_record(layouts: Mapping[str, StreamLayout], plan: Sequence[PlanEntry]) -> dict[str, Any]:
    """Stages of each stream, and the plan: pairs of block numbers and what runs alone, all counted from 0."""
    stages = {
        stream: [
            {
                "depth": stage.depth,
                "width": stage.width,
                "heads": stage.heads,
                "tokens": stage.tokens,
                "grid": list(stage.grid),
                "window": None if stage.window is None else list(stage.window),
            }
            for stage in layout.stages
        ]
        for stream, layout in layouts.items()
    }
    return {
        "stages": stages,
        "pairs": [[entry.visual, entry.audio] for entry in plan if entry.paired],
        "visual_alone": [entry.visual for entry in plan if entry.audio is None],
        "audio_alone": [entry.audio for entry in plan if entry.visual is None],
    }


def render_plan(record: Mapping[str, Any]) -> list[str]:
    """Lines for people of what `plan_record` gives."""
    lines = []
    for stream, stages in record["stages"].items():
        for number, stage in enumerate(stages, start=1):
            rows, columns = stage["grid"]
            window = "" if stage["window"] is None else f", windows of {stage['window'][0]} x {stage['window'][1]}"
            lines.append(
                f"{stream} stage {number}: {stage['depth']} blocks of width {stage['width']}, {stage['heads']} heads, "
                f"{stage['tokens']} tokens ({rows} x {columns}){window}"
            )
    pairs = record["pairs"]
    alone = {stream: record[f"{stream}_alone"] for stream in ("visual", "audio")}
    if pairs:
        lines.append(f"{len(pairs)} pairs of blocks (visual+audio): {' '.join(f'{v}+{a}' for v, a in pairs)}")
        lines += [f"{stream} alone: {' '.join(map(str, blocks))}" for stream, blocks in alone.items() if blocks]
    return lines
