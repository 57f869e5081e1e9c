"""Whether a step waits for its clips: training steps on clips in memory beside the same steps with the loader.

The clips are decoded once for each backbone, in a cache that goes again, and then read from it; passes with clips in
memory, with the loader in the process and with a loader process alternate, and the median counts. Steps are on one
thread, and timed by the processor, so that what else the machine does counts for little::

    OMP_NUM_THREADS=1 python docs/benchmarks/loader.py --data AVE_Dataset --out docs/benchmarks/loader.json
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

import avcore
from avcore.engine.records import commit_of, versions
from avcore.model import AVModel
from avcore.states import parameter_groups
from avcore.tasks import Batch

METHOD = "copl"
WORKERS = (0, 1)
CLIPS = 4


def opened(visual: str, method: str, root: Path | None, cache: Path, workers: int, *sets: str) -> tuple[AVModel, Any]:
    """A model with random weights and its training loader."""
    given = [f"train.batch_size={CLIPS}", f"data.workers={workers}", f"data.cache={cache}", "train.precision=fp32"]
    given += [f"data.root={root}", "data.dataset=ave"] if root else ["data.dataset=demo-ave"]
    given += ["visual.weights=random"] if visual != "demo_vit" else []
    model = avcore.create_model(method, task="ave", visual=visual, set=[*given, *sets])
    return model, avcore.open_data(model).loader("train", train=True)


class Training:
    """Steps of Adam on whatever is trained."""

    def __init__(self, model: AVModel) -> None:
        self.model = model.train()
        trained = [one for group in parameter_groups(model).values() for _, one in group]
        self.adam = torch.optim.Adam(trained, lr=1e-4)

    def clips_per_core_second(self, batches: Iterable[Batch]) -> float:
        """Clips that a pass over batches takes in a second of this process's time on a core."""
        begin, clips = time.process_time(), 0
        for batch in batches:
            self.adam.zero_grad()
            self.model.loss(self.model(batch), batch).backward()
            self.adam.step()
            clips += len(batch)
        return clips / (time.process_time() - begin)


def reading(batches: Iterable[Batch]) -> dict[str, float]:
    """Clips that a loader gives in a second, of the clock and of this process's time on a core."""
    begin, core = time.perf_counter(), time.process_time()
    clips = sum(len(batch) for batch in batches)
    return {
        "clips_per_s": clips / (time.perf_counter() - begin),
        "clips_per_core_second": clips / (time.process_time() - core),
    }


def compare(visual: str, root: Path | None, cache: Path, *, batches: int, passes: int) -> dict[str, Any]:
    """A row: what a method on a backbone trains with clips in memory and with the loader."""
    model, alone = opened(visual, METHOD, root, cache, 0)
    decoding = reading(alone)
    reading(alone)  # checks what it meets for the first time
    warm = reading(alone)
    in_memory, training = list(islice(alone, batches)), Training(model)
    loaders = {workers: opened(visual, METHOD, root, cache, workers)[1] for workers in WORKERS}
    found: dict[str, list[float]] = {"memory": [], **{f"{workers} workers": [] for workers in WORKERS}}
    training.clips_per_core_second(in_memory)
    for loader in loaders.values():
        for _ in range(1 + loader._workers):  # each process checks what it meets for the first time
            reading(loader)
    for _ in range(passes):
        found["memory"].append(training.clips_per_core_second(in_memory))
        for workers, loader in loaders.items():
            found[f"{workers} workers"].append(training.clips_per_core_second(islice(loader, batches)))
    for loader in loaders.values():
        loader.close()
    rates = {name: median(each) for name, each in found.items()}
    return {
        "visual": visual,
        "method": METHOD,
        "clips": CLIPS,
        "pictures_px": model.image and model.image.size,
        "decoding": decoding,
        "warm_cache": warm,
        "training_clips_per_core_second": rates,
        "share_of_memory": {name: rate / rates["memory"] for name, rate in rates.items() if name != "memory"},
    }


def head_alone(visual: str, root: Path | None, cache: Path, *, batches: int, passes: int) -> dict[str, Any]:
    """A row: the head alone, with its features made in each step and from the disk."""
    rates: dict[str, list[float]] = {}
    ways = {}
    for kept in ("false", "true"):
        model, loader = opened(visual, "none", root, cache, 0, f"data.cache_features={kept}")
        ways[kept] = (Training(model), loader)
        with torch.no_grad():
            for batch in loader if kept == "true" else ():
                model(batch)
    for _ in range(passes):
        for kept, (training, loader) in ways.items():
            rates.setdefault(kept, []).append(training.clips_per_core_second(islice(loader, batches)))
    held = sum(file.stat().st_size for file in (cache / "features").rglob("*.safetensors"))
    return {
        "visual": visual,
        "method": "none",
        "training_clips_per_core_second": {f"cache_features={kept}": median(each) for kept, each in rates.items()},
        "features_bytes_per_clip": held // len(ways["true"][1].clips),
    }


def processor() -> str:
    """The name of the processor, where Linux tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Measure, and write as far as it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of AVE; the demo without it")
    parser.add_argument("--visual", nargs="+", default=["demo_vit"], help="backbones")
    parser.add_argument("--batches", type=int, default=8, help="steps of a pass")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    record: dict[str, Any] = {
        "versions": versions(),
        "device": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "commit": commit_of(Path(__file__).parent),
        "data": "AVE" if given.data else "demo-ave",
        "rows": [],
    }
    steps = {"batches": given.batches, "passes": given.passes}
    record |= steps
    for visual in given.visual:
        with tempfile.TemporaryDirectory(prefix="avcore-loader-") as cache:
            for row in (compare, head_alone):
                record["rows"].append(row(visual, given.data, Path(cache), **steps))
                given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
                print(json.dumps(record["rows"][-1], indent=2), flush=True)


if __name__ == "__main__":
    main()
