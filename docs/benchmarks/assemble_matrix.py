"""Assemble, on the meta device, every combination that `avcore plugins matrix` allows; the rest must be refused alike.

    python docs/benchmarks/assemble_matrix.py --out docs/benchmarks/matrix.json

Every family's first member, sound sharing the pictures' backbone or on a family that serves sound alone, as the command
lists them. Exits with 1 where the matrix and assembly disagree.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.matrix import SHARED, Combination, backbone_pairs, combinations
from avcore.registry import Registry, load_registry


def refusal(one: Combination, registry: Registry) -> str:
    """Why assembly refuses a combination; empty where it does not."""
    own = () if one.audio == SHARED else ("audio.weights=random",)
    try:
        resolved = resolve_config(
            registry,
            task="ave",
            prompts=one.prompts,
            fusions=one.fusions,
            visual=one.visual,
            audio=one.audio,
            sets=("visual.weights=random", "data.segments=2", *own),
            need_data=False,
        )
        assemble(resolved.config, registry, meta=True)
    except AVCoreError as error:
        return str(error)
    return ""


def main() -> None:
    """Compare row by row, write down how many there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    registry, start = load_registry(), time.perf_counter()
    rows = list(combinations(registry, backbone_pairs(registry)))
    listed = time.perf_counter() - start
    wrong = []
    for row in rows:
        found = refusal(row, registry)
        if found != row.reason:
            wrong.append({"row": f"{row.prompts} + {row.fusions} on {row.visual}, {row.audio}", "assembly": found})
            print(wrong[-1], flush=True)
    allowed: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = allowed.setdefault(f"{row.visual}, {row.audio}", {"allowed": 0, "refused": 0})
        counts["allowed" if row.ok else "refused"] += 1
    record = {
        "combinations": len(rows),
        "allowed and assembled": sum(row.ok for row in rows) - sum(1 for one in wrong if one["assembly"]),
        "disagreements": wrong,
        "seconds of the matrix": round(listed, 1),
        "pairs": allowed,
        "versions": {name: version(name) for name in ("avcore", "torch", "timm")},
    }
    given.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
