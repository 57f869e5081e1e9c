"""A model with the surface of `AVModel` and a loader of made-up clips: two numbers in, one number out."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avcore.config import OptimConfig
from avcore.engine.optim import Rates, build_optimizer
from avcore.engine.step import Step, TrainStep, groups_of
from avcore.states import parameter_groups
from avcore.tasks import Batch, Progress, Task


class ToyModel(nn.Module):
    """A frozen map, a trainable part and a head; the loss is a mean over valid clips."""

    def __init__(self, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.frozen = nn.Linear(2, 4, dtype=dtype).requires_grad_(False)
        self.part = nn.Linear(4, 4, dtype=dtype)
        self.head = nn.Linear(4, 1, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype) * 0.5

    def forward(self, batch: Batch) -> Tensor:
        assert batch.frames is not None
        return self.head(self.dropout(torch.tanh(self.part(self.frozen(batch.frames)))))

    def losses(self, out: Tensor, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        fit = (out.squeeze(1) - batch.targets["y"]) ** 2
        return {"fit": fit[batch.valid].mean(), "size": 0.1 * out.squeeze(1)[batch.valid].abs().mean()}

    def statistics(self, out: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {}

    def predict(self, out: Tensor) -> dict[str, Tensor]:
        return {"y": out.squeeze(1)}

    @property
    def instances(self) -> tuple[SimpleNamespace, ...]:
        return (SimpleNamespace(key="part", module=self.part),)


class ToyMetrics(Metric):
    errors: list[Tensor]
    samples: list[Tensor]

    def __init__(self, protocol: str) -> None:
        super().__init__()
        self.protocol = protocol
        self.add_state("errors", default=[], dist_reduce_fx="cat")
        self.add_state("samples", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        error = (prediction["y"] - batch.targets["y"]).abs()
        self.errors.append(error[batch.valid])
        self.samples.append(batch.samples[batch.valid])

    def compute(self) -> dict[str, float]:
        errors = dim_zero_cat(self.errors)[dim_zero_cat(self.samples).argsort()].tolist()
        return {"accuracy": -sum(errors) / len(errors), "clips": float(len(errors))}


class ToyTask(Task):
    score = "accuracy"

    def metrics(self, protocol: str) -> ToyMetrics:
        return ToyMetrics(protocol)


class ToyLoader:
    """Clips in batches; the last one is padded with copies that are marked invalid."""

    def __init__(self, clips: int = 6, batch_size: int = 2, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(clips, 2, generator=generator).to(dtype)
        self.y = self.x.sum(1)
        self.batch_size = batch_size
        self.epochs: list[int] = []
        self.first = 0

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def set_position(self, batch: int) -> None:
        self.first = batch

    def __iter__(self) -> Iterator[Batch]:
        for start in range(self.first * self.batch_size, len(self.x), self.batch_size):
            index = torch.arange(start, start + self.batch_size)
            valid = index < len(self.x)
            index = index.clamp(max=len(self.x) - 1)
            yield Batch(
                frames=self.x[index],
                waveform=None,
                targets={"y": self.y[index]},
                names=[f"clip{i}" for i in index.tolist()],
                samples=index,
                valid=valid,
            )


def make_trainer(model: nn.Module, *, epochs: int = 2, steps: int = 3, **settings: Any) -> TrainStep:
    optim = OptimConfig(lr=0.01, head_lr=0.1)
    optimizer = build_optimizer(parameter_groups(model), optim)
    rates = Rates(optimizer, optim, steps_per_epoch=steps, epochs=epochs)
    return TrainStep(model, optimizer, rates, **settings)


def make_steps(trainer: TrainStep, loader: ToyLoader, *, epoch: int, first_step: int) -> Iterator[Step]:
    """The steps of an epoch, one by one."""
    trainer.model.train()
    for number, batches in enumerate(groups_of(loader, trainer.accumulate)):
        yield trainer(batches, step=first_step + number, epoch=epoch)


def shared_steps(rank: int, world: int) -> list[list[float]]:
    """What two steps of accumulated batches give on a share of their clips: scalars of each, then the weights."""
    (whole,) = ToyLoader(5, 5, torch.float64)
    trainer = make_trainer(ToyModel(torch.float64), accumulate=2)
    batches = [_share(whole, list(range(count)), rank, world) for count in (5, 1, 4, 2)]
    steps = [trainer(batches[first : first + 2], step=first // 2, epoch=0) for first in (0, 2)]
    weights = torch.cat([value.flatten() for value in trainer.model.state_dict().values()]).tolist()
    return [*([*step.losses.values(), step.norm, step.clips] for step in steps), weights]


def _share(whole: Batch, clips: list[int], rank: int, world: int) -> Batch:
    own = clips[rank::world]
    index = torch.tensor(own or clips[:1])
    return replace(
        whole,
        frames=whole.frames[index],
        targets={"y": whole.targets["y"][index]},
        names=[whole.names[clip] for clip in index],
        samples=index,
        valid=torch.tensor([bool(own)] * len(index)),
    )


@pytest.fixture
def toys() -> SimpleNamespace:
    return SimpleNamespace(
        Model=ToyModel,
        Loader=ToyLoader,
        Task=ToyTask,
        trainer=make_trainer,
        steps=make_steps,
        shared_steps=shared_steps,
    )
