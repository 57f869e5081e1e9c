"""Whether avcore computes on a GPU what it computes elsewhere, and how fast and in how much memory it does.

    python docs/benchmarks/gpu.py --out gpu.json
    python docs/benchmarks/gpu.py --out dry.json --dry-run

First checks, then rows in order of importance, each written as soon as it is done, until ``--minutes`` are over; what
was not reached is listed. ``--dry-run`` does all of it on the CPU at small width. Needs a checkout: pytest, and the
tests of which it takes models and batches. Random weights, noise, no network.
"""

import argparse
import gc
import importlib.util
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

# Read by cuBLAS when CUDA starts; without it no product repeats bit for bit.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from avcore import create_model
from avcore.bench import bench_step
from avcore.bench.counting import Counting
from avcore.bench.record import about
from avcore.config import RunConfig, resolve_config
from avcore.engine.files import write_json
from avcore.engine.optim import Rates, build_optimizer
from avcore.engine.randomness import determinism, isolated_randomness
from avcore.engine.step import TrainStep
from avcore.registry import Registry, load_registry
from avcore.states import load_trainable_state, parameter_groups, trainable_state
from avcore.tasks import Batch
from avcore.testing import make_batch

ROOT = Path(__file__).parents[2]
VIT_B, VIT_L, CLIP = "vit_base_patch16_224", "vit_large_patch16_224", "vit_large_patch14_clip_quickgelu_224.openai"
SWIN, HTSAT = "swinv2_large_window12_192", "htsat"
SMALL = {VIT_B: "demo_vit", VIT_L: "demo_vit", CLIP: "demo_vit", SWIN: "test_swinv2", HTSAT: "test_htsat"}
"""Backbones of a dry run."""
SINGLE = 5e-3
"""How far float32 may be from a golden case, of its largest value: five times what it is on a CPU, since devices add up
in other orders. What is wrong shows in float64, whose bound is that of the tests."""

Found = dict[str, Any]


class OutOfTime(BaseException):  # no Exception, so that no row takes it for its own failure
    """The minutes are over."""


# ----------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """What is measured: a training step and an evaluation of a method on AVE, and of its bare backbone."""

    method: str
    visual: str
    clips: int
    precision: str = "bf16"
    memory: str = "fast"
    compile: str = "off"
    recipe: str | None = None
    audio: str | None = None

    @property
    def name(self) -> str:
        """How the record calls it."""
        sound = f"+{self.audio}" if self.audio else ""
        return f"{self.method} {self.visual}{sound} B={self.clips} {self.precision} {self.memory} {self.compile}"

    def config(self, registry: Registry, device: str, *, small: bool) -> RunConfig:
        """The run that it is a step of."""
        sets = [f"train.precision={self.precision}", f"train.memory={self.memory}", f"train.compile='{self.compile}'"]
        visual, audio = self.visual, self.audio
        if small:
            visual, audio = SMALL[visual], audio and SMALL[audio]
            sets += ["data.segments=2", "data.clip_seconds=2.0"]
            if visual == "test_swinv2" and audio is None:
                sets += ["audio.mel_bins=64", "audio.frames=64"]
            if self.method == "dgsct":
                sets.append("head.top=2")  # segments that speak for a clip
        return resolve_config(
            registry,
            method=self.method,
            task="ave",
            recipe=self.recipe,
            visual=visual,
            audio=audio,
            sets=(*sets, "data.dataset=ave", f"device={device}"),
            need_data=False,
        ).config


lavish_swin = partial(Row, "lavish", SWIN, recipe="swin")
lavish_vit = partial(Row, "lavish", VIT_B, recipe="vit")
lavish_large = partial(Row, "lavish", VIT_L)
dgsct = partial(Row, "dgsct", SWIN, audio=HTSAT)
copl_swin = partial(Row, "copl", SWIN, recipe="swin")
copl_vit = partial(Row, "copl", VIT_B)
stfp = partial(Row, "stfp", CLIP)
stgcma = partial(Row, "stgcma", CLIP)
ladder = partial(Row, "ladder", SWIN, recipe="swin")

