"""A running average of what is trained, by the rules of `torch.optim.swa_utils`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from avcore.config import TrainConfig
from avcore.model import AVModel
from avcore.states import load_trainable_state, trainable_state

__all__ = ["Average"]


class Average:
    """Averages the trained tensors of a model: after each step (``ema``), or at the end of some epochs (``epochs``).

    What frozen weights would add is nothing, so no copy of the model is made. Tensors of whole numbers, such as the
    count of a batch norm, are those of the last update.

    Attributes:
        count: updates so far.

    Args:
        model: whose `avcore.states.trainable_state` is averaged.
        config: names the rule and its settings.
    """

    def __init__(self, model: AVModel, config: TrainConfig) -> None:
        self.model = model
        self.count = 0
        self._kind = config.average
        self._epochs = config.average_epochs or (1, 0)
        rules: Mapping[str, Callable[[], Any]] = {
            "ema": lambda: get_ema_multi_avg_fn(config.average_decay),
            "epochs": get_swa_multi_avg_fn,
        }
        self._rule = rules[self._kind]() if self._kind in rules else None
        self._average: dict[str, Tensor] = {}

    @property
    def state(self) -> dict[str, Tensor]:
        """The averaged tensors by their names; the model's own while there is no average."""
        return self._average or trainable_state(self.model)

    def step_done(self) -> None:
        """The optimiser made an update."""
        if self._kind == "ema":
            self._update()

    def epoch_done(self, epoch: int) -> None:
        """An epoch, counted from 1, is at its end; to be told twice, before and after a stop, changes nothing."""
        first, last = self._epochs
        if self._kind == "epochs" and first <= epoch <= last and self.count <= epoch - first:
            self._update()

    def restore(self, state: Mapping[str, Tensor], count: int) -> None:
        """Go on from an average of so many updates."""
        self.count = count
        if count:
            self._average = {name: state[name].to(own.device) for name, own in trainable_state(self.model).items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average; it gets its own tensors back at the end."""
        if not self.count:
            yield
            return
        own = {name: tensor.clone() for name, tensor in trainable_state(self.model).items()}
        load_trainable_state(self.model, self._average)
        try:
            yield
        finally:
            load_trainable_state(self.model, own)

    @torch.no_grad()
    def _update(self) -> None:
        current = trainable_state(self.model)
        if not self.count:
            self._average = {name: tensor.clone() for name, tensor in current.items()}
        else:
            assert self._rule is not None
            names = [name for name, tensor in current.items() if tensor.is_floating_point()]
            self._rule([self._average[name] for name in names], [current[name] for name in names], self.count)
            for name in current.keys() - set(names):
                self._average[name].copy_(current[name])
        self.count += 1
