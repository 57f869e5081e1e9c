"""The training step: accumulated gradients that equal those of the large batch, and no update that is not finite."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from avcore.engine.optim import Rates, gradients
from avcore.engine.precision import check_trainable_dtype
from avcore.engine.randomness import seed_generators
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.ranks import ranks, summed
from avcore.states import trainable_state
from avcore.tasks import Batch, Progress

__all__ = ["BatchLoader", "NonFiniteError", "Step", "TrainStep", "groups_of"]


class NonFiniteError(AVCoreError):
    """A loss or a gradient is infinite or not a number; parameters and running statistics are as before the step.

    Attributes:
        report: what was found, for a file: ``step``, ``epoch``, ``what`` (``loss`` or ``gradient``), ``losses`` by name
            and the names of the ``clips``.
    """

    def __init__(self, message: str, report: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.report = report


class BatchLoader(Protocol):
    """What training needs of a loader; `avcore.data.loader.ClipLoader` is one."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""

    def set_position(self, batch: int) -> None:
        """Let the next iteration begin with this batch of the epoch."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What an optimiser step did.

    Attributes:
        step, epoch: counted from 0.
        loss: the sum of ``losses``, a mean over the valid clips.
        losses: each named term.
        rates: the learning rate of each part and of the head.
        statistics: what layers tell of themselves (`Edit.statistics`), by the part's name and theirs.
        norm: the global norm of the gradient before clipping.
        clips: valid clips that took part, of all processes.
    """

    step: int
    epoch: int
    loss: float
    losses: Mapping[str, float]
    rates: Mapping[str, float]
    statistics: Mapping[str, float]
    norm: float
    clips: int

    def scalars(self) -> dict[str, float]:
        """By ``step``, ``epoch``, ``loss``, ``loss/<term>``, ``lr/<part>``, ``part/<statistic>``, ``gradient_norm``."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "loss": self.loss,
            **{f"loss/{name}": value for name, value in self.losses.items()},
            **{f"lr/{kind}": value for kind, value in self.rates.items()},
            **{f"part/{name}": value for name, value in self.statistics.items()},
            "gradient_norm": self.norm,
        }


def groups_of(batches: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """Lists of ``count`` batches in a row; the last list holds what is left."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