ROWS = (
    *(lavish_swin(8), dgsct(8), copl_swin(8), stfp(8), lavish_vit(8), lavish_vit(1), copl_vit(1), ladder(8)),
    *(lavish_swin(8, "fp32"), lavish_swin(2, "fp32"), dgsct(8, "fp32"), lavish_vit(8, "fp32"), lavish_vit(1, "fp32")),
    *(made(8, memory="low") for made in (lavish_swin, dgsct, copl_swin, stfp, lavish_vit)),
    *(lavish_vit(8, compile="blocks"), lavish_vit(1, compile="reduce-overhead"), lavish_swin(8, compile="blocks")),
    *(lavish_large(8), lavish_large(2, "fp32"), lavish_large(8, "fp32"), lavish_swin(2), dgsct(1), stgcma(1)),
    *(made(8, memory="balanced") for made in (lavish_swin, dgsct, copl_swin, stfp, lavish_vit)),
    *(copl_vit(1, compile="reduce-overhead"), copl_vit(8), copl_swin(8, compile="blocks"), stfp(8, compile="blocks")),
    *(lavish_large(2), dgsct(1, "fp32"), copl_vit(1, "fp32"), stgcma(8), stgcma(1, "fp32"), ladder(8, "fp32")),
)


def measured(row: Row, registry: Registry, device: str, *, small: bool) -> Found:
    """The record of `avcore.bench.bench_step`, with how far each measured peak is from what was estimated."""
    clips, steps, warmup = (2, 2, 1) if small else (row.clips, 10, 3)
    config = row.config(registry, device, small=small)
    record = bench_step({row.method: config}, registry, clips=clips, steps=steps, warmup=warmup)
    for one in record["rows"]:
        if "estimated_bytes" in one:
            one["estimate_off"] = one["estimated_bytes"] / one["peak_bytes"] - 1
    return {"settings": record["settings"], "rows": record["rows"]}


# --------------------------------------------------------------------------------------------------------------- checks


