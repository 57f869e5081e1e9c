"""A head or a task under test: a head on features of toy backbones, with targets of a data set that serves the task."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from avcore.assemble import _build
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.data.randomness import drawn
from avcore.errors import AVCoreError
from avcore.model import AVModel, Output
from avcore.registry import Registry
from avcore.specs import HeadSpec, TaskSpec
from avcore.tasks import Batch, Clip, Dataset
from avcore.testing.backbones import ToyBackbones
from avcore.testing.cases.datasets import DatasetCase
from avcore.testing.checks import Skipped
from avcore.testing.subject import Subject
from avcore.testing.texts import ToyTexts, toy_text_for
from avcore.testing.toys import make_batch

__all__ = ["HeadCase", "TaskCase", "World", "padded"]

CLIPS = 3


@dataclass(frozen=True)
class HeadCase:
    """A head under test, with the task that it was made for."""

    subject: Subject
    spec: HeadSpec

    @cached_property
    def registry(self) -> Registry:
        """The plugin, what it requires, and whatever else is installed: a head may serve tasks of other plugins."""
        return self.subject.beside({})

    @cached_property
    def world(self) -> "World":
        """Head, task and targets.

        Raises:
            Skipped: no task of the plugin or of what it requires takes the head.
        """
        registry = _registry(self.subject)
        by_default = sorted(registry.tasks, key=lambda task: task.head != self.spec.name)
        reasons = []
        for task in by_default:
            try:
                world = World(self.subject, registry, task, self.spec.name)
                _ = world.model
            except AVCoreError as error:
                reasons.append(f"{task.name}: {error}")
            else:
                return world
        raise Skipped(f"No task here takes '{self.spec.name}'. {' '.join(reasons)}")


@dataclass(frozen=True)
class TaskCase:
    """A task under test, with its default head."""

    subject: Subject
    spec: TaskSpec

    @cached_property
    def world(self) -> "World":
        """Its default head, itself and targets.

        Raises:
            Skipped: no plugin that is required offers its head.
        """
        registry = _registry(self.subject)
        if self.spec.head not in registry.heads:
            raise Skipped(f"The head '{self.spec.head}' of '{self.spec.name}' comes from no plugin that it requires.")
        return World(self.subject, registry, self.spec, self.spec.head)


def _registry(subject: Subject) -> Registry:
    # Tasks of the toys would be taken for tasks that heads were made for.
    return Registry.from_modules(
        {"the kit's backbones": ToyBackbones(), "the kit's sentences": ToyTexts(), **subject.modules}
    )


@dataclass(frozen=True)
class World:
    """A task, a head and, where there are files, targets. Everything costly is made once."""

    subject: Subject
    registry: Registry
    task: TaskSpec
    head: str
    sets: tuple[str, ...] = ()
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def beside(self, *sets: str) -> "World":
        """The same with further settings, ``key=value``."""
        return World(self.subject, self.registry, self.task, self.head, sets)

    @cached_property
    def dataset(self) -> DatasetCase | None:
        """The first data set for the task that has files here."""
        specs = self.registry.datasets_for(self.task.name)
        for spec in sorted(specs, key=lambda spec: spec.name not in self.subject.data):
            case = DatasetCase(self.subject, spec)
            if spec.name in self.subject.data or spec.provide:
                return case
        return None

    @cached_property
    def model(self) -> AVModel:
        """The head on a plain toy backbone, in evaluation mode."""
        options: dict[str, Any] = {"head.name": self.head}
        given = self.dataset
        sets: tuple[str, ...] = (*self.subject.sets_of(self.task.name, self.head), *self.sets)
        if given is not None:
            options["data.dataset"] = given.spec.name
            sets = (*self.subject.sets_of(given.spec.name), *sets)
        resolved = resolve_config(
            self.registry,
            task=self.task.name,
            prompts="none",
            fusions="none",
            visual="toy_plain",
            text=toy_text_for(self.registry, self.head, sets),
            data=None if given is None else given.root,
            options=options,
            sets=sets,
            need_data=False,
        )
        model = _build(resolved.config, self.registry)
        model.backbone_digest = digest(model.towers)
        return model.eval()

    @cached_property
    def reader(self) -> Dataset:
        """The data set on its files.

        Raises:
            Skipped: there are no files.
        """
        given = self.dataset
        if given is None:
            named = ", ".join(f"'{spec.name}'" for spec in self.registry.datasets_for(self.task.name)) or "a data set"
            raise Skipped(f"The kit has no targets of '{self.task.name}': give data for {named}.")
        made: Dataset = given.spec.load()(self.model.config.data.settings, given.root, self.model.task)
        return made

    @cached_property
    def clips(self) -> list[Clip]:
        """A few clips of the last split, with the companions that the reader draws for them."""
        found = self.reader.clips(self.reader.splits[-1])
        chosen = [index % len(found) for index in range(CLIPS)]
        return [drawn(self.reader, found[index], index) for index in chosen]

    def batch(self) -> Batch:
        """Noise with the targets, inputs and companions of a few clips."""
        names = self.clips[0].companions
        companions = {
            name: self._batch([clip.companions[name] for clip in self.clips], seed=2 + number)
            for number, name in enumerate(names)
        }
        return replace(self._batch(self.clips, seed=1), companions=companions)

    def _batch(self, clips: Sequence[Clip], *, seed: int) -> Batch:
        return replace(
            make_batch(self.model, len(clips), seed=seed),
            targets=_stacked([self.reader.target(clip) for clip in clips]),
            inputs=_stacked([self.reader.inputs(clip, 0) for clip in clips]),
            names=[clip.name for clip in clips],
        )

    def forward(self, batch: Batch, *, training: bool = False) -> Output:
        """The model's output, the head in evaluation or training mode."""
        self.model.head.train(training)
        torch.manual_seed(0)
        with torch.set_grad_enabled(training):
            out: Output = self.model(batch)
        self.model.head.eval()
        return out

    def prediction(self, batch: Batch) -> dict[str, Tensor]:
        """What the head predicts."""
        with torch.no_grad():
            return self.model.predict(self.forward(batch))


def padded(batch: Batch) -> Batch:
    """The same batch with one more clip that only fills it up: the first one reversed, and not valid."""

    def more(x: Tensor) -> Tensor:
        return torch.cat([x, x[:1].flip(tuple(range(1, x.dim())))])

    return replace(
        batch.map(more),
        names=[*batch.names, "padding"],
        valid=torch.cat([batch.valid, batch.valid.new_zeros(1)]),
        companions={name: padded(one) for name, one in batch.companions.items()},
    )


def _stacked(given: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in given]) for name in given[0]}