class TrainStep:
    """One update of a model, called once for each step; `avcore.engine.loop.Trainer` is the loop around it.

    Among several processes it is one update from the batches of all: losses are means over all of their clips.

    Args:
        model: what is trained; `avcore.states` tells which of its parameters that are.
        optimizer, rates: from `avcore.engine.optim`.
        seed: of the run; each micro-batch's draws follow from (seed, "dropout", step, its place in the step).
        accumulate: micro-batches in a step. Losses are means over valid clips, so a micro-batch counts by its clips.
        clip_norm: largest global norm of the gradient, None for any.
        augment: an `avcore.data.augment.Augmentation`: what to make of a batch in an epoch, for as long as it is used.
    """

    def __init__(
        self,
        model: AVModel,
        optimizer: Optimizer,
        rates: Rates,
        *,
        seed: int = 0,
        accumulate: int = 1,
        clip_norm: float | None = None,
        device: torch.device | None = None,
        augment: Callable[[Batch, int], AbstractContextManager[Batch]] | None = None,
    ) -> None:
        for group in optimizer.param_groups:
            check_trainable_dtype(zip(group["names"], group["params"], strict=True))
        self.model = model
        self._forward: Any = model
        if ranks().world > 1:
            # Newer torch has another name for the argument.
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                self._forward = DistributedDataParallel(model, broadcast_buffers=False)
        self.optimizer = optimizer
        self.rates = rates
        self.seed = seed
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.device = device or torch.device("cpu")
        self.augment = augment or (lambda batch, epoch: nullcontext(batch))
        # The running statistics of parts and head, which a forward in training mode changes in place.
        trained = {name for group in optimizer.param_groups for name in group["names"]}
        self._statistics = [value for name, value in trainable_state(model).items() if name not in trained]

    def __call__(self, batches: Sequence[Batch], *, step: int, epoch: int) -> Step:
        """One update from one or more micro-batches.

        Raises:
            NonFiniteError: loss or gradient is not finite; nothing was changed.
        """
        epochs = self.rates.epochs
        progress = Progress(epoch=epoch, epochs=epochs, step=step, steps=epochs * self.rates.steps_per_epoch)
        counts = [int(batch.valid.sum()) for batch in batches]
        here = ranks()
        total = int(summed(torch.tensor(sum(counts))))
        if not total:
            raise ValueError("A step needs at least one valid clip.")
        self.optimizer.zero_grad(set_to_none=True)
        statistics = [value.clone() for value in self._statistics]
        sums: dict[str, Tensor] = {}
        told: dict[str, Tensor] = {}
        micro_losses: list[Tensor] = []
        for place, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            if not count:
                if here.world == 1:
                    continue
                # The other processes wait for its gradient, which weighs nothing.
                batch = replace(batch, valid=torch.ones_like(batch.valid))
            seed_generators(self.seed, "dropout", step, place * here.world + here.rank)
            # Gradients travel with the last micro-batch.
            apart = nullcontext() if here.world == 1 or place == len(batches) - 1 else self._forward.no_sync()
            with apart:
                with self.augment(batch.to(self.device, non_blocking=True), epoch) as augmented:
                    losses, said = self._losses(augmented, progress)
                loss = torch.stack([value.reshape(()) for value in losses.values()]).sum()
                # What arrives is the mean of all processes' gradients.
                (loss * (count / total * here.world)).backward()
            if count:
                micro_losses.append(loss.detach())
            for means, found in ((sums, losses), (told, said)):
                for name, value in found.items():
                    means[name] = means.get(name, torch.zeros_like(value)) + value.detach() * (count / total)
        norm = nn.utils.get_total_norm(gradients(self.optimizer))
        # One transfer for everything that is looked at on the host.
        shares = torch.stack([value.double().reshape(()) for value in (*sums.values(), *told.values())])
        values = torch.cat([summed(shares), norm.double().reshape(1)]).tolist()
        named, logged = dict(zip(sums, values, strict=False)), dict(zip(told, values[len(sums) :], strict=False))
        if not all(map(math.isfinite, (*named.values(), values[-1]))):
            self.optimizer.zero_grad(set_to_none=True)
            for value, before in zip(self._statistics, statistics, strict=True):
                value.copy_(before)
            raise self._not_finite(batches, counts, micro_losses, named, step=step, epoch=epoch)
        if self.clip_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.rates.advance(step)
        self.optimizer.step()
        if here.world > 1:
            for value in self._statistics:
                if value.is_floating_point():
                    summed(value).div_(here.world)
        return Step(
            step=step,
            epoch=epoch,
            loss=sum(named.values()),
            losses=named,
            rates=self.rates.current(),
            statistics=logged,
            norm=values[-1],
            clips=total,
        )

    def _losses(self, batch: Batch, progress: Progress) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses, and what layers tell of themselves."""
        output = self._forward(batch)
        return self.model.losses(output, batch, progress), self.model.statistics(output, batch)

    @staticmethod
    def _not_finite(
        batches: Sequence[Batch],
        counts: Sequence[int],
        losses: Sequence[Tensor],
        named: Mapping[str, float],
        *,
        step: int,
        epoch: int,
    ) -> NonFiniteError:
        used = [batch for batch, count in zip(batches, counts, strict=True) if count]
        bad = [batch for batch, loss in zip(used, losses, strict=True) if not loss.isfinite()]
        what = "loss" if bad else "gradient"
        clips = [name for b in (bad or used) for name, valid in zip(b.names, b.valid.tolist(), strict=True) if valid]
        terms = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
        return NonFiniteError(
            f"The {what} is not finite at step {step} (epoch {epoch}); no update was made. Losses: {terms}. "
            f"Clips of the batch: {', '.join(clips)}. Try a smaller optim.lr and optim.head_lr, "
            "optim.clip_norm=1.0 or train.precision=fp32.",
            {"step": step, "epoch": epoch, "what": what, "losses": dict(named), "clips": clips},
        )
