"""Few-shot and zero-shot for avcore: words as classes, k clips of each class, a head that needs no training.

This module is light: it declares, and imports no torch.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import TEXTS, DatasetSpec, HeadSpec, TaskSpec
from avcore_avar import KINETICS_MARKS, VGGSOUND_MARKS
from avcore_avar.config import AVARTaskConfig
from avcore_ave import MARKS as AVE_MARKS
from avcore_ave import OFFICIAL as AVE_OFFICIAL
from avcore_ave.config import AVETaskConfig
from avcore_ave.table import TABLE
from avcore_avvp import MARKS as LLP_MARKS
from avcore_avvp import OFFICIAL as LLP_OFFICIAL
from avcore_avvp import WHAT_IS_LEFT
from avcore_fewshot.avel_lists import TABLE as AVEL_TABLE
from avcore_fewshot.config import (
    FewAVEConfig,
    FewKineticsConfig,
    FewListedConfig,
    FewLLPConfig,
    FewOwnEventsConfig,
    FewRecordingsConfig,
    WordsHeadConfig,
    WordsTaskConfig,
)

__all__ = ["IN_A_SHARED_SPACE", "avcore_datasets", "avcore_heads", "avcore_tasks"]

PAPER = "arXiv:2311.05152"
HEAD = "fewshot.words"
CLIPS = "fewshot"
"""The task that takes clips of any data set."""
EVENTS = "fewshot-ave"
IN_A_SHARED_SPACE = {"visual": {"projection": True}, "audio": {"projection": True}}
"""What heads with words ask of backbones that leave their projection out otherwise."""
AVE_16 = {**AVE_OFFICIAL, "train": 448}
"""Clips of the splits with 16 shots, the most that is published; of LLP one class is never alone in a training clip."""
WITH_BACKGROUND = {"head": {"background": True}}
"""Few-shot training learns what background is; without training no sentence says it."""


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """The head that compares features with sentences."""
    return [
        HeadSpec(
            name=HEAD,
            serves=("segments", "clip", "words"),
            untrained=True,
            encoders=TEXTS,
            defaults=IN_A_SHARED_SPACE,
            build="avcore_fewshot.head:WordsHead",
            config=WordsHeadConfig,
            paper="arXiv:2103.00020",
            summary="cosines of pictures and sound with sentences that name the classes; nothing to train (CLIP)",
        )
    ]


@hookimpl
def avcore_tasks() -> Iterable[TaskSpec]:
    """Any words, and the tasks of DG-SCT's second table."""
    return [
        TaskSpec(
            name="words",
            build="avcore_fewshot.task:WordsTask",
            config=WordsTaskConfig,
            head=HEAD,
            kind="words",
            words="classes",
            summary="which of any words is seen, and which heard, in each second, without training",
        ),
        TaskSpec(
            name=CLIPS,
            aliases=("fewshot-ave-cls", "fewshot-llp-cls"),
            build="avcore_avar.task:AVARTask",
            config=AVARTaskConfig,
            head=HEAD,
            kind="clip",
            paper=PAPER,
            summary="the class of a clip, learned from k clips of each class, on any data set that has classes",
        ),
        TaskSpec(
            name=EVENTS,
            build="avcore_ave.task:AVETask",
            config=AVETaskConfig,
            head=HEAD,
            kind="segments",
            defaults=WITH_BACKGROUND,
            paper=PAPER,
            summary="event localisation, learned from k clips of each class (AVE)",
        ),
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """The readers of other plugins with k clips of each class in train, and VGGSound-AVEL."""
    return [
        _few("ave", "AVE", FewAVEConfig, "avcore_ave.annotations", AVE_MARKS, EVENTS, official=AVE_16),
        _few("own-events", "OwnEvents", FewOwnEventsConfig, "avcore_ave.table", (TABLE,), EVENTS),
        _few("ave-cls", "AVEClips", FewAVEConfig, "avcore_ave.annotations", AVE_MARKS, official=AVE_16),
        _few(
            "llp-cls",
            "LLPClips",
            FewLLPConfig,
            "avcore_avvp.annotations:class_settings_in",
            LLP_MARKS,
            defaults=WHAT_IS_LEFT,
            official={**LLP_OFFICIAL, "train": 384},
        ),
        _few("kinetics-sounds", "KineticsSounds", FewKineticsConfig, "avcore_avar.kinetics_lists", KINETICS_MARKS),
        _few("vggsound", "VGGSound", FewListedConfig, "avcore_avar.vggsound_lists", VGGSOUND_MARKS),
        _few("own-folders", "OwnFolders", FewRecordingsConfig, "avcore_avar.own", ()),
        DatasetSpec(
            name="vggsound-avel",
            build="avcore_fewshot.avel:VGGSoundAVEL",
            tasks=(EVENTS, "ave"),
            reads="avcore_fewshot.avel_lists:settings_in",
            marks=(AVEL_TABLE,),
            summary="VGGSound with a label for each second (VGGSound-AVEL), whole, to train on before few-shot",
        ),
    ]


def _few(
    name: str,
    reader: str,
    config: type,
    reads: str,
    marks: tuple[str, ...],
    task: str = CLIPS,
    defaults: Mapping[str, Any] | None = None,
    official: Mapping[str, int] | None = None,
) -> DatasetSpec:
    return DatasetSpec(
        name=f"fewshot-{name}",
        build=f"avcore_fewshot.datasets:Few{reader}",
        config=config,
        tasks=(task,),
        reads=reads if ":" in reads else f"{reads}:settings_in",
        marks=marks,
        defaults=defaults or {},
        as_published={"data": {"choose": "first"}},
        official=official or {},
        summary=f"the files of {name.removesuffix('-cls')}, data.shots clips of each class in train",
    )
