"""Readers of other plugins with k clips of each class in train; val and test are whole."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avcore.data.recordings import listed
from avcore.errors import DataError
from avcore.tasks import Clip, Dataset, Task
from avcore_avar.kinetics import KineticsSounds
from avcore_avar.own import OwnFolders
from avcore_avar.vggsound import VGGSound
from avcore_ave.datasets import AVE
from avcore_ave.own import OwnEvents
from avcore_avvp.datasets import LLP
from avcore_fewshot.config import FewAVEConfig, FewLLPConfig, Shots

__all__ = [
    "FewAVE",
    "FewAVEClips",
    "FewKineticsSounds",
    "FewLLPClips",
    "FewOwnEvents",
    "FewOwnFolders",
    "FewShots",
    "FewVGGSound",
    "FewWholeClips",
    "few",
]


def few(clips: Sequence[Clip], settings: Shots) -> list[Clip]:
    """The k clips of each class (`Clip.group`) that are left, in their order: the first ones, or drawn."""
    order = [*range(len(clips))]
    if settings.choose == "seed":
        order = np.random.default_rng(settings.shot_seed).permutation(len(clips)).tolist()
    taken: Counter[str] = Counter()
    kept = []
    for place in order:
        taken[clips[place].group] += 1
        if taken[clips[place].group] <= settings.shots:
            kept.append(place)
    return [clips[place] for place in sorted(kept)]


class FewShots(Dataset):
    """Stands before a reader whose `Clip.group` is the class, with settings that are `Shots`: k of each train."""

    config: Any
    classes: tuple[str, ...]

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of a split; of train those that are left."""
        found = super().clips(split)
        return few(self.candidates(found), self.config) if split == "train" else found

    def candidates(self, clips: Sequence[Clip]) -> Sequence[Clip]:
        """The training clips that may be taken; all of them."""
        return clips

    def notes(self) -> list[str]:
        """Those of the reader, and which classes have fewer clips than were asked for, or none."""
        counted = Counter(dict.fromkeys(self.classes, 0))
        counted.update(clip.group for clip in self.clips("train"))
        short = [f"{name} ({count})" for name, count in counted.items() if count < self.config.shots]
        told = [f"Classes of which train has fewer than {self.config.shots} clips: {listed(short)}."] if short else []
        return [*super().notes(), *told]


class FewWholeClips(FewShots):
    """The same before a reader of segments, for tasks that have a class for the whole clip.

    Raises:
        DataError: the task has other classes than the files.
    """

    root: Path

    def __init__(self, config: Any, root: Path, task: Task | None = None) -> None:
        super().__init__(config, root, task)  # type: ignore[call-arg]  # of the reader behind
        if task is not None and task.classes != self.classes:
            raise DataError(
                f"The files in '{self.root}' have {len(self.classes)} classes ({self.classes[0]}, ...), and "
                f"task_options.classes has {len(task.classes)} others: leave that setting out, and the names are taken "
                "from the files."
            )


class FewAVE(FewShots, AVE):
    """AVE, with labels of segments."""

    config: FewAVEConfig


class FewOwnEvents(FewShots, OwnEvents):
    """Own videos with their events."""


class FewAVEClips(FewWholeClips, AVE):
    """AVE, with the class of the clip: ``label`` () int64."""

    config: FewAVEConfig

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``label`` () int64: the class of the clip's event."""
        return {"label": torch.tensor(self.classes.index(clip.info["event"].category))}


class FewLLPClips(FewWholeClips, LLP):
    """LLP, with one class of the clip: ``label`` () int64. Clips of one class alone train."""

    config: FewLLPConfig

    def candidates(self, clips: Sequence[Clip]) -> Sequence[Clip]:
        """The clips that have one class."""
        return [clip for clip in clips if len(clip.info["labels"]) == 1]

    def counts(self, split: str) -> dict[str, int]:
        """Nothing: seconds are not read."""
        return {}

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``label`` () int64: of the clip's classes the first in their order, by which DG-SCT scores."""
        return {"label": torch.tensor(min(map(self.classes.index, clip.info["labels"])))}


class FewKineticsSounds(FewShots, KineticsSounds):
    """Kinetics-Sounds."""


class FewVGGSound(FewShots, VGGSound):
    """VGGSound."""


class FewOwnFolders(FewShots, OwnFolders):
    """Own videos in a folder for each class."""
