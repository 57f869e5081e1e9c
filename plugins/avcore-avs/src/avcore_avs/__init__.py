"""Audio-visual segmentation for avcore (AVSBench): tasks ``avs`` and ``avs-ms3``, their head and readers.

This module is light: it declares, and imports no torch.
"""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import DatasetSpec, HeadSpec, TaskSpec
from avcore_avs.config import AVSDataConfig, AVSHeadConfig, AVSTaskConfig, MS3TaskConfig

__all__ = ["avcore_datasets", "avcore_heads", "avcore_tasks"]

PAPER = "arXiv:2207.05042"


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """The decoder of AVSBench behind linear maps."""
    return [
        HeadSpec(
            name="avs.decoder",
            serves=("masks",),
            build="avcore_avs.heads:AVSHead",
            config=AVSHeadConfig,
            paper=PAPER,
            summary="AVSBench's decoder (TPAVI, top-down fusion) fed from four depths of the backbone",
        )
    ]


@hookimpl
def avcore_tasks() -> Iterable[TaskSpec]:
    """S4 and MS3."""
    return [
        TaskSpec(
            name="avs",
            aliases=("avs-s4", "s4"),
            build="avcore_avs.task:AVSTask",
            config=AVSTaskConfig,
            head="avs.decoder",
            kind="masks",
            paper=PAPER,
            summary="segment what sounds, one source (AVSBench S4)",
        ),
        TaskSpec(
            name="avs-ms3",
            aliases=("ms3",),
            build="avcore_avs.task:AVSTask",
            config=MS3TaskConfig,
            head="avs.decoder",
            kind="masks",
            paper=PAPER,
            summary="segment what sounds, several sources (AVSBench MS3)",
        ),
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """Readers of the official layouts."""
    return [
        DatasetSpec(
            name="avsbench-s4",
            build="avcore_avs.datasets:AVSBenchS4",
            config=AVSDataConfig,
            tasks=("avs",),
            official={"train": 3452, "val": 740, "test": 740},
            paper=PAPER,
            summary="AVSBench, Single-source: 5 s, 5 frames, 23 categories",
        ),
        DatasetSpec(
            name="avsbench-ms3",
            build="avcore_avs.datasets:AVSBenchMS3",
            config=AVSDataConfig,
            tasks=("avs-ms3",),
            official={"train": 296, "val": 64, "test": 64},
            paper=PAPER,
            summary="AVSBench, Multi-sources: 5 s, 5 frames",
        ),
    ]
