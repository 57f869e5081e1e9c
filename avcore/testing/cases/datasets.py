"""A data set under test, on files that the kit is given or that the data set makes itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from avcore.config import RunConfig, resolve_config
from avcore.registry import Registry
from avcore.specs import DatasetSpec, resolve
from avcore.tasks import Clip, Dataset, Task
from avcore.testing.backbones import ToyBackbones
from avcore.testing.checks import Skipped
from avcore.testing.subject import Subject
from avcore.testing.texts import ToyTexts, toy_text_for
from avcore.testing.toys import ToyPlugin

__all__ = ["DatasetCase"]

KIT = {"the kit's task": ToyPlugin(), "the kit's backbones": ToyBackbones(), "the kit's sentences": ToyTexts()}


@dataclass(frozen=True)
class DatasetCase:
    """A data set under test."""

    subject: Subject
    spec: DatasetSpec

    @cached_property
    def alone(self) -> Registry:
        """The plugin, what it requires, and toys."""
        return Registry.from_modules({**KIT, **self.subject.modules})

    @cached_property
    def registry(self) -> Registry:
        """As `alone`, and whatever else is installed: it may serve tasks of other plugins, and settle their parts."""
        return self.subject.beside(KIT)

    @cached_property
    def task_name(self) -> str:
        """The first task that it serves and that is installed.

        Raises:
            Skipped: there is none.
        """
        for name in self.spec.tasks:
            if name in self.registry.tasks:
                return name
        raise Skipped(f"None of the tasks of '{self.spec.name}' ({', '.join(self.spec.tasks)}) is installed.")

    @property
    def root(self) -> Path:
        """Where the files are.

        Raises:
            Skipped: nobody says where.
        """
        roots = self.subject.roots
        if self.spec.name not in roots:
            roots[self.spec.name] = self._find_root()
        return roots[self.spec.name]

    def _find_root(self) -> Path:
        given = self.subject.data.get(self.spec.name)
        folder = self.subject.folder / self.spec.name
        if given is not None and not callable(given):
            return Path(given)
        folder.mkdir(parents=True, exist_ok=True)
        if given is not None:
            return Path(given(folder))
        if self.spec.provide:
            return Path(resolve(self.spec.provide)(self.task_name, folder, None))
        raise Skipped(
            f"The kit has no files of '{self.spec.name}': give data={{'{self.spec.name}': FOLDER or a function}}."
        )

    def config(self, registry: Registry | None = None, *, files: bool = True, protocol: str | None = None) -> RunConfig:
        """The configuration of a run on the data, with toy backbones and without parts.

        Args:
            registry: where names are looked up.
            files: False leaves out what the files themselves say.
            protocol: ``clean`` or ``paper``.
        """
        registry = self.registry if registry is None else registry
        sets = self.subject.sets_of(self.spec.name, self.task_name)
        resolved = resolve_config(
            registry,
            task=self.task_name,
            prompts="none",
            fusions="none",
            visual="toy_plain",
            text=toy_text_for(registry, registry.tasks[self.task_name].head, sets),
            data=self.root if files else None,
            options={"data.dataset": self.spec.name, "protocol": protocol},
            sets=sets,
            need_data=files,
        )
        return resolved.config

    @cached_property
    def task(self) -> Task:
        """The task with the settings of the run."""
        made: Task = self.registry.tasks[self.task_name].load()(self.config().task_options)
        return made

    def reader(self, root: Path | None = None) -> Dataset:
        """The data set on its files, or on another folder."""
        settings = self.config().data.settings
        made: Dataset = self.spec.load()(settings, self.root if root is None else root, self.task)
        return made

    @cached_property
    def clips(self) -> dict[str, Sequence[Clip]]:
        """The clips of every split."""
        reader = self.reader()
        return {split: reader.clips(split) for split in reader.splits}
