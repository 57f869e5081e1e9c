"""Training steps and evaluation forwards by the clock, in turn with those of the bare backbone in the same process."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from statistics import median, quantiles
from typing import Any

import torch

from avcore.bench.bare import BARE, bare_of
from avcore.bench.estimate import estimate, shapes_of
from avcore.bench.record import about, settings_of
from avcore.config import RunConfig
from avcore.data.augment import Augmentation
from avcore.engine.compiling import compile_steps
from avcore.engine.device import choose_device
from avcore.engine.optim import Rates, build_optimizer
from avcore.engine.randomness import isolated_randomness
from avcore.engine.step import TrainStep
from avcore.gradients import blank_batch
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.runs.base import build_model
from avcore.specs import STREAMS, TEXTS
from avcore.states import parameter_groups
from avcore.tasks import Batch

__all__ = ["bench_step", "noise", "with_random_weights"]

PASSES = ("training", "evaluation")


def with_random_weights(config: RunConfig) -> RunConfig:
    """The same run with backbones that need no file: what a step costs does not depend on the weights."""
    changed = {}
    for name in (*STREAMS, *TEXTS):
        stream = getattr(config, name)
        if stream.backbone is not None and any(one.name == "weights" for one in fields(stream.settings)):
            changed[name] = replace(stream, settings=replace(stream.settings, weights="random"))
    return replace(config, **changed)


def noise(model: AVModel, clips: int, *, seed: int = 0) -> Batch:
    """A batch of noise in the shapes that a model takes, on the CPU; targets and inputs are zeros."""
    draws = torch.Generator().manual_seed(seed)

    def drawn(batch: Batch) -> Batch:
        frames, sound = batch.frames, batch.waveform
        return replace(
            batch,
            frames=None if frames is None else torch.randint(0, 256, frames.shape, generator=draws, dtype=frames.dtype),
            waveform=None
            if sound is None
            else torch.randint(-9999, 9999, sound.shape, generator=draws, dtype=sound.dtype),
            companions={name: drawn(one) for name, one in batch.companions.items()},
        )

    return drawn(blank_batch(model, clips, companions=True))


class _Row:
    """A model with its optimiser and its batch, and the time of each of its calls, s.

    Args:
        name: of the row.
        model: on its device.
        shapes: the same on the meta device.
        clips: B.
        elsewhere: bytes of the device that others hold.
    """

    def __init__(self, name: str, model: AVModel, shapes: AVModel, clips: int, elsewhere: int) -> None:
        config = model.config
        self.name, self.model, self.clips = name, model, clips
        self.device = next(model.parameters()).device
        self.floor = self
        compile_steps(model, self.device)
        self.costs = {kind: estimate(shapes, clips, training=kind == "training") for kind in PASSES}
        self._elsewhere = elsewhere
        self._batch = noise(model, clips, seed=config.seed).to(self.device)
        optimizer = build_optimizer(parameter_groups(model), config.optim, config.part_scales)
        self._step = TrainStep(
            model,
            optimizer,
            Rates(optimizer, config.optim, steps_per_epoch=10_000, epochs=max(1, config.train.epochs)),
            seed=config.seed,
            clip_norm=config.optim.clip_norm,
            device=self.device,
            augment=Augmentation(model),
        )
        self._steps = 0
        self.times: dict[str, list[float]] = {}
        self._peaks: dict[str, int] = {}

    def call(self, kind: str, *, timed: bool = True) -> None:
        """One training step, or one forward for evaluation."""
        self.model.train(kind == "training")
        _wait(self.device)
        begin = time.perf_counter()
        if kind == "training":
            self._step([self._batch], step=self._steps, epoch=0)
            self._steps += 1
        else:
            with torch.no_grad():
                self.model.predict(self.model(self._batch))
        _wait(self.device)
        if timed:
            self.times.setdefault(kind, []).append(time.perf_counter() - begin)

    def warm_up(self, calls: int, passes: Sequence[str]) -> None:
        """Calls that do not count, and the peak of one more where the device tells it."""
        for kind in passes:
            for _ in range(calls):
                self.call(kind, timed=False)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
                self.call(kind, timed=False)
                self._peaks[kind] = torch.cuda.max_memory_allocated(self.device) - self._elsewhere
            self._step.optimizer.zero_grad(set_to_none=True)

    def figures(self, kind: str) -> dict[str, Any]:
        """A row of the record."""
        times, cost = self.times[kind], self.costs[kind]
        low, _, high = quantiles(times, n=4) if len(times) > 1 else times * 3
        return {
            "row": self.name,
            "pass": kind,
            "clips": self.clips,
            "ms": 1000 * median(times),
            "ms_low": 1000 * low,
            "ms_high": 1000 * high,
            "clips_per_s": self.clips / median(times),
            # Of calls that followed each other, so that what slows down both does not count.
            "of_bare": median(bare / own for own, bare in zip(times, self.floor.times[kind], strict=True)),
            "peak_bytes": self._peaks.get(kind, cost.peak),
            "peak": "measured" if kind in self._peaks else "estimated",
            **({"estimated_bytes": cost.peak} if kind in self._peaks else {}),
            "tflop": sum(cost.flop.values()) / 1e12,
            "kernels": dict(cost.kernels),
        }


def bench_step(
    configs: Mapping[str, RunConfig],
    registry: Registry,
    *,
    clips: int | None = None,
    steps: int = 20,
    warmup: int = 3,
    evaluation: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure whole training steps, and forwards for evaluation, of some runs and of their bare backbones, in turn.

    Args:
        configs: name of a row -> its run; all on one device.
        registry: where their names are looked up.
        clips: B; that of the first run when None.
        steps: calls that are timed.
        warmup: calls before them.
        evaluation: also measure forwards.
        say: told what goes on.

    Returns:
        A record: `about`, and ``rows``, one for each row and pass, the last ones those of the bare backbones.

    Raises:
        AVCoreError: a run cannot be assembled, or a loss is not finite.
    """
    first = next(iter(configs.values()))
    clips, device = clips or first.train.batch_size, choose_device(first.device)
    passes = PASSES if evaluation else PASSES[:1]
    with isolated_randomness():
        rows: list[_Row] = []
        floors: dict[str, _Row] = {}
        for name, config in configs.items():
            say(f"warming up {name}: {clips} clips on {device}")
            elsewhere, config = _allocated(device), _of_batch(with_random_weights(config), clips)
            shapes, model = shapes_of(config, registry), build_model(config, registry)
            rows.append(_Row(name, model, shapes, clips, elsewhere))
            rows[-1].warm_up(warmup, passes)
            streams = _shape_of(model)
            if streams not in floors:
                shared = sum(one.nbytes for one in model.clips.parameters() if not one.requires_grad)
                bare, of_shapes = bare_of(model, registry), bare_of(shapes, registry)
                called = f"{BARE} of {name}" if floors else BARE
                floors[streams] = _Row(called, bare, of_shapes, clips, _allocated(device) - shared)
                floors[streams].warm_up(warmup, passes)
            rows[-1].floor = floors[streams]
        rows += floors.values()
        for kind in passes:
            say(f"{kind}: {steps} calls of each, in turn")
            for _ in range(steps):
                for row in rows:
                    row.call(kind)
    settings = {**settings_of(first), "clips": clips, "steps": steps, "warmup": warmup}
    return {**about("step", device, settings), "rows": [row.figures(kind) for row in rows for kind in passes]}


def _shape_of(model: AVModel) -> str:
    """What is the same for models whose bare backbones cost the same."""
    config, sound = model.config, model.sound
    kind = (config.train.precision, config.train.memory, config.train.compile)
    pictures = None if model.image is None else model.image.shape
    heard = None if sound is None else sound.shape(model.clip_seconds)
    layouts = [stream.layout for stream in model.streams.values()]
    return repr((config.visual.backbone, config.audio.backbone, kind, layouts, pictures, heard))


def _of_batch(config: RunConfig, clips: int) -> RunConfig:
    """The same run with this batch, for which a compiler makes its graphs."""
    return replace(config, train=replace(config.train, batch_size=clips, eval_batch_size=clips))


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
