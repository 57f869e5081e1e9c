"""Train methods on the demo of each task; what is in the record already is not trained again.

    python docs/benchmarks/demo.py --out FILE.json [--tasks ave avar] [--methods copl stfp] [--seeds 0 1 2] [--table]

By default all installed methods on all tasks that have a demo, and but for masks what one stream alone reaches
with the task's head, as ``pictures alone`` and ``sound alone``. Each method is measured on test with each clip's own
sound, with another clip's, without sound and without pictures, and beside it the head alone, trained with the same
recipe. The best epoch is selected on val. The record is written after every run, so that the command may be stopped
and given again; ``--table`` prints its tables, which index.md has, and trains nothing. ``--set`` adds what
differs from machine to machine, and is not part of the record.
"""

import argparse
import json
import shutil
import wave
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from records import spread

import avcore
from avcore.config import recipes_of
from avcore.config.leaves import flatten
from avcore.data.cache import cache_home
from avcore.engine.files import write_json
from avcore.registry import Registry, load_registry
from avcore.specs import resolve

SPLITS = {
    "own sound": "test",
    "another's": "test_swapped",
    "no sound": "test_mute_audio",
    "no pictures": "test_mute_visual",
}
ALONE = {"pictures alone": "visual", "sound alone": "audio"}
BOTH = "avqa"
"""The task whose head takes both streams: for one alone all sounds are silent or all pictures grey, in training too."""


def main() -> None:
    """Train what is missing, then print the tables."""
    registry = load_registry()
    demos = [task for task in registry.tasks.names() if (data := registry.default_dataset(task)) and data.demo]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=demos, default=demos)
    parser.add_argument("--methods", nargs="+", default=[*registry.methods.names(), *ALONE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    runs: list[dict[str, Any]] = json.loads(given.out.read_text())["runs"] if given.out.is_file() else []
    scores = {task: resolve(registry.tasks[task].build).score for task in given.tasks}
    wanted = [
        {"task": task, "row": row, "seed": seed}
        for seed in given.seeds
        for task in given.tasks
        for row in given.methods
        if fits(registry, row, task)
    ]
    for one in [] if given.table else wanted:
        if not any(one.items() <= done.items() for done in runs):
            print(*one.values(), flush=True)
            with TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                row = row_of(one["row"], one["task"], Path(folder))
                data = row.pop("data", None)
                runs.append(one | alone.submit(one_run, row, one["task"], one["seed"], data, given.sets).result())
            write_json(given.out, {"runs": runs})
    for task, score in scores.items():
        if found := [run for run in runs if run["task"] == task]:
            print(f"\n{table(found, f'`{task}`, `{score}`', score, [*ALONE, 'none', *registry.methods.names()])}")


def one_run(row: dict[str, Any], task: str, seed: int, data: Path | None, sets: list[str]) -> dict[str, Any]:
    """Train and evaluate once; what the record says of it."""
    evaluate = ",".join(row.get("evaluate", SPLITS.values()))
    with TemporaryDirectory() as folder:
        run = avcore.run(
            row["method"],
            task=task,
            data=data,
            streams=row.get("streams"),
            seed=seed,
            out=Path(folder) / "run",
            set=(*row["set"], f"train.evaluate=[{evaluate}]", *sets),
        )
    results = run.results
    return {
        "metrics": results.metrics,
        **({} if results.baseline is None else {"baseline": results.baseline}),
        "trainable": results.params["trainable"],
        "parts": {name: part["trainable"] for name, part in results.params["parts"].items() if part["trainable"]},
        "seconds": round(results.seconds),
        "peak_bytes": results.peak_bytes,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("avcore", "torch", "timm")},
    }


def fits(registry: Registry, name: str, task: str) -> bool:
    """Whether a row is for a task."""
    learns = not registry.heads[registry.tasks[task].head].untrained
    if name in ALONE:
        # A mask needs a picture, and its decoder has more to listen with where it stands alone.
        return learns and not task.startswith("avs")
    if name == "none":
        return learns
    # A method that brings a head is for the tasks of its recipes.
    method = registry.methods[name]
    return "head.name" not in flatten(method.defaults) or (task, None) in recipes_of(method)


def row_of(name: str, task: str, folder: Path) -> dict[str, Any]:
    """What `one_run` takes for a method, or for the head on one stream, and its data if they are others."""
    if name not in ALONE:
        return {"method": name, "set": []}
    row = {"method": "none", "evaluate": ["test"], "set": ["baseline=false"]}
    if task != BOTH:
        return {**row, "streams": ALONE[name]}
    demo = load_registry().default_dataset(task)
    assert demo is not None
    shutil.copytree(resolve(demo.provide)(task, cache_home()), folder / "data")
    for file in (folder / "data").rglob("*.wav" if ALONE[name] == "visual" else "*.jpg"):
        mute(file)
    return {**row, "data": folder / "data", "set": [*row["set"], f"data.dataset={demo.name}"]}


def mute(file: Path) -> None:
    """Make a sound silent, a picture grey."""
    if file.suffix == ".jpg":
        with Image.open(file) as picture:
            grey = Image.new("RGB", picture.size, (128, 128, 128))
        grey.save(file)
        return
    with wave.open(str(file)) as sound:
        parameters = sound.getparams()
    with wave.open(str(file), "wb") as sound:
        sound.setparams(parameters)
        sound.writeframes(bytes(parameters.nframes * parameters.sampwidth * parameters.nchannels))


def table(runs: list[dict[str, Any]], title: str, score: str, order: list[str]) -> str:
    """The runs of a task in Markdown: means over seeds, with the standard deviation where there are several."""
    titles = [title, *SPLITS, "head alone", "seeds", "trained"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in sorted({run["row"] for run in runs}, key=order.index):
        found = [run for run in runs if run["row"] == name]
        own = [mean([run["metrics"].get(split, {}).get(score) for run in found]) for split in SPLITS.values()]
        head = mean([run.get("baseline", {}).get("test", {}).get(score) for run in found])
        cells = [name, *own, head, str(len(found)), f"{found[0]['trainable']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean(values: list[float | None]) -> str:
    """As `records.spread`; nothing where there is no value."""
    there = [value for value in values if value is not None]
    return spread(there) if there else ""


if __name__ == "__main__":
    main()
