"""Train on a small set of photographs and recordings in AVSBench's S4 layout, and score the clips that need listening.

    python docs/benchmarks/segmentation_mini.py DATA WEIGHTS --out FILE.json [--seed N] [--set KEY=VALUE ...]

DATA holds ``Single-source/`` and ``objects.json`` (for each clip the objects in the picture); WEIGHTS is a file for
timm's ``vit_tiny_patch16_224``. CoPL and the head alone are trained with the same settings, the best epoch is selected
on val by the score of the whole split, and the mean IoU of val and test together is taken over all clips and over
those in which an object is silent: few clips have one, and val is what selected, so n is given with every figure.
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

import avcore

SETTINGS = (
    "head.projected=[]",
    "head.width=32",
    "head.output_widths=[32,16]",
    "head.skip_unsupervised=true",
    "optim.optimizer=adamw",
    "optim.weight_decay=0.05",
    "optim.lr=5e-4",
    "optim.head_lr=5e-4",
    "optim.schedule=cosine",
    "optim.warmup_epochs=1",
    "train.batch_size=4",
    "train.eval_batch_size=10",
    "train.precision=bf16",
)


def main() -> None:
    """Train both, score both, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    given = parser.parse_args()
    described = json.loads((given.data / "objects.json").read_text())
    silent = {clip["name"] for clip in described if clip["set"] == "S4" and has_silent_object(clip)}
    rows = []
    for name, parts in (("copl", {}), ("head alone", {"prompts": "none", "fusions": "none"})):
        with tempfile.TemporaryDirectory() as folder:
            run = avcore.run(
                "copl",
                task="avs",
                data=given.data,
                visual="vit_tiny_patch16_224",
                epochs=given.epochs,
                seed=given.seed,
                out=Path(folder) / "run",
                set=(f"visual.weights={given.weights}", *SETTINGS, *given.sets),
                **parts,
            )
            rows.append(
                {
                    "trained": name,
                    "own_sound": scores(run, silent, ("val", "test")),
                    "swapped_sound": scores(run, silent, ("val_swapped", "test_swapped")),
                    "trainable": run.results.params["trainable"],
                    "seconds": round(run.results.seconds),
                    "peak_bytes": run.results.peak_bytes,
                    "metrics": run.results.metrics,
                }
            )
    record = {
        "what": "mean IoU in percent on val and test together, S4 layout, best epoch selected on val",
        "settings": [*SETTINGS, *given.sets],
        "epochs": given.epochs,
        "seed": given.seed,
        "rows": rows,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("avcore", "torch", "timm")},
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n")


def has_silent_object(clip: dict) -> bool:
    """An object is in the picture that never sounds."""
    return len({index for second in clip["sounding"] for index in second}) < len(clip["objects"])


def scores(run: avcore.Run, silent: set[str], splits: tuple[str, ...]) -> dict[str, float]:
    """Mean IoU over all clips of the splits and over those with a silent object, and how many those are."""
    every, hard = run.model.task.metrics("clean"), run.model.task.metrics("clean")
    counts = [0, 0]
    with torch.no_grad():
        for split in splits:
            for batch in run.data.loader(split):
                prediction = run.model.eval().predict(run.model(batch))
                every.update(prediction, batch)
                counts[0] += int(batch.valid.sum())
                batch.valid &= torch.tensor([name in silent for name in batch.names])
                hard.update(prediction, batch)
                counts[1] += int(batch.valid.sum())
    return {
        "all": round(every.compute()["M_J"], 2),
        "all_n": counts[0],
        "silent_object": round(hard.compute()["M_J"], 2),
        "silent_object_n": counts[1],
    }


if __name__ == "__main__":
    main()
