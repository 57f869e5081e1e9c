"""What steps of published settings need on a CUDA device, by the estimator: no device, no weights, no data::

    python docs/benchmarks/estimates.py docs/benchmarks/estimates.json

writes the record and prints the tables of docs/benchmarks/speed.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from avcore.bench.bare import BARE, bare_of
from avcore.bench.estimate import estimate, shapes_of
from avcore.bench.memory import MEMORY, with_memory
from avcore.bench.record import about
from avcore.bench.step import with_random_weights
from avcore.config import RunConfig, resolve_config
from avcore.engine.files import write_json
from avcore.registry import Registry, load_registry

SWIN = {"recipe": "swin"}
VIT_B = {"visual": "vit_base_patch16_224"}
STEPS: dict[str, tuple[str, dict[str, str]]] = {
    "LAVISH, Swin-V2-L": ("lavish", SWIN),
    "LAVISH, ViT-B/16": ("lavish", VIT_B),
    "DG-SCT, Swin-V2-L and HTS-AT": ("dgsct", {}),
    "CoPL, Swin-V2-L": ("copl", SWIN),
    "CoPL, ViT-B/16": ("copl", VIT_B),
    "AV-STFP, CLIP-L/14": ("stfp", {}),
    "STG-CMA, CLIP-L/14": ("stgcma", {}),
    "ladder, Swin-V2-L": ("ladder", SWIN),
}
"""Rows: method and options; ten segments, the task `ave`."""


def config_of(method: str, options: dict[str, str], precision: str, registry: Registry) -> RunConfig:
    """Its recipe's, with random weights."""
    sets = (f"train.precision={precision}",)
    found = resolve_config(registry, method=method, task="ave", sets=sets, need_data=False, **options)  # type: ignore[arg-type]
    return with_random_weights(found.config)


def figures(model: Any, clips: int, *, training: bool = True) -> dict[str, Any]:
    """Bytes, kernels and FLOP of a step."""
    found = estimate(model, clips, training=training)
    kernels, flop = dict(found.kernels), dict(found.flop)
    return {"clips": clips, "peak": found.peak, "kept": found.kept, "kernels": kernels, "flop": flop}


def rows_of(name: str, registry: Registry) -> list[dict[str, Any]]:
    """Of one step: memory for 8 clips by ``train.memory``, kernels of one clip by precision, and the bare backbone."""
    method, options = STEPS[name]
    rows = []
    half = config_of(method, options, "bf16", registry)
    for memory in MEMORY:
        model = shapes_of(with_memory(half, memory), registry)
        rows.append({"step": name, "precision": "bf16", "memory": memory, **figures(model, 8)})
    single = config_of(method, options, "fp32", registry)
    for precision, config in (("bf16", half), ("fp32", single)):
        model = shapes_of(config, registry)
        rows.append({"step": name, "precision": precision, "memory": "fast", **figures(model, 1)})
        forward = figures(model, 1, training=False)
        rows.append({"step": name, "precision": precision, "memory": "evaluation", **forward})
    bare = bare_of(shapes_of(half, registry), registry)
    rows += [{"step": name, "precision": "bf16", "memory": BARE, **figures(bare, clips)} for clips in (8, 1)]
    return rows


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    found = {(row["step"], row["precision"], row["memory"], row["clips"]): row for row in rows}
    lines = [
        "| 8 clips, bf16, GiB | fast | balanced | low | bare backbone |",
        "|---|---|---|---|---|",
    ]
    for step in dict.fromkeys(row["step"] for row in rows):
        peaks = (found[step, "bf16", memory, 8]["peak"] / 2**30 for memory in (*MEMORY, BARE))
        lines.append(f"| {step} | {' | '.join(f'{peak:.1f}' for peak in peaks)} |")
    lines += [
        "",
        "| kernels, one clip | step, bf16 | step, fp32 | bare step, bf16 | evaluation, bf16 |",
        "|---|---|---|---|---|",
    ]
    for step in dict.fromkeys(row["step"] for row in rows):
        places = (("bf16", "fast"), ("fp32", "fast"), ("bf16", BARE), ("bf16", "evaluation"))
        counts = (sum(found[step, *place, 1]["kernels"].values()) for place in places)
        lines.append(f"| {step} | {' | '.join(f'{count:,}' for count in counts)} |")
    return "\n".join(lines)


def main() -> None:
    """Estimate, write as it goes, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", action="store_true", help="only print the tables of a record that is there")
    given = parser.parse_args()
    if given.table:
        print(tables(json.loads(given.out.read_text())["rows"]))
        return
    registry, rows = load_registry(), []
    for name in STEPS:
        rows += rows_of(name, registry)
        print(name, flush=True)
        write_json(given.out, {**about("estimates", torch.device("meta"), {"task": "ave"}), "rows": rows})
    print(tables(rows))


if __name__ == "__main__":
    main()
