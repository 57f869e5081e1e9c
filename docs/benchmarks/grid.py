"""Run a grid of methods, seeds and settings, one after the other; what is in the record already is not run again.

    python docs/benchmarks/grid.py GRID.yaml [--data DATA] --out FILE.json [--set KEY=VALUE ...]

A grid names the task, what all runs share (``visual``, ``epochs``, ``set``), the ``seeds``, and its ``rows``: a name,
and what `avcore.run` takes (``method``, ``prompts``, ``fusions``, ``streams``, ``text``, further ``set``). The best
epoch is selected on val; test, or the splits that ``evaluate`` names, are evaluated once. A row with
``zero_shot: true`` is not trained, and so has no seeds. ``groups`` are further columns: a name, and the scores of test
it is the mean of. Without ``--data`` all run on the task's demo. ``--set`` adds what differs from machine to machine
(files of weights, the clip cache), and is not part of the record. The record is written after every run, so that the
command may be stopped and given again. Every run is a process of its own, and so is its peak of memory.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import yaml

import avcore
from avcore.engine.files import write_json


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    given = parser.parse_args()
    grid = yaml.safe_load(given.grid.read_text())
    runs: list[dict[str, Any]] = json.loads(given.out.read_text())["runs"] if given.out.is_file() else []
    for seed in grid["seeds"]:
        for name, row in grid["rows"].items():
            if row.get("zero_shot") and seed != grid["seeds"][0]:
                continue
            settings = [*grid.get("set", ()), *row.get("set", ())]
            wanted = {"row": name, "seed": seed, "epochs": grid["epochs"], "settings": settings}
            if not any(wanted.items() <= done.items() for done in runs):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                    runs.append(wanted | alone.submit(one_run, grid, row, settings, seed, given).result())
                write_json(given.out, {"task": grid["task"], "score": grid["score"], "runs": runs})
    print(table(runs, grid))


def one_run(grid: dict[str, Any], row: dict[str, Any], settings: list[str], seed: int, given: Any) -> dict[str, Any]:
    """Train and evaluate once; what the record says of it."""
    if row.get("zero_shot"):
        return untrained(grid, row, settings, given)
    chosen = {key: row[key] for key in ("prompts", "fusions", "streams", "text") if key in row}
    with tempfile.TemporaryDirectory() as folder:
        run = avcore.run(
            row["method"],
            task=grid["task"],
            data=given.data,
            visual=grid.get("visual"),
            epochs=grid.get("epochs"),
            seed=seed,
            out=Path(folder) / "run",
            set=(*settings, f"train.evaluate={splits({**grid, **row})[1:]}".replace("'", ""), *given.sets),
            **chosen,
        )
    results = run.results
    return {
        "metrics": results.metrics,
        **({} if results.baseline is None else {"baseline": results.baseline}),
        "trainable": results.params["trainable"],
        "parts": {name: part["trainable"] for name, part in results.params["parts"].items() if part["trainable"]},
        "seconds": round(results.seconds),
        "peak_bytes": results.peak_bytes,
        **surroundings(),
    }


def untrained(grid: dict[str, Any], row: dict[str, Any], settings: list[str], given: Any) -> dict[str, Any]:
    """The same of frozen backbones and names of classes."""
    run = avcore.zero_shot(
        task=grid["task"],
        data=given.data,
        visual=grid.get("visual"),
        text=row.get("text"),
        streams=row.get("streams", "both"),
        set=(*settings, *given.sets),
    )
    begun = time.perf_counter()
    metrics = {split: run.evaluate(split) for split in splits(grid)}
    seconds = round(time.perf_counter() - begun)
    return {"metrics": metrics, "trainable": 0, "parts": {}, "seconds": seconds, "peak_bytes": 0, **surroundings()}


def surroundings() -> dict[str, Any]:
    """What figures may depend on."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("avcore", "torch", "timm")},
    }


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


if __name__ == "__main__":
    main()
