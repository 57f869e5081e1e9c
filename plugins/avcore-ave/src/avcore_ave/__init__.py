"""Audio-visual event localisation for avcore (AVE): tasks ``ave`` and ``ave-weak``, their heads and readers.

This module is light: it declares, and imports no torch.
"""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import DatasetSpec, HeadSpec, TaskSpec
from avcore_ave.annotations import ANNOTATIONS, FOLDER
from avcore_ave.config import (
    AVEDataConfig,
    AVELHeadConfig,
    AVETaskConfig,
    AVEWeakDataConfig,
    CMBSHeadConfig,
    LinearHeadConfig,
    OwnEventsConfig,
)
from avcore_ave.table import TABLE

__all__ = ["avcore_datasets", "avcore_heads", "avcore_tasks"]

PAPER = "arXiv:1803.08842"
OFFICIAL = {"train": 3339, "val": 402, "test": 402}
"""Clips of the published splits."""
MARKS = (ANNOTATIONS, f"{FOLDER}/{ANNOTATIONS}")
"""Where the official layout has its annotations."""
SERVES = ("segments", "weak-segments")
"""Kinds of task: labels of segments in training, and labels of clips alone."""


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """The linear head of LAVISH and STG-CMA, and those of AVEL and CMBS."""
    return [
        HeadSpec(
            name="ave.linear",
            serves=SERVES,
            build="avcore_ave.heads:LinearHead",
            config=LinearHeadConfig,
            paper="arXiv:2212.07983",
            summary="both pooled vectors of a segment through two linear maps (LAVISH, STG-CMA)",
        ),
        HeadSpec(
            name="ave.avel",
            serves=SERVES,
            build="avcore_ave.avel:AVELHead",
            config=AVELHeadConfig,
            paper=PAPER,
            summary="positions pooled as sound says, an LSTM for each stream, two linear maps (AVEL)",
        ),
        HeadSpec(
            name="ave.cmbs",
            serves=SERVES,
            build="avcore_ave.cmbs:CMBSHead",
            config=CMBSHeadConfig,
            paper="Xia and Zhao, Cross-modal Background Suppression for Audio-Visual Event Localization, CVPR 2022",
            summary="positions pooled as sound says, transformers with mutual gates, clip and segments apart (CMBS)",
        ),
    ]


@hookimpl
def avcore_tasks() -> Iterable[TaskSpec]:
    """Fully and weakly supervised localisation."""
    return [
        TaskSpec(
            name="ave",
            build="avcore_ave.task:AVETask",
            config=AVETaskConfig,
            head="ave.linear",
            kind="segments",
            paper=PAPER,
            summary="name the event that is seen and heard in each second, or background (AVE)",
        ),
        TaskSpec(
            name="ave-weak",
            build="avcore_ave.task:AVEWeakTask",
            config=AVETaskConfig,
            head="ave.linear",
            kind="weak-segments",
            paper=PAPER,
            summary="the same, learned from the classes of whole clips (weakly supervised AVE)",
        ),
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """The readers of the official layout, and of anybody's own videos."""
    return [
        DatasetSpec(
            name="ave",
            build="avcore_ave.datasets:AVE",
            config=AVEDataConfig,
            tasks=("ave",),
            reads="avcore_ave.annotations:settings_in",
            marks=MARKS,
            official=OFFICIAL,
            paper=PAPER,
            summary="AVE: 10 s, 10 segments, 28 events and background",
        ),
        DatasetSpec(
            name="ave-weak",
            build="avcore_ave.datasets:AVEWeak",
            config=AVEWeakDataConfig,
            tasks=("ave-weak",),
            official=OFFICIAL,
            reads="avcore_ave.annotations:settings_in",
            marks=MARKS,
            paper=PAPER,
            summary="AVE with labels of clips alone in training",
        ),
        DatasetSpec(
            name="own-events",
            build="avcore_ave.own:OwnEvents",
            config=OwnEventsConfig,
            tasks=("ave", "ave-weak"),
            reads="avcore_ave.table:settings_in",
            marks=(TABLE,),
            summary="your own videos of any length, with their events in events.csv",
        ),
    ]
