"""Audio-visual question answering for avcore (AVQA, MUSIC-AVQA): task ``avqa``, its head and reader.

This module is light: it declares, and imports no torch.
"""

import logging
from collections.abc import Iterable
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import DatasetSpec, HeadSpec, TaskSpec
from avcore_avqa.annotations import FOLDERS, VERSIONS
from avcore_avqa.config import GROUNDING, AVQATaskConfig, AVSTHeadConfig, GroundingHeadConfig, MusicAVQADataConfig

__all__ = ["avcore_datasets", "avcore_heads", "avcore_run_finished", "avcore_tasks"]

PAPER = "arXiv:2203.14072"
OFFICIAL = {"train": 32087, "val": 4595, "test": 9185}
"""Questions of the published splits (``json/``)."""
MARKS = tuple(
    f"{folder}/{version}/avqa-{split}.json".removeprefix("/")
    for split in ("train", "test")
    for folder in FOLDERS
    for version in VERSIONS
)
WHAT_IS_LEFT = {"data": {"broken": "skip", "broken_limit": 0.5}}
"""Videos are fetched by hand: those that are there are read, and coverage stands beside the scores."""
SELECTION = {"train": {"select": "val"}}
"""AVST, LAVISH and DG-SCT choose the epoch on val, so that the paper protocol does too."""


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """The head of the data set's paper, with the widths that later methods gave it."""
    return [
        HeadSpec(
            name="avqa.avst",
            serves=("answer",),
            build="avcore_avqa.heads:AVSTHead",
            config=AVSTHeadConfig,
            encoders=AVSTHeadConfig.encoders,
            defaults=AVSTHeadConfig.brings,
            paper=PAPER,
            summary="sound grounded in pictures, seconds picked by the question, an answer of a fixed list (AVST)",
        ),
        HeadSpec(
            name="avqa.grounding",
            serves=("avqa",),
            build="avcore_avqa.grounding:GroundingHead",
            config=GroundingHeadConfig,
            defaults=GROUNDING,
            paper=PAPER,
            summary="AVST's first stage: what sound goes with which pictures; avqa.avst starts there (--start)",
        ),
    ]


@hookimpl
def avcore_tasks() -> Iterable[TaskSpec]:
    """Questions about a whole clip."""
    return [
        TaskSpec(
            name="avqa",
            build="avcore_avqa.task:AVQATask",
            config=AVQATaskConfig,
            head="avqa.avst",
            kind="answer",
            defaults=SELECTION,
            paper=PAPER,
            summary="answer a question about what is seen and heard in a video (MUSIC-AVQA)",
        )
    ]


@hookimpl
def avcore_datasets() -> Iterable[DatasetSpec]:
    """The reader of the official layout."""
    return [
        DatasetSpec(
            name="music-avqa",
            build="avcore_avqa.datasets:MusicAVQA",
            config=MusicAVQADataConfig,
            tasks=("avqa",),
            reads="avcore_avqa.annotations:settings_in",
            marks=MARKS,
            official=OFFICIAL,
            defaults=WHAT_IS_LEFT,
            paper=PAPER,
            summary="MUSIC-AVQA: 60 s, 10 segments, questions of nine types, 42 answers",
        )
    ]


@hookimpl
def avcore_run_finished(run: Any, status: str) -> None:
    """Say where a run answers no better than the templates alone do: such a model looks and listens to nothing."""
    if status != "finished" or run.config.task != "avqa":
        return
    for split, scores in run.results.metrics.items():
        if "prior" in scores and scores["accuracy"] <= scores["prior"]:
            logging.getLogger(__name__).warning(
                "On %s %.2f %% of the answers are right, and %.2f %% by the wording of questions alone (prior): the "
                "run has learned no more than that. Train longer, or at another rate (optim.head_lr).",
                split,
                scores["accuracy"],
                scores["prior"],
            )
