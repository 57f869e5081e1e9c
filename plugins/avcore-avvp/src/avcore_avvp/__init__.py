"""Audio-visual video parsing for avcore (AVVP, LLP): task ``avvp``, its heads and reader.

This module is light: it declares, and imports no torch.
"""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import DatasetSpec, HeadSpec, MethodSpec, TaskSpec
from avcore_avvp.config import AttentiveHeadConfig, AVVPTaskConfig, HANHeadConfig, LLPDataConfig

__all__ = ["avcore_datasets", "avcore_heads", "avcore_methods", "avcore_tasks"]

PAPER = "arXiv:2007.10558"
OFFICIAL = {"train": 10000, "val": 649, "test": 1200}
"""Clips of the published splits."""
SERVES = ("parsing",)


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
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """HAN has no parts: it is a head on features from files, with the recipe of its published row."""
    return [
        MethodSpec(name="han", recipes="avcore_avvp.han", paper=PAPER, summary="HAN on features from files"),
    ]


@hookimpl
def avcore_tasks() -> Iterable[TaskSpec]:
    """Weakly supervised video parsing."""
    return [
        TaskSpec(
            name="avvp",
            build="avcore_avvp.task:AVVPTask",
            config=AVVPTaskConfig,
            head="avvp.attentive",
            kind="parsing",
            paper=PAPER,
            summary="say for each second which classes are heard and which are seen, learned from clip labels (LLP)",
        ),
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """The reader of the official layout."""
    return [
        DatasetSpec(
            name="llp",
            build="avcore_avvp.datasets:LLP",
            config=LLPDataConfig,
            tasks=("avvp",),
            reads="avcore_avvp.annotations:settings_in",
            official=OFFICIAL,
            # Clips vanish from the web: those that are left are read, and coverage stands beside the scores.
            defaults={"data": {"broken": "skip", "broken_limit": 0.5}},
            paper=PAPER,
            summary="LLP: 10 s, 10 segments, 25 classes, sound and pictures labelled apart",
        ),
    ]
