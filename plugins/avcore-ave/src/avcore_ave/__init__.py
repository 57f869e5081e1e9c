"""Audio-visual event localisation for avcore (AVE): task ``ave``, its linear head and reader.

This module is light: it declares, and imports no torch.
"""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import DatasetSpec, HeadSpec, TaskSpec
from avcore_ave.config import AVEDataConfig, AVETaskConfig, LinearHeadConfig

__all__ = ["avcore_datasets", "avcore_heads", "avcore_tasks"]

PAPER = "arXiv:1803.08842"


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """The linear head of LAVISH and STG-CMA."""
    return [
        HeadSpec(
            name="ave.linear",
            serves=("segments",),
            build="avcore_ave.heads:LinearHead",
            config=LinearHeadConfig,
            paper="arXiv:2212.07983",
            summary="both pooled vectors of a segment through two linear maps (LAVISH, STG-CMA)",
        )
    ]


@hookimpl
def avcore_tasks() -> Iterable[TaskSpec]:
    """Fully supervised localisation."""
    return [
        TaskSpec(
            name="ave",
            build="avcore_ave.task:AVETask",
            config=AVETaskConfig,
            head="ave.linear",
            kind="segments",
            paper=PAPER,
            summary="name the event that is seen and heard in each second, or background (AVE)",
        )
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """The reader of the official layout."""
    return [
        DatasetSpec(
            name="ave",
            build="avcore_ave.datasets:AVE",
            config=AVEDataConfig,
            tasks=("ave",),
            reads="avcore_ave.annotations:settings_in",
            official={"train": 3339, "val": 402, "test": 402},
            paper=PAPER,
            summary="AVE: 10 s, 10 segments, 28 events and background",
        )
    ]
