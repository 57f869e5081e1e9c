"""Audio-visual video parsing for avcore (AVVP, LLP): task ``avvp``, its heads and reader.

This module is light: it declares, and imports no torch.
"""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import DatasetSpec, HeadSpec, TaskSpec
from avcore_avvp.annotations import FOLDERS, LISTS
from avcore_avvp.config import (
    FEATURES,
    AttentiveHeadConfig,
    AVVPTaskConfig,
    HANHeadConfig,
    LLPDataConfig,
    MGNHeadConfig,
)

__all__ = ["avcore_datasets", "avcore_heads", "avcore_tasks"]

PAPER = "arXiv:2007.10558"
OFFICIAL = {"train": 10000, "val": 649, "test": 1200}
"""Clips of the published splits."""
MARKS = tuple(f"{folder}/{LISTS['train']}".removeprefix("/") for folder in FOLDERS)
SERVES = ("parsing",)
WHAT_IS_LEFT = {"data": {"broken": "skip", "broken_limit": 0.5}}
"""Clips vanish from the web: those that are left are read, and coverage stands beside the scores."""
SELECTION = {"train": {"select": "val"}}
"""HAN, MGN and DG-SCT choose the epoch on val, so that the paper protocol does too."""
FROM_FILES = {
    "task_options": {"features": list(FEATURES)},
    # A run must have a stream: one grey picture stands for all, and no head looks at it.
    "streams": "visual",
    "visual": {"backbone": "test_vit.r160_in1k", "weights": "random", "size": 32},
    "optim": {"optimizer": "adam", "head_lr": 3e-4, "schedule": "step", "step_epochs": 10, "step_factor": 0.1},
    "train": {"epochs": 40, "batch_size": 16, "drop_last": False, "precision": "fp32", **SELECTION["train"]},
}
"""Settings with which HAN and MGN are trained from their published features."""


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """The plain head."""
    return [
        HeadSpec(
            name="avvp.attentive",
            serves=SERVES,
            build="avcore_avvp.heads:AttentiveHead",
            config=AttentiveHeadConfig,
            paper=PAPER,
            summary="two linear maps of each stream: probabilities, and weights over time and streams",
        ),
        HeadSpec(
            name="avvp.han",
            serves=SERVES,
            build="avcore_avvp.han.head:HANHead",
            config=HANHeadConfig,
            paper=PAPER,
            summary="attention within and between the streams, pooling by learned weights (HAN)",
        ),
        HeadSpec(
            name="avvp.mgn",
            serves=SERVES,
            build="avcore_avvp.mgn.head:MGNHead",
            config=MGNHeadConfig,
            paper="Mo and Tian, Multi-modal Grouping Network for Audio-Visual Video Parsing, NeurIPS 2022",
            summary="tokens of classes group the seconds of each stream, then those of the other (MGN)",
        ),
    ]


@hookimpl
def avcore_tasks() -> Iterable[TaskSpec]:
    """Weakly supervised video parsing, from media or from features alone."""
    return [
        TaskSpec(
            name="avvp",
            build="avcore_avvp.task:AVVPTask",
            config=AVVPTaskConfig,
            head="avvp.attentive",
            kind="parsing",
            defaults=SELECTION,
            paper=PAPER,
            summary="say for each second which classes are heard and which are seen, learned from clip labels (LLP)",
        ),
        TaskSpec(
            name="avvp-features",
            build="avcore_avvp.task:AVVPTask",
            config=AVVPTaskConfig,
            head="avvp.han",
            kind="parsing",
            defaults=FROM_FILES,
            paper=PAPER,
            summary="the same from HAN's published features alone, without media",
        ),
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """The readers of the official layout."""
    return [
        DatasetSpec(
            name="llp",
            build="avcore_avvp.datasets:LLP",
            config=LLPDataConfig,
            tasks=("avvp",),
            reads="avcore_avvp.annotations:settings_in",
            marks=MARKS,
            official=OFFICIAL,
            defaults=WHAT_IS_LEFT,
            paper=PAPER,
            summary="LLP: 10 s, 10 segments, 25 classes, sound and pictures labelled apart",
        ),
        DatasetSpec(
            name="llp-features",
            build="avcore_avvp.datasets:LLPFeatures",
            config=LLPDataConfig,
            tasks=("avvp-features",),
            reads="avcore_avvp.annotations:class_settings_in",
            marks=MARKS,
            official=OFFICIAL,
            defaults=WHAT_IS_LEFT,
            paper=PAPER,
            summary="the same, features alone",
        ),
    ]
