"""Audio-visual recognition for avcore (AVAR): task ``avar``, its heads and readers.

This module is light: it declares, and imports no torch.
"""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import DatasetSpec, HeadSpec, RecordingSettings, TaskSpec
from avcore_avar.config import AVARTaskConfig, KineticsSoundsConfig, LinearHeadConfig, ListedConfig, TwoMapsHeadConfig

__all__ = ["avcore_datasets", "avcore_heads", "avcore_tasks"]

KINETICS_MARKS = ("my_train.txt", "my_test.txt", "KineticSound/my_train.txt", "KineticSound/my_test.txt")
VGGSOUND_MARKS = ("vggsound.csv", "train.csv", "test.csv", "data/vggsound.csv", "data/train.csv", "data/test.csv")


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """The linear head, and that of STG-CMA."""
    return [
        HeadSpec(
            name="avar.linear",
            serves=("clip",),
            build="avcore_avar.heads:LinearHead",
            config=LinearHeadConfig,
            summary="the mean over segments of both pooled vectors through one linear map",
        ),
        HeadSpec(
            name="avar.stgcma",
            serves=("clip",),
            build="avcore_avar.heads:TwoMapsHead",
            config=TwoMapsHeadConfig,
            summary="the mean over segments of both pooled vectors through two linear maps (STG-CMA, LAVISH)",
        ),
    ]


@hookimpl
def avcore_tasks() -> Iterable[TaskSpec]:
    """Recognition of whole clips."""
    return [
        TaskSpec(
            name="avar",
            build="avcore_avar.task:AVARTask",
            config=AVARTaskConfig,
            head="avar.linear",
            kind="clip",
            paper="arXiv:1705.08168",
            summary="name what is seen and heard in a clip (AVAR)",
        ),
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """The readers of official lists."""
    return [
        DatasetSpec(
            name="kinetics-sounds",
            build="avcore_avar.kinetics:KineticsSounds",
            config=KineticsSoundsConfig,
            tasks=("avar",),
            reads="avcore_avar.kinetics_lists:settings_in",
            marks=KINETICS_MARKS,
            official={"train": 14799, "test": 2597},
            paper="arXiv:1705.08168",
            summary="Kinetics-Sounds in OGM-GE's lists: 10 s, 31 classes, or those of classes.txt",
        ),
        # Without official counts: that of the published train list was not at hand, and no score is beside another's.
        DatasetSpec(
            name="vggsound",
            build="avcore_avar.vggsound:VGGSound",
            config=ListedConfig,
            tasks=("avar",),
            reads="avcore_avar.vggsound_lists:settings_in",
            marks=VGGSOUND_MARKS,
            paper="arXiv:2004.14368",
            summary="VGGSound: 10 s, 309 classes",
        ),
        # Without marks: taken where the files of no other are there.
        DatasetSpec(
            name="own-folders",
            build="avcore_avar.own:OwnFolders",
            config=RecordingSettings,
            tasks=("avar",),
            reads="avcore_avar.own:settings_in",
            summary="your own videos of any length, in a folder for each class",
        ),
    ]
