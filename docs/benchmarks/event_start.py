"""What untrained parts do to frozen features: a ridge probe on a small set in AVE's layout, before any training.

    python docs/benchmarks/event_start.py DATA WEIGHTS --out FILE.json

DATA is in AVE's layout; WEIGHTS is a file for timm's ``vit_tiny_patch16_224``. For each row the pooled vectors of both
streams go to a ridge classifier of seconds, fitted on train, its strength chosen on val. Prompt rows start at random
values, which the frozen attention takes for tokens: the difference to ``no parts`` is what training has to make good.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import avcore
from avcore.runs import open_data

ROWS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "no parts": ("none", None, ()),
    "CoPL": ("copl", None, ()),
    "CoPL without coupling": ("copl", "none", ()),
    "CoPL, biases -4": ("copl", None, ("parts.copl.rows.row_bias=-4", "parts.copl.coupling.row_bias=-4")),
    "AV-STFP": ("stfp", None, ()),
    "AV-STFP, bias -4": ("stfp", None, ("parts.stfp.spatial.row_bias=-4",)),
}
RIDGES = (1e0, 1e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4)


def main() -> None:
    """Probe every row; what is in the record already is not measured again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows: dict[str, Any] = json.loads(given.out.read_text())["accuracy"] if given.out.is_file() else {}
    for name in ROWS:
        if name not in rows:
            rows[name] = probe(given, name)
            print(name, rows[name], flush=True)
            versions = {package: version(package) for package in ("avcore", "torch", "timm")}
            record = {"accuracy": rows, "precision": "bf16", "seed": 0, "device": "cpu", "versions": versions}
            given.out.write_text(json.dumps(record, indent=1) + "\n")


def probe(given: argparse.Namespace, name: str) -> dict[str, float]:
    """Accuracy of seconds on val and test, %, and the strength of the ridge."""
    splits = features(given, name)
    best = max((ridge(splits, strength) | {"ridge": strength} for strength in RIDGES), key=lambda found: found["val"])
    return {key: round(value, 1) for key, value in best.items()}


def features(given: argparse.Namespace, name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Pooled vectors of both streams and the class of every second, for each split."""
    method, fusion, settings = ROWS[name]
    model = avcore.create_model(
        method,
        task="ave",
        fusions=fusion,
        visual="vit_tiny_patch16_224",
        set=(
            f"data.root={given.data}",
            "data.dataset=ave",
            f"visual.weights={given.weights}",
            *("visual.image_mean=null", "visual.image_std=null", "head.first=audio", "head.loss=cross_entropy"),
            *settings,
        ),
    ).eval()
    model.towers.to(torch.bfloat16)
    data, splits = open_data(model), {}
    with torch.inference_mode():
        for split in ("train", "val", "test"):
            vectors, classes = [], []
            for batch in data.loader(split):
                found = model.features(batch)
                both = [found.stream(stream).pooled[batch.valid].flatten(0, 1) for stream in ("visual", "audio")]
                vectors.append(torch.cat(both, -1).float())
                classes.append(batch.targets["labels"][batch.valid].flatten())
            splits[split] = torch.cat(vectors), torch.cat(classes)
    return splits


def ridge(splits: dict[str, tuple[Tensor, Tensor]], strength: float) -> dict[str, float]:
    """Least squares on one-hot classes of standardised vectors."""
    x, classes = splits["train"]
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / deviation
    targets = F.one_hot(classes).float()
    weight = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]), x.T @ (targets - targets.mean(0)))
    scores = {}
    for split in ("val", "test"):
        x, classes = splits[split]
        guessed = ((x - mean) / deviation @ weight + targets.mean(0)).argmax(1)
        scores[split] = 100 * (guessed == classes).float().mean().item()
    return scores


if __name__ == "__main__":
    main()
