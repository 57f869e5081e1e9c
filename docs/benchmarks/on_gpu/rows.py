"""What is measured on a GPU, in order of importance, and how long it should take."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from avcore.bench import bench_step
from avcore.bench.bare import bare_of
from avcore.bench.estimate import Estimate, estimate, shapes_of
from avcore.bench.step import with_random_weights
from avcore.config import RunConfig, resolve_config
from avcore.registry import Registry

Found = dict[str, Any]

VIT_B, VIT_L, CLIP = "vit_base_patch16_224", "vit_large_patch16_224", "vit_large_patch14_clip_quickgelu_224.openai"
SWIN, HTSAT = "swinv2_large_window12_192", "htsat"
SMALL = {VIT_B: "demo_vit", VIT_L: "demo_vit", CLIP: "demo_vit", SWIN: "test_swinv2", HTSAT: "test_htsat"}
"""Backbones of a dry run."""
DATASETS = {"ave": "ave", "avqa": "music-avqa", "avs": "avsbench-s4"}
WARMUP, STEPS = 2, 8
"""Calls of each row and of its bare backbone, in training and in evaluation; one more gives the peak."""

RATE = {"bf16": 100e12, "fp32": 20e12}
"""FLOP/s of whole steps, not compiled: what published code and bare Swin-V2-L reached on an H200 (of 790 and 50)."""
LAUNCH = 19e-6
"""s a kernel where launching is what takes the time: what published code took there on ViT-B/16."""
FILLING = 18e-9
"""s a parameter until a model with random weights stands on the CPU and is moved."""
GRAPHS = 90.0
"""s until a row's graphs are made, for training and evaluation: the bound for a start on two cores."""
CHECKS = 60.0
"""s of the checks before the rows; in float64 and small, they take on a GPU what they take on a CPU."""


