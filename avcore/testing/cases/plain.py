"""Cases that need no model: the package, the settings of a spec, a method."""

import contextlib
from dataclasses import dataclass
from functools import cached_property

import torch

from avcore.assemble import _build
from avcore.config import resolve_config
from avcore.registry import Registry
from avcore.specs import MethodSpec, Spec
from avcore.testing.backbones import ToyBackbones
from avcore.testing.subject import Subject
from avcore.testing.texts import ToyTexts
from avcore.testing.toys import make_batch

__all__ = ["MethodCase", "PackageCase", "SettingsCase"]


@dataclass(frozen=True)
class PackageCase:
    """The distribution."""

    subject: Subject


@dataclass(frozen=True)
class SettingsCase:
    """The settings of one thing that a plugin offers."""

    subject: Subject
    spec: Spec


@dataclass(frozen=True)
class MethodCase:
    """A method, beside everything that is installed: its recipes may be for tasks of any plugin."""

    subject: Subject
    spec: MethodSpec

    @cached_property
    def registry(self) -> Registry:
        """As `Subject.beside`."""
        return self.subject.beside({})

    def metrics_of(self, task: str) -> frozenset[str]:
        """The names of the scores of a task, from noise; nothing where its metrics do not take noise.

        Args:
            task: installed.
        """
        found: set[str] = set()
        with contextlib.suppress(Exception):
            toys = {"toy": ToyBackbones(), "toy-text": ToyTexts()}
            registry = self.subject.beside(
                {f"the kit's {name}": one for name, one in toys.items() if name not in self.registry.backbones}
            )
            resolved = resolve_config(
                registry, task=task, prompts="none", fusions="none", visual="toy_plain", need_data=False
            )
            model = _build(resolved.config, registry).eval()
            batch = make_batch(model, 1)  # one is enough for a name, and a decoder of masks is slow
            with torch.no_grad():
                prediction = model.predict(model(batch))
            # A truth of ones first: one that is empty has no score in many a task.
            for filling in (1, 0):
                batch.targets = {name: one.zeros(1) + filling for name, one in model.head.targets.items()}
                for metric in map(model.task.metrics, ("clean", "paper")):
                    with contextlib.suppress(Exception):
                        metric.update(prediction, batch)
                        found |= {*metric.compute()}
                if found:
                    break
        return frozenset(found)
