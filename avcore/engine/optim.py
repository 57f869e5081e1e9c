"""The optimiser, with one parameter group for each kind of parameter, and learning rates that follow from the step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from avcore.config import OptimConfig
from avcore.errors import AssemblyError

__all__ = ["Schedule", "build_optimizer", "gradients", "learning_rates", "set_learning_rates"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rates as a pure function of the optimiser step, counted from 0.

    Attributes:
        kind: ``constant``; ``step``: times ``step_factor`` after every ``step_epochs`` epochs; ``cosine``: half a
            cosine from the end of the warm-up to the last step.
        steps_per_epoch, epochs: length of the training.
        warmup_epochs: the rate rises linearly over so many epochs, in any kind.
        min_lr: where ``cosine`` ends.
    """

    kind: str
    steps_per_epoch: int
    epochs: int
    warmup_epochs: float = 0.0
    step_epochs: int = 3
    step_factor: float = 0.35
    min_lr: float = 0.0

    @classmethod
    def from_config(cls, config: OptimConfig, *, steps_per_epoch: int, epochs: int) -> "Schedule":
        """The schedule of a run."""
        return cls(
            kind=config.schedule,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            warmup_epochs=config.warmup_epochs,
            step_epochs=config.step_epochs,
            step_factor=config.step_factor,
            min_lr=config.min_lr,
        )

    def warmup(self, step: int) -> float:
        """1/n, 2/n, ..., 1 over the n steps of the warm-up, then 1."""
        steps = round(self.warmup_epochs * self.steps_per_epoch)
        return min(1.0, (step + 1) / steps) if steps else 1.0

    def decay(self, step: int) -> float:
        """What the schedule leaves of the base rate after the warm-up, from 1 towards 0."""
        if self.kind == "step":
            return float(self.step_factor ** (step // self.steps_per_epoch // self.step_epochs))
        if self.kind == "cosine":
            first = round(self.warmup_epochs * self.steps_per_epoch)
            length = max(1, self.epochs * self.steps_per_epoch - first)
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0, step - first) / length)))
        return 1.0

    def rate(self, base: float, step: int) -> float:
        """The learning rate at a step of a group whose base rate is ``base``."""
        floor = min(self.min_lr, base) if self.kind == "cosine" else 0.0
        return self.warmup(step) * (floor + (base - floor) * self.decay(step))


def build_optimizer(groups: Mapping[str, Sequence[tuple[str, nn.Parameter]]], config: OptimConfig) -> Optimizer:
    """One parameter group for each kind: ``head`` at ``optim.head_lr``, everything else at ``optim.lr``.

    A group keeps its kind (``"kind"``), its base rate (``"base_lr"``) and its parameters' names (``"names"``).

    Raises:
        AVCoreError: there is nothing to train.
    """
    made = [
        {
            "kind": kind,
            "names": [name for name, _ in named],
            "params": [parameter for _, parameter in named],
            "base_lr": config.head_lr if kind == "head" else config.lr,
        }
        for kind, named in groups.items()
        if named
    ]
    if not made:
        raise AssemblyError("There is nothing to train: no part and no head of this run has a trainable parameter.")
    for group in made:
        group["lr"] = group["base_lr"]
    devices = {parameter.device.type for named in groups.values() for _, parameter in named}
    fused = devices <= {"cpu", "cuda"}
    if config.optimizer == "sgd":
        return SGD(made, momentum=config.betas[0], weight_decay=config.weight_decay, fused=fused)
    kind: type[Adam] = {"adam": Adam, "adamw": AdamW}[config.optimizer]
    return kind(made, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=fused)


def set_learning_rates(optimizer: Optimizer, schedule: Schedule, step: int) -> None:
    """Give every group the rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(group["base_lr"], step)


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The current rate of each kind."""
    return {group["kind"]: float(group["lr"]) for group in optimizer.param_groups}


def gradients(optimizer: Optimizer) -> list[torch.Tensor]:
    """All gradients there are, in the order of the groups."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