@dataclass(frozen=True)
class Row:
    """What is measured: a training step and an evaluation of a method on a task, and of its bare backbone."""

    method: str
    visual: str
    clips: int
    precision: str = "bf16"
    memory: str = "fast"
    compile: str = "off"
    recipe: str | None = None
    audio: str | None = None
    task: str = "ave"

    @property
    def name(self) -> str:
        """How the record calls it."""
        backbones = f"{self.visual}+{self.audio}" if self.audio else self.visual
        return f"{self.method} {self.task} {backbones} B={self.clips} {self.precision} {self.memory} {self.compile}"

    @property
    def model(self) -> tuple[Any, ...]:
        """What is the same for rows that differ in batch, precision, memory or compiler alone."""
        return self.method, self.task, self.visual, self.audio, self.recipe

    def config(self, registry: Registry, device: str, *, small: bool) -> RunConfig:
        """The run that it is a step of."""
        sets = [f"train.precision={self.precision}", f"train.memory={self.memory}", f"train.compile='{self.compile}'"]
        visual, audio = self.visual, self.audio
        if small:
            visual, audio = SMALL[visual], audio and SMALL[audio]
            sets += ["data.segments=2", f"data.clip_seconds={60.0 if self.task == 'avqa' else 2.0}"]
            if visual == "test_swinv2" and audio is None:
                sets += ["audio.mel_bins=64", "audio.frames=64"]
            if self.method == "dgsct":
                # Segments that speak for a clip; groups of narrow bottlenecks; a map on which sound fits.
                sets += {
                    "ave": ["head.top=2"],
                    "avqa": ["parts.dgsct.groups=2", "head.width=64", "head.match_width=32"],
                    "avs": ["head.tpavi_stages=[3]", "head.width=16", "head.output_widths=[8, 8]"],
                }[self.task]
        return resolve_config(
            registry,
            method=self.method,
            task=self.task,
            recipe=self.recipe,
            visual=visual,
            audio=audio,
            sets=(*sets, f"data.dataset={DATASETS[self.task]}", f"device={device}"),
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

LEAN = (lavish_swin, dgsct, copl_swin, stfp, lavish_vit)

ROWS = (
    # What the aims name.
    *(lavish_swin(8), dgsct(8), copl_swin(8), stfp(8), lavish_vit(8), lavish_vit(1), copl_vit(1), ladder(8)),
    # As published.
    *(lavish_swin(2, "fp32"), dgsct(8, "fp32"), lavish_vit(8, "fp32"), lavish_large(2, "fp32")),
    *(dgsct(8, "fp32", task="avqa"), dgsct(8, "fp32", task="avs"), dgsct(8, task="avqa"), dgsct(8, task="avs")),
    *(made(8, memory="low") for made in LEAN),
    *(stgcma(1), lavish_large(8), lavish_vit(1, "fp32"), copl_vit(8), lavish_swin(2), dgsct(1)),
    *(lavish_vit(1, compile="reduce-overhead"), lavish_vit(8, compile="blocks"), lavish_swin(8, compile="blocks")),
    lavish_swin(8, "fp32"),
    *(made(8, memory="balanced") for made in LEAN),
    *(copl_vit(1, "fp32"), stgcma(8), stgcma(1, "fp32"), lavish_large(2), lavish_large(8, "fp32"), ladder(8, "fp32")),
    *(copl_vit(1, compile="reduce-overhead"), copl_swin(8, compile="blocks"), stfp(8, compile="blocks")),
    # Other batches, as published.
    *(made(clips, "fp32") for clips in (1, 4, 16) for made in (dgsct, lavish_swin)),
    *(dgsct(2, "fp32"), dgsct(1, "fp32", task="avqa"), lavish_large(1, "fp32"), lavish_large(4, "fp32")),
    *(lavish_vit(2, "fp32"), lavish_vit(4, "fp32")),
)


def kept(rows: Sequence[Row], *, small: bool) -> Iterator[Row]:
    """Rows that are run: at small width each model once, each precision and each memory once, none that is compiled.

    Tests compile every method on the CPU, where a graph takes most of a minute.
    """
    seen: set[Any] = set()
    for row in rows:
        if small and row.compile != "off":
            continue
        marks = {replace(row, visual=SMALL[row.visual]).model, row.precision, row.memory}
        if not small or not marks <= seen:
            yield row
        seen |= marks


def measured(row: Row, registry: Registry, device: str, *, small: bool) -> Found:
    """The record of `avcore.bench.bench_step`, with how far each measured peak is from what was estimated."""
    clips, steps, warmup = (2, 2, 1) if small else (row.clips, STEPS, WARMUP)
    config = row.config(registry, device, small=small)
    record = bench_step({row.method: config}, registry, clips=clips, steps=steps, warmup=warmup)
    for one in record["rows"]:
        if "estimated_bytes" in one:
            one["estimate_off"] = one["estimated_bytes"] / one["peak_bytes"] - 1
    return {"settings": record["settings"], "rows": record["rows"]}


def seconds(costs: Sequence[Estimate], row: Row) -> float:
    """What all calls of a row take on the device: estimates of one clip; its batch costs more FLOP, no more kernels."""
    each = (
        max(row.clips * sum(one.flop.values()) / RATE[row.precision], sum(one.kernels.values()) * LAUNCH)
        for one in costs
    )
    return (WARMUP + 1 + STEPS) * sum(each)


def budget(rows: Sequence[Row], registry: Registry, *, small: bool = False) -> Iterator[Found]:
    """How long each row should take, one after the other.

    On the device, from FLOP and kernels by the estimator, at `RATE` and `LAUNCH`; before it, the processor time of
    what is done here as there (shapes and estimates), `FILLING` and `GRAPHS`.

    Yields:
        Of each row: name, seconds on the device and before, and from the beginning to its end.
    """
    known: dict[Any, tuple[list[Estimate], float]] = {}
    end, checked = CHECKS, False
    for row in rows:
        key = (row.model, row.memory)
        if key not in known:
            begin = time.process_time()
            config = with_random_weights(row.config(registry, "cpu", small=small))
            model = shapes_of(config, registry)
            both = (model, bare_of(model, registry))
            costs = [estimate(one, 1, training=training) for one in both for training in (True, False)]
            made = time.process_time() - begin
            known[key] = costs, made + FILLING * sum(one.numel() for one in model.parameters())
        costs, before = known[key]
        before += GRAPHS * (row.compile != "off")
        device = seconds(costs, row)
        end += before + device
        yield {"row": row.name, **asdict(row), "device_s": device, "before_s": before, "end_s": end}
        if row.compile != "off" and not checked:  # what is compiled is checked behind the first
            checked, end = True, end + GRAPHS
