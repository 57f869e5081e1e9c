"""k clips of each class of a small set in AVE's layout, named from frozen features: by the nearest mean, and linearly.

    python docs/benchmarks/fewshot_mini.py DATA WEIGHTS --out FILE.json
    python docs/benchmarks/fewshot_mini.py --table --out FILE.json

WEIGHTS is a file for timm's ``vit_tiny_patch16_224``, which reads pictures and the log-mel pictures of the sound.
Features of all clips are made once: the class token and the mean token behind the last block, means over the ten
seconds. Each draw of k training clips is one run; what there is to choose, the strength of the ridge, is chosen on val,
and test is read once. No encoder here knows words, so that no row is zero-shot.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import avcore
from avcore.runs import open_data
from avcore_fewshot.config import Shots
from avcore_fewshot.datasets import few

SHOTS = (1, 2, 4, 8, 16)
DRAWS = range(10)
RIDGES = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
INPUTS = {"pictures": ("visual",), "sound": ("audio",), "both": ("visual", "audio")}
EVERY = 10_000
"""As many shots as there are clips."""


def main() -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        given.out.write_text(json.dumps(measured(given.data, given.weights), indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(given.out.read_text(encoding="utf-8"))))


def measured(data: Path, weights: Path) -> dict[str, Any]:
    """The record: accuracy on test, percent, of every draw."""
    model = avcore.create_model(
        "none",
        task="fewshot",
        visual="vit_tiny_patch16_224",
        set=(
            f"data.root={data}",
            f"data.shots={EVERY}",
            f"visual.weights={weights}",
            "head.name=avar.linear",
            "train.eval_batch_size=8",
        ),
    ).eval()
    source = open_data(model)
    found = {split: collect(model, source, split) for split in ("train", "val", "test")}
    clips, classes = source.dataset.clips("train"), len(model.task.classes)
    places = {clip.name: place for place, clip in enumerate(clips)}
    rows: list[dict[str, Any]] = []
    for k in (*SHOTS, EVERY):
        for inputs, streams in INPUTS.items():
            scores: dict[str, list[float]] = {"nearest_mean": [], "linear": []}
            for draw in DRAWS if k != EVERY else (0,):
                kept = [places[clip.name] for clip in few(clips, Shots(shots=k, shot_seed=draw))]
                train, val, test = (joined(found[split], streams) for split in found)
                train = {key: value[kept] for key, value in train.items()}
                scores["nearest_mean"].append(right(nearest(train, test["x"], classes), test))
                strength = max(RIDGES, key=lambda one: right(ridge(train, val["x"], classes, one), val))
                scores["linear"].append(right(ridge(train, test["x"], classes, strength), test))
            rows.append({"shots": None if k == EVERY else k, "inputs": inputs, **scores})
    return {
        "what": "accuracy on test, percent, of each draw of k clips of each class",
        "classes": classes,
        "clips": {split: len(one["label"]) for split, one in found.items()},
        "rows": rows,
        "versions": {name: version(name) for name in ("avcore", "torch", "timm")},
        "device": "cpu",
    }


@torch.no_grad()
def collect(model: avcore.AVModel, source: Any, split: str) -> dict[str, Tensor]:
    """Of the clips of a split, in their order: features of each stream, and their classes."""
    rows: dict[str, list[Tensor]] = {}
    for batch in source.loader(split):
        features = model.features(batch)
        for name in ("visual", "audio"):
            tokens = features.stream(name).tokens
            seen = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1).unflatten(0, (len(batch), -1)).mean(1)
            rows.setdefault(name, []).append(seen[batch.valid])
        rows.setdefault("label", []).append(batch.targets["label"][batch.valid])
    return {name: torch.cat(parts) for name, parts in rows.items()}


def joined(found: dict[str, Tensor], streams: tuple[str, ...]) -> dict[str, Tensor]:
    """Features side by side, each of length 1."""
    parts = [F.normalize(found[name], dim=-1) for name in streams]
    return {"x": torch.cat(parts, -1), "label": found["label"]}


def scaled(train: dict[str, Tensor], other: Tensor) -> tuple[Tensor, Tensor]:
    """Both around the mean of the training clips, in units of their deviation."""
    mean, deviation = train["x"].mean(0), train["x"].std(0) + 1e-6
    return (train["x"] - mean) / deviation, (other - mean) / deviation


def nearest(train: dict[str, Tensor], other: Tensor, classes: int) -> Tensor:
    """Cosines with the mean of each class."""
    x, z = scaled(train, other)
    means = torch.stack([x[train["label"] == index].mean(0) for index in range(classes)])
    return F.normalize(z, dim=-1) @ F.normalize(means, dim=-1).T


def ridge(train: dict[str, Tensor], other: Tensor, classes: int, strength: float) -> Tensor:
    """Scores of a ridge regression onto the classes."""
    x, z = scaled(train, other)
    truth = F.one_hot(train["label"], classes).float() - 1 / classes
    return z @ x.T @ torch.linalg.solve(x @ x.T + strength * torch.eye(len(x)), truth)


def right(scores: Tensor, test: dict[str, Tensor]) -> float:
    """Percent of right names."""
    return round(100 * (scores.argmax(1) == test["label"]).float().mean().item(), 2)


def table(record: dict[str, Any]) -> str:
    """Mean and deviation over the draws, a column for each k; in the last all clips of train."""
    shots = list(dict.fromkeys(row["shots"] for row in record["rows"]))
    head = ["test, percent", *(f"k = {k}" if k else "all" for k in shots)]
    lines = [head, ["---"] * len(head)]
    for inputs in INPUTS:
        for key, name in (("nearest_mean", "nearest mean"), ("linear", "linear")):
            cells = [one(row[key]) for row in record["rows"] if row["inputs"] == inputs]
            lines.append([f"{inputs}, {name}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


def one(values: list[float]) -> str:
    """A cell."""
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    main()
