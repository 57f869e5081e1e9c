"""Hours and bytes on the wire by data set, method and number of GPUs, from FLOP of the estimator: nothing is measured::

    python docs/benchmarks/scale.py docs/benchmarks/scale.json

writes trained parameters beside what `estimates.json` says, and prints the tables of docs/scale.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

from avcore.bench.estimate import shapes_of
from avcore.engine.files import write_json
from avcore.registry import load_registry
from avcore.states import parameter_groups

HERE = Path(__file__).parent
CLIPS = {"AVE": (4143, 10), "LLP": (11849, 10), "AVSBench S4": (4932, 5), "AVSBench MS3": (424, 5)}
"""Clips of all splits, and segments of a clip."""
PEAK = 989e12  # FLOP/s of an H200 in bf16, dense, as its maker says
SHARE = 0.2  # of the peak; an assumption
GPUS = (1, 8, 64)
EPOCHS = 10


def record() -> dict[str, Any]:
    """FLOP of a clip of ten segments and trained parameters of each step of `estimates.json`."""
    from estimates import STEPS, config_of

    rows = json.loads((HERE / "estimates.json").read_text(encoding="utf-8"))["rows"]
    found, registry = {}, load_registry()
    for name, (method, options) in STEPS.items():
        groups = parameter_groups(shapes_of(config_of(method, options, "bf16", registry), registry))
        trained = sum(one.numel() for group in ("parts", "head") for _, one in groups[group])
        step = next(row for row in rows if (row["step"], row["memory"], row["clips"]) == (name, "fast", 8))
        found[name] = {"flop": sum(step["flop"].values()) / 8, "trained": trained}
    return {"steps": found}


def tables(steps: dict[str, Any]) -> str:
    """Markdown."""
    heads = [f"{data}, {gpus}" for data in CLIPS for gpus in GPUS]
    lines = [f"| hours | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name, step in steps.items():
        hours = (
            EPOCHS * clips * segments / 10 * step["flop"] / (PEAK * SHARE * gpus) / 3600
            for clips, segments in CLIPS.values()
            for gpus in GPUS
        )
        lines.append(f"| {name} | {' | '.join(f'{one:.2g}' for one in hours)} |")
    lines += ["", "| a step | trained parameters | MB sent by each of 8 | of 64 |", "|---|---:|---:|---:|"]
    for name, step in steps.items():
        sent = (2 * (gpus - 1) / gpus * 4 * step["trained"] / 1e6 for gpus in GPUS[1:])
        lines.append(f"| {name} | {step['trained']:,} | {' | '.join(f'{one:,.1f}' for one in sent)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    made = record()
    write_json(Path(sys.argv[1]), made)
    print(tables(made["steps"]))
