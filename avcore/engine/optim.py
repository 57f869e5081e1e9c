"""The optimiser, with one parameter group for each part and one for the head, and the course of their learning rates.

The courses are those of `torch.optim.lr_scheduler`, counted in optimiser steps.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler

from avcore.config import OptimConfig
from avcore.errors import AssemblyError, ConfigError

__all__ = ["WHOLE_COURSES", "Rates", "build_optimizer", "gradients"]

WHOLE_COURSES = ("cosine", "polynomial")
"""Schedules every rate of which depends on the length of the training."""


class Rates:
    """Sets the learning rates of an optimiser's groups as a function of the step alone.

    A linear warm-up (1/n, 2/n, ..., 1 over its n steps) leads to a course: ``constant``, ``step`` and ``multistep``
    count epochs from the beginning, ``cosine`` and ``polynomial`` fall from the end of the warm-up to the last step.

    Args:
        optimizer: its groups' rates are their base rates.
        config: names the schedule and its settings.
        steps_per_epoch, epochs: length of the training.

    Raises:
        ConfigError: ``optim.min_lr`` lies above the base rate of a group.
    """

    def __init__(self, optimizer: Optimizer, config: OptimConfig, *, steps_per_epoch: int, epochs: int) -> None:
        self.optimizer = optimizer
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self._step = 0
        if config.schedule == "cosine":
            for kind, rate in self.current().items():
                if config.min_lr > rate:
                    raise ConfigError(
                        f"optim.min_lr is {config.min_lr:g}, above the learning rate {rate:g} of '{kind}', which would "
                        "rise instead of fall. Choose a smaller optim.min_lr, or larger rates and factors."
                    )
        first = round(config.warmup_epochs * steps_per_epoch)
        length = max(1, epochs * steps_per_epoch - first)
        made: list[lr_scheduler.LRScheduler] = []
        if first > 1:
            made.append(lr_scheduler.LinearLR(optimizer, start_factor=1 / first, total_iters=first - 1))
        made.append(_course(optimizer, config, steps_per_epoch, length))
        self._scheduler: lr_scheduler.LRScheduler
        if config.schedule in WHOLE_COURSES:
            self._scheduler = lr_scheduler.SequentialLR(optimizer, made, [first] if len(made) > 1 else [])
        else:
            self._scheduler = lr_scheduler.ChainedScheduler(made, optimizer)

    def advance(self, step: int) -> None:
        """Give every group the rate of a step, counted from 0; steps may be passed over, but only forwards."""
        with warnings.catch_warnings():
            # A run that goes on passes over the steps that it has made, without an update for each.
            warnings.filterwarnings("ignore", r"Detected call of|Seems like", UserWarning)
            while self._step < step:
                self._scheduler.step()
                self._step += 1

    def current(self) -> dict[str, float]:
        """The rate of each group, by the name of its part or ``head``."""
        return {group["kind"]: float(group["lr"]) for group in self.optimizer.param_groups}


def _course(optimizer: Optimizer, config: OptimConfig, per_epoch: int, length: int) -> lr_scheduler.LRScheduler:
    """What follows the warm-up, ``length`` steps before the end."""
    match config.schedule:
        case "step":
            return lr_scheduler.StepLR(optimizer, config.step_epochs * per_epoch, config.step_factor)
        case "multistep":
            return lr_scheduler.MultiStepLR(optimizer, [n * per_epoch for n in config.milestones], config.step_factor)
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, length, config.min_lr)
        case "polynomial":
            return lr_scheduler.PolynomialLR(optimizer, length, config.power)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def build_optimizer(
    groups: Mapping[str, Sequence[tuple[str, nn.Parameter]]],
    config: OptimConfig,
    scales: Mapping[str, float] | None = None,
) -> Optimizer:
    """One parameter group for each part, at ``optim.lr`` times its factor, and one for the head, at ``optim.head_lr``.

    A group keeps its part's name or ``head`` (``"kind"``) and its parameters' names (``"names"``).

    Args:
        groups: ``parts`` and ``head``, from `avcore.states.parameter_groups`.
        config: the update rule and the rates.
        scales: name of each part -> its factor (``parts.<name>.lr_scale``); others, such as ``align``, learn at 1.

    Raises:
        AVCoreError: there is nothing to train.
    """
    scales = scales or {}
    kinds: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in groups["parts"]:
        owners = [part for part in scales if name.startswith(f"{part}.")]
        kinds.setdefault(max(owners, key=len, default=name.partition(".")[0]), []).append((name, parameter))
    if groups["head"]:
        kinds["head"] = list(groups["head"])
    if not kinds:
        raise AssemblyError("There is nothing to train: no part and no head of this run has a trainable parameter.")
    made = [
        {
            "kind": kind,
            "names": [name for name, _ in named],
            "params": [parameter for _, parameter in named],
            "lr": config.head_lr if kind == "head" else config.lr * scales.get(kind, 1.0),
        }
        for kind, named in kinds.items()
    ]
    devices = {parameter.device.type for named in kinds.values() for _, parameter in named}
    fused = devices <= {"cpu", "cuda"}
    if config.optimizer == "sgd":
        return SGD(made, momentum=config.betas[0], weight_decay=config.weight_decay, fused=fused)
    rule: type[Adam] = {"adam": Adam, "adamw": AdamW}[config.optimizer]
    return rule(made, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=fused)


def gradients(optimizer: Optimizer) -> list[torch.Tensor]:
    """All gradients there are, in the order of the groups."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
