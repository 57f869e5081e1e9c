"""Making the task and opening the data set that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from avcore.config import RunConfig
from avcore.data.cache import cache_home
from avcore.discovery.signatures import check_build, check_overrides
from avcore.errors import DataError, why
from avcore.registry import Registry
from avcore.specs import resolve
from avcore.tasks import Dataset, Task

__all__ = ["make_task", "open_dataset"]


def open_dataset(
    config: RunConfig, registry: Registry, task: Task, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, Path]:
    """Make the reader of ``config.data``, and its files where the data set provides them itself.

    Args:
        progress: called with (clips done, clips in all) while files are made.

    Returns:
        The reader and the root of its files.

    Raises:
        AVCoreError: the configuration names no data, or the files are not what the reader expects.
    """
    chosen = config.data
    if chosen.dataset is None:
        raise DataError(f"No data set for task '{config.task}': name its folder with --data PATH.")
    spec = registry.datasets[chosen.dataset]
    root = chosen.root
    if root is None and spec.provide:
        provide: Any = resolve(spec.provide)
        home = chosen.cache or cache_home()
        try:
            root = Path(provide(config.task, home, progress))
        except OSError as error:
            raise DataError(
                f"The files of data set '{chosen.dataset}' cannot be made in {home}: {why(error)}. "
                "Name another folder with AVCORE_CACHE or --set data.cache=PATH."
            ) from error
    if root is None:
        raise DataError(f"Data set '{chosen.dataset}' needs a folder: name it with --data PATH.")
    of = f"data set '{chosen.dataset}'"
    plugin = registry.plugin(registry.datasets, chosen.dataset)
    build = spec.load()
    check_build(build, ("config", "root", "task"), plugin=plugin, of=of)
    dataset: Dataset = build(chosen.settings, root, task)
    check_overrides(type(dataset), Dataset, plugin=plugin, of=of)
    return dataset, root


def make_task(config: RunConfig, registry: Registry) -> Task:
    """The task that a configuration names, with its settings.

    Raises:
        PluginError: its functions cannot be called as `Task` says.
    """
    plugin, of = registry.plugin(registry.tasks, config.task), f"task '{config.task}'"
    build = registry.tasks[config.task].load()
    check_build(build, ("config",), plugin=plugin, of=of)
    made: Task = build(config.task_options)
    check_overrides(type(made), Task, plugin=plugin, of=of)
    return made
