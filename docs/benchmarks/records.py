"""The tables of records that earlier grids left here: ``runs``, each with its row, seed, epochs, metrics and costs.

``avcore sweep GRID.yaml`` runs grids, ``avcore compare --sweep DIR`` lays their rows side by side; the
tables of pages are those of the records.
"""

from statistics import fmean, stdev
from typing import Any


def table(runs: list[dict[str, Any]], grid: dict[str, Any]) -> str:
    """The rows of the grid in Markdown; means over seeds, with the standard deviation where there are several."""
    score = grid["score"]
    groups = grid.get("groups", {})
    titles = ["", *(f"{split} {score}" for split in splits(grid)), *groups, "seeds", "trained", "s", "MiB"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in grid["rows"]:
        found = [run for run in runs if run["row"] == name and run["epochs"] == grid["epochs"]]
        if found:
            scores = [spread([run["metrics"][split][score] for run in found]) for split in splits(grid)]
            scores += [
                spread([fmean(run["metrics"]["test"][key] for key in keys) for run in found])
                for keys in groups.values()
            ]
            seconds, peak = fmean(run["seconds"] for run in found), max(run["peak_bytes"] for run in found)
            cells = [name, *scores, len(found), f"{found[0]['trainable']:,}", f"{seconds:.0f}"]
            cells.append(f"{peak / 2**20:.0f}" if peak else "")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def splits(grid: dict[str, Any]) -> list[str]:
    """The splits of the table: val, and what is evaluated at the end."""
    return ["val", *grid.get("evaluate", ("test",))]


def spread(values: list[float]) -> str:
    """``68.2`` or ``68.2 ± 0.7``."""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