def module_of(path: str) -> Any:
    """A file of tests as a module."""
    spec = importlib.util.spec_from_file_location(f"of_{Path(path).parent.parent.name}_{Path(path).stem}", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def furthest(found: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference, of the largest value of the reference."""
    found, reference = found.detach().double().cpu(), reference.double().cpu()
    return float((found - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def golden(device: str) -> Found:
    """LAVISH's published models on a ViT and a Swin-V2: logits and every gradient, in float64 and in float32."""
    folder = os.environ.get("AVCORE_GOLDEN")
    if not folder:
        return {"skipped": "AVCORE_GOLDEN is not set"}
    from avcore.testing.golden import load_case

    tests, found = module_of("plugins/avcore-lavish/tests/test_golden.py"), {}
    for case in ("c5_lavish_ave_vit", "c5_lavish_ave_swin"):
        if not Path(folder, f"{case}.json").is_file():
            found[case] = {"missing": f"AVCORE_GOLDEN has no {case}.json", "ok": False}
            continue
        tensors, meta = load_case(case)
        for dtype, bound in ((torch.float64, 5e-5), (torch.float32, SINGLE)):
            with tempfile.TemporaryDirectory() as files:
                model = tests.build(meta["config"], tests.under(tensors, "weights/"), Path(files))
            gradients = tests.convert(tests.under(tensors, "grad/"), model)
            model = model.to(device, dtype).train(meta["mode"] == "train")
            given = {"visual": tensors["in/image"], "audio": tensors["in/audio"]}
            images = {stream: x.to(device, dtype).flatten(0, 1) for stream, x in given.items()}
            model.front_ends = lambda batch, images=images: images
            nothing = {"targets": {}, "names": [], "samples": torch.arange(0), "valid": torch.ones(0, dtype=torch.bool)}
            torch.backends.cudnn.allow_tf32 = False  # float32 is float32, in convolutions too
            try:
                logits = model(Batch(frames=None, waveform=None, **nothing).to(torch.device(device)))["logits"]
                logits = logits.flatten(0, 1)
                (logits * tensors["in/cotangent_logits"].to(device, dtype)).sum().backward()
            finally:
                torch.backends.cudnn.allow_tf32 = True
            own = {name: one.grad for group in parameter_groups(model).values() for name, one in group}
            off = {
                "logits": furthest(logits, tensors["out/logits"]),
                "gradients": max(
                    (own[name].detach().double().cpu() - reference.double()).abs().max().item()
                    / max(1.0, reference.abs().max().item())
                    for name, reference in gradients.items()
                ),
            }
            found[f"{case} {dtype}"] = {**off, "bound": bound, "ok": max(off.values()) <= bound}
    return found


def methods(device: str, *, small: bool) -> Found:
    """Of every method on the demo's backbone: half precision, what is recomputed, and a repetition, beside float32."""
    lean, found = module_of("tests/test_lean.py"), {}
    for method in lean.METHODS:
        run = partial(lean.found.__wrapped__, method, device=device)
        single, half = run("fp32"), run("bf16")
        off = {name: lean.away(half[at], single[at]) for at, name in enumerate(("outputs", "gradients"))}
        ok = max(off.values()) < lean.TOLERANCE
        told: Found = {"half": {**off, "bound": lean.TOLERANCE, "ok": ok}}
        for memory in ("low",) if small else ("balanced", "low"):
            other = run("fp32", memory)
            told[f"memory={memory}"] = same(other, single, bound=1e-4)
        told["deterministic"] = repeated(lambda run=run: same(run("fp32"), run("fp32"), bound=0.0))
        found[method] = told
    return found


def same(these: Sequence[Found], those: Sequence[Found], *, bound: float) -> Found:
    """Whether features, gradients and statistics are equal, and the largest difference."""
    pairs = [(one[name], other[name]) for one, other in zip(these, those, strict=True) for name in other]
    off = max(furthest(one, other) for one, other in pairs)
    return {"equal": all(torch.equal(*pair) for pair in pairs), "off": off, "bound": bound, "ok": off <= bound}


def repeated(compare: Callable[[], Found]) -> Found:
    """What a comparison finds under deterministic algorithms, or the operators for which torch says it has none."""
    try:
        with determinism(True):
            return compare()
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            found = compare()
        finally:
            torch.use_deterministic_algorithms(False)
    lines = (str(one.message).splitlines()[0] for one in said)
    without = {line.partition(". ")[0] for line in lines if "deterministic" in line}
    # Told, not held against avcore.
    return {**found, "without": sorted(without), "ok": True}


def resume(device: str) -> Found:
    """Four steps, and two steps whose trained tensors and optimiser go on in another model for two more."""

    def compare() -> Found:
        straight, _ = trained(device, 0, 4, None)
        _, saved = trained(device, 0, 2, None)
        halves, _ = trained(device, 2, 4, saved)
        return same((halves,), (straight,), bound=0.0)

    with isolated_randomness():
        return repeated(compare)


def trained(device: str, first: int, last: int, saved: Found | None) -> tuple[Found, Found]:
    """CoPL on the demo's backbone after some steps: its trained tensors, and these with the optimiser's state."""
    sets = ("data.dataset=demo-ave", "data.segments=2", "data.clip_seconds=2.0")
    model = create_model("copl", task="ave", visual="demo_vit", set=sets).train()
    batch = module_of("tests/test_lean.py").lively(make_batch(model, 2))
    model.to(device)
    optim = model.config.optim
    optimizer = build_optimizer(parameter_groups(model), optim)
    if saved is not None:
        load_trainable_state(model, saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    rates = Rates(optimizer, optim, steps_per_epoch=2, epochs=2)
    step = TrainStep(model, optimizer, rates, clip_norm=optim.clip_norm, device=torch.device(device))
    for index in range(first, last):
        step([batch], step=index, epoch=index // 2)
    state = {name: value.detach().cpu().clone() for name, value in trainable_state(model).items()}
    return state, {"model": state, "optimizer": optimizer.state_dict()}


def attention(device: str, registry: Registry, *, small: bool) -> Found:
    """Which kernels of attention run, on a ViT and on a Swin-V2, in both precisions."""
    from avcore.bench.step import noise, with_random_weights
    from avcore.runs.base import build_model

    found: Found = {}
    for row in (copl_vit(1), copl_vit(1, "fp32"), copl_swin(1), copl_swin(1, "fp32")):
        model = build_model(with_random_weights(row.config(registry, device, small=small)), registry).train()
        batch = noise(model, 1).to(torch.device(device))
        with Counting() as counting:
            output = model(batch)
            sum(model.losses(output, batch).values(), start=torch.zeros((), device=device)).backward()
        counted = sum(counting.kernels.values(), start=Counter())
        found[row.name] = {name: count for name, count in counted.items() if "attention" in name}
    return found


def passed(found: Any) -> bool:
    """Whether no check in a record says that it is not ok."""
    return not isinstance(found, dict) or (found.get("ok", True) and all(map(passed, found.values())))


# -------------------------------------------------------------------------------------------------------------- measure


def attempt(what: Callable[[], Found]) -> Found:
    """What it finds and how long it took, or why it failed."""
    begin = time.perf_counter()
    try:
        found = what()
    except Exception as error:  # whatever one does, the others are measured
        lines = str(error).strip().splitlines() or [""]
        found = {"failed": f"{type(error).__name__}: {lines[0]}"}
    return {**found, "seconds": round(time.perf_counter() - begin, 1)}


def collect(
    jobs: Sequence[tuple[str, str, Callable[[], Found]]], record: Found, write: Callable[[Found], None], device: str
) -> bool:
    """Do one job after the other; the record is written after each.

    Args:
        jobs: ``checks`` or ``rows``, name, what finds it.
        record: what is known before; what is found goes into it.
        write: keeps a record.
        device: where they run.

    Returns:
        Whether every job that was reached came to its end and every check passed.
    """
    record |= {"checks": {}, "rows": {}, "left_out": [name for _, name, _ in jobs], "ended": "killed"}
    ended = "done"
    for kind, name, job in jobs:
        try:
            found = attempt(job)
        except OutOfTime:
            ended = "out of time"
            break
        record[kind][name] = found
        record["left_out"].remove(name)
        told = found.get("failed") or ("ok" if passed(found) else "NOT AS IT SHOULD BE")
        print(f"{name}: {told}, {found['seconds']} s", flush=True)
        write(record)
        if fault := freed(device):
            ended = f"the device is lost: {fault}"
            break
    record["ended"] = ended
    write(record)
    done = [*record["checks"].values(), *record["rows"].values()]
    return not ended.startswith("the device") and all("failed" not in one and passed(one) for one in done)


def freed(device: str) -> str:
    """Give back what the last job held; says why the device can no longer be used, if so."""
    torch._dynamo.reset()
    gc.collect()
    if not device.startswith("cuda"):
        return ""
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError as error:  # an illegal access, after which nothing runs
        return str(error).splitlines()[0]
    return ""


def jobs_of(registry: Registry, device: str, *, small: bool) -> list[tuple[str, str, Callable[[], Found]]]:
    """All checks, then all rows; at small width those that differ in size alone once, and none that is compiled."""
    # Tests compile every method on the CPU, where a graph takes most of a minute.
    kept = [row for row in ROWS if not small or row.compile == "off"]
    rows = {replace(row, visual=SMALL[row.visual], clips=2) if small else row: row for row in reversed(kept)}
    return [
        ("checks", "attention", partial(attention, device, registry, small=small)),
        ("checks", "golden", partial(golden, device)),
        ("checks", "methods", partial(methods, device, small=small)),
        ("checks", "resume", partial(resume, device)),
        *(("rows", row.name, partial(measured, row, registry, device, small=small)) for row in reversed(rows.values())),
    ]


def main() -> None:
    """Check, measure, write; ends with 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="record, written after each check and each row")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which it stops (10)")
    parser.add_argument("--device", default="cuda", help="cuda, or cuda:N")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at small width, two steps")
    given = parser.parse_args()
    small, device = given.dry_run, "cpu" if given.dry_run else given.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device here. --dry-run tries everything on the CPU, at small width.")

    def stop(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * given.minutes)
    settings = {"small": small, "minutes": given.minutes}
    record = about("gpu", torch.device(device), settings)
    jobs = jobs_of(load_registry(), device, small=small)
    good = collect(jobs, record, partial(write_json, given.out), device)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"{record['ended']}; {len(record['left_out'])} left out; {given.out}")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
