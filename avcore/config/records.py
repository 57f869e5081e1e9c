"""The configuration of a run, typed and frozen. Settings of plugins sit in it as the dataclasses of their specs."""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from avcore.config.settings import require
from avcore.config.transforms import AugmentConfig
from avcore.specs import ClipSettings, NoConfig

__all__ = ["Chosen", "DataConfig", "OptimConfig", "PlanConfig", "RunConfig", "StreamConfig", "Streams", "TrainConfig"]

Streams = Literal["visual", "audio", "both"]
PartStreams = Literal["visual", "audio", "both", "text", "text_audio"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_SHARE = re.compile(r"[01]|[01]?\.\d+")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its learning rates.

    Attributes:
        schedule: course of the learning rates after the warm-up
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # update rule; sgd takes its momentum from betas[0]
    lr: float = 1e-3  # learning rate of the parts (prompts and fusions)
    head_lr: float = 1e-4  # learning rate of the head
    betas: tuple[float, float] = (0.9, 0.999)  # decay of the running means of gradient and squared gradient
    eps: float = 1e-8  # added to the root of the squared gradient's mean
    weight_decay: float = 0.0  # L2 term of adam and sgd, decoupled decay of adamw
    schedule: Literal["constant", "step", "multistep", "cosine", "polynomial"] = "constant"
    warmup_epochs: float = 0.0  # epochs of linear rise from zero, fractions allowed
    step_epochs: int = 3  # schedule=step: epochs between two drops
    milestones: tuple[int, ...] = ()  # schedule=multistep: epochs after which the rates drop
    step_factor: float = 0.35  # schedule=step and multistep: factor of each drop
    power: float = 1.0  # schedule=polynomial: the rates fall as (1 - done) ** power, to zero
    min_lr: float = 0.0  # schedule=cosine: where the learning rates end
    clip_norm: float | None = None  # largest norm of the whole gradient; null does not clip
    accumulate: int = 1  # batches whose gradients make one step

    def __post_init__(self) -> None:
        for key in ("lr", "head_lr", "weight_decay", "warmup_epochs", "min_lr"):
            require(getattr(self, key) != math.inf, key, getattr(self, key), "finite")
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers from 0 to below 1")
        require(self.eps > 0, "eps", self.eps, "above 0")
        require(self.step_epochs >= 1, "step_epochs", self.step_epochs, "1 or more")
        rising = all(low < high for low, high in itertools.pairwise((0, *self.milestones)))
        require(
            rising, "milestones", list(self.milestones), "whole numbers of epochs from 1, each above the one before"
        )
        if self.schedule == "multistep":
            require(bool(self.milestones), "milestones", [], "given with schedule=multistep, such as [10, 15]")
        require(0 < self.power < math.inf, "power", self.power, "above 0 and finite")
        require(0 < self.step_factor <= 1, "step_factor", self.step_factor, "above 0 and at most 1")
        require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0 or null")
        require(self.accumulate >= 1, "accumulate", self.accumulate, "1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, and when to look.

    Attributes:
        average: what is evaluated and saved: the weights, or their mean over steps (ema) or over the ends of
            average_epochs
        compile: let torch.compile make one graph of each kind of block (blocks), on a GPU with CUDA graphs too, for
            small batches (reduce-overhead); auto: blocks on a GPU, off on a CPU
    """

    epochs: int = 10  # passes over the training split
    batch_size: int = 8  # clips in a training batch, of all processes together
    drop_last: bool = True  # leave out the clips of an epoch that do not fill a batch; false trains on a smaller one
    sampler: Literal["shuffle", "balanced"] = "shuffle"  # balanced: clips of rare classes are drawn more often
    balance: str | None = None  # sampler=balanced: the target that holds the classes
    eval_batch_size: int = 8  # clips in an evaluation batch, of all processes together
    precision: Literal["bf16", "fp32"] = "bf16"  # of frozen weights and activations; parts and head stay in fp32
    compile: Literal["off", "auto", "blocks", "reduce-overhead"] = "off"
    memory: Literal["fast", "balanced", "low"] = "fast"  # recomputed in the backward pass: nothing, parts, blocks too
    eval_every: int = 1  # epochs between two evaluations
    save_every: int | None = None  # steps between two checkpoints within an epoch; null: at the end of each epoch only
    log_every: int = 10  # steps between two log lines
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # transforms of pictures and log-mel in training
    average: Literal["none", "ema", "epochs"] = "none"
    average_decay: float = 0.999  # average=ema: what is left of the mean at each step
    average_epochs: tuple[int, int] | None = None  # average=epochs: the first and the last epoch of the window, from 1
    nonfinite: Literal["stop", "skip"] = "stop"  # what a loss or gradient that is not finite does; never an update
    nonfinite_limit: int = 10  # nonfinite=skip: steps of a run that may be skipped; one more stops it
    select: Literal["val", "test"] | None = None  # split that chooses the checkpoint; null: val, or test with paper
    evaluate: tuple[str, ...] = ("test",)  # splits to evaluate with the best checkpoint after training
    start: Path | None = None  # run or adapter at whose trained values this one starts, wherever names are the same

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        for key in ("batch_size", "eval_batch_size", "eval_every", "log_every", "nonfinite_limit"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(0 <= self.average_decay < 1, "average_decay", self.average_decay, "0 or more and below 1")
        if (self.average == "epochs") != (self.average_epochs is not None):
            raise ValueError("average_epochs and average=epochs go together: a window such as [8, 20]")
        if self.average_epochs is not None:
            first, last = self.average_epochs
            allowed = "the first and the last epoch of a window, counted from 1"
            require(1 <= first <= last, "average_epochs", [first, last], allowed)
        if (self.sampler == "balanced") != (self.balance is not None):
            raise ValueError(
                "balance and sampler=balanced go together: balance names the target that holds the classes"
            )
        require(self.save_every is None or self.save_every >= 1, "save_every", self.save_every, "1 or more, or null")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How the blocks of both streams run together.

    Attributes:
        pairing: which blocks run together: even (spread), last (counted from the end), odd (every second pair), or a
            list of [visual, audio], numbered from 0
    """

    atomic_audio: bool = False  # audio's attention and MLP run back to back, then what parts add beside its attention
    pairing: Literal["even", "last", "odd"] | tuple[tuple[int, int], ...] = "even"
    align_bias: bool = True  # the maps between streams of different widths have a bias


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """The backbone of one stream; None shares the visual trunk (audio), or there is no such stream (sentences)."""

    backbone: str | None = None  # name of the backbone; null: the visual one (audio), none (text, text_audio)
    settings: Any = field(default_factory=NoConfig)  # the config dataclass of its family


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Something picked by name, with its settings."""

    name: str  # which one
    settings: Any = field(default_factory=NoConfig)  # its config dataclass


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, where, and how they are read.

    Attributes:
        cache_features: keep on disk what frozen streams make of clips; true: also of companions, auto: where a head
            alone trains on it
    """

    dataset: str | None = None  # name of the reader
    root: Path | None = None  # its folder; null: $AVCORE_DATA/<dataset>, else made by the data set itself
    workers: int = 0  # loader processes; 0 reads in the main one
    cache: Path | None = None  # folder of decoded clips; null: the user's cache folder
    cache_features: bool | Literal["auto"] = "auto"
    drop: str | None = None  # training: shares of clips without sound or pictures, such as audio:0.3,visual:0.1
    broken: Literal["stop", "skip"] = "stop"  # clips that cannot be read; skip: train on others, leave out of scores
    broken_limit: float = 0.01  # broken=skip: share of a split's clips, one at least, above which the run fails
    settings: Any = field(default_factory=ClipSettings)  # the config dataclass of the data set

    def __post_init__(self) -> None:
        require(self.workers >= 0, "workers", self.workers, "0 or more")
        require(0 <= self.broken_limit < 1, "broken_limit", self.broken_limit, "0 or more and below 1")
        shares = self.dropped.values()
        right = all(share > 0 for share in shares) and sum(shares) <= 1
        require(right, "drop", self.drop, "shares above 0 that add up to 1 at most, since no clip loses both streams")

    @property
    def dropped(self) -> dict[str, float]:
        """``drop`` read: stream to share."""
        found: dict[str, float] = {}
        for one in self.drop.split(",") if self.drop else ():
            stream, _, share = one.strip().partition(":")
            right = stream in ("audio", "visual") and stream not in found and _SHARE.fullmatch(share.strip())
            require(bool(right), "drop", self.drop, "STREAM:SHARE of audio, visual or both, as in audio:0.3,visual:0.1")
            found[stream] = float(share)
        return found


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        prompts, fusions: names of parts, in the order in which their edits concatenate.
        parts: full name of a part -> the config dataclass of its spec.
        part_streams: name of a prompt -> the streams it is put into (``parts.<name>.streams``).
        part_scales: name of a part -> the factor of its learning rate (``parts.<name>.lr_scale``).
        task_options: the config dataclass of the task.
        full_names: kind (``"prompts"``, ``"backbones"``, ...) -> ``distribution:name`` of each name that stands here
            without its distribution; it is found by that, whatever else is installed later.
    """

    task: str  # name of the task
    method: str | None = None  # published method whose parts and recipe are used
    recipe: str | None = None  # variant of the method's recipe; null: the plain one, where there is one
    prompts: tuple[str, ...] = ()  # parts acting on one stream
    fusions: tuple[str, ...] = ()  # parts reading both streams
    streams: Streams = "both"  # which branches run
    protocol: Literal["clean", "paper"] = "clean"  # clean: selected on val, test read once; paper: as published
    seed: int = 0  # of every random draw
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    deterministic: bool = False  # only operators that repeat bit by bit, where they exist
    shapley: bool = False  # also measure what each stream brings: without sound, without pictures, without both
    baseline: bool = False  # also train the head alone with the same recipe, to compare
    trivial: bool = False  # also score the majority answer, and the head alone on a backbone of random weights
    frozen: Literal["pretrained", "random"] = "pretrained"  # random: the values of each frozen tensor in random order
    visual: StreamConfig = field(default_factory=StreamConfig)
    audio: StreamConfig = field(default_factory=StreamConfig)
    text: StreamConfig = field(default_factory=StreamConfig)
    text_audio: StreamConfig = field(default_factory=StreamConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    parts: Mapping[str, Any] = field(default_factory=dict)
    part_streams: Mapping[str, PartStreams] = field(default_factory=dict)
    part_scales: Mapping[str, float] = field(default_factory=dict)
    head: Chosen
    task_options: Any = field(default_factory=NoConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    full_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # which distribution offered each name

    def __post_init__(self) -> None:
        require(_DEVICE.fullmatch(self.device) is not None, "device", self.device, "auto, cpu, cuda or cuda:N")
        alone = self.streams if self.streams != "both" else None
        require(not (self.shapley and alone), "shapley", True, f"false with streams={alone}: it compares two streams")
        require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number from 0 to 2**63 - 1")
        mixed = self.train.augment.mix.p > 0 and "audio" in self.data.dropped
        require(not mixed, "data.drop", self.data.drop, "without audio where train.augment.mix puts other sound in")
        off = [stream for stream in self.data.dropped if self.streams not in ("both", stream)]
        require(not off, "data.drop", self.data.drop, f"of streams={self.streams} alone")
        peeks = self.protocol == "clean" and self.train.select == "test"
        require(not peeks, "train.select", "test", "val with protocol=clean, which reads test once, at the end")

    @property
    def selected_on(self) -> str:
        """The split whose score chooses the checkpoint."""
        return self.train.select or ("val" if self.protocol == "clean" else "test")
