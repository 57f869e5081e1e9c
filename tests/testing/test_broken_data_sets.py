"""Each check of data sets is failed by one that is wrong in that one way, and by no other."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sound_world import Asked, Asks, Files, Naming, Negatives, Reads, world
from torch import Tensor

from avcore import (
    AVCoreError,
    Clip,
    ClipSettings,
    Task,
    Windows,
)
from avcore.testing.cases import DatasetCase
from avcore.testing.checks.datasets import tasks
from avcore.testing.subject import Subject

Failing = Callable[..., dict[str, str]]


class AnyOrder(Files):
    turn = itertools.count()

    def clips(self, split: str) -> Sequence[Clip]:
        found = super().clips(split)
        return found[::-1] if next(self.turn) % 2 else found


class SameNames(Files):
    def clip(self, sound: Path) -> Clip:
        return replace(super().clip(sound), name="0")


class LostPictures(Files):
    def clip(self, sound: Path) -> Clip:
        return replace(super().clip(sound), frames=(sound.with_suffix(".jpg"),) * self.segments)


class OnePicture(Files):
    def clip(self, sound: Path) -> Clip:
        return replace(super().clip(sound), frames=(sound.with_suffix(".png"),))


class Refusing(Files):
    """As readers that look whether all is there."""

    def clips(self, split: str) -> Sequence[Clip]:
        found = super().clips(split)
        for clip in found:
            assert isinstance(clip.frames, tuple)
            if not clip.frames[0].is_file():
                raise AVCoreError(f"'{clip.frames[0]}' is missing.")
        return found


class Stopping(Files):
    def clips(self, split: str) -> Sequence[Clip]:
        found = super().clips(split)
        return list(itertools.takewhile(lambda clip: clip.files[0].is_file(), found))

    def clip(self, sound: Path) -> Clip:
        return replace(super().clip(sound), files=(sound.with_suffix(".png"),))


class Unsure(Naming):
    def is_empty(self, targets: Mapping[str, Tensor]) -> bool:
        return targets["label"] < 0  # type: ignore[return-value]


class OddTargets(Files):
    """Of the training clips, which nothing else looks at."""

    def target(self, clip: Clip) -> dict[str, Tensor]:
        target = super().target(clip)
        return {"label": target["label"].float()} if trains(clip) and clip.name == "2" else target


class ReadsNothing(Files):
    def clips(self, split: str) -> Sequence[Clip]:
        return [self.clip(sound) for sound in sorted((self.root / split).glob("*.wav"))]


class OwnWindows(Files):
    def __init__(self, config: ClipSettings, root: Path, task: Task) -> None:
        super().__init__(config, root, task)
        self.windows = Windows(length=0.5, margin=0.5)


class TellsNumbers(Files):
    def notes(self) -> Sequence[str]:
        return [3]  # type: ignore[list-item]


class CountsShares(Files):
    def counts(self, split: str) -> dict[str, int]:
        return {"padded": 0.5}  # type: ignore[dict-item]


class AskedInFloats(Asked):
    """Of the training clips, which nothing else looks at; so are those below."""

    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        made = super().inputs(clip, epoch)
        return {name: value.float() for name, value in made.items()} if trains(clip) else made


class AskedTooMuch(Asked):
    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        made = super().inputs(clip, epoch)
        return {**made, "tags": torch.zeros(2)} if trains(clip) else made


class AskedAnything(Asked):
    turn = itertools.count()

    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        return {"words": torch.tensor([int(clip.name), next(self.turn) % 9, 0])}


class OwnNegatives(Negatives):
    turn = itertools.count()

    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        return super().draw(clip, np.random.default_rng(next(self.turn)))


class LostNegatives(Negatives):
    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        drawn = super().draw(clip, random)
        lost = replace(drawn.companions["negative"], audio=self.root / "lost.wav")
        return replace(drawn, companions={"negative": lost})


class ShortNegatives(Negatives):
    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        drawn = super().draw(clip, random)
        return replace(drawn, companions={"negative": replace(drawn.companions["negative"], seconds=1.0)})


class FewShots(Negatives):
    shots = (0,)

    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        negative = super().draw(clip, random).companions["negative"]
        return replace(clip, companions={"negative": replace(negative, shots=[(negative, at) for at in self.shots])})


class ShotsBehindTheEnd(FewShots):
    shots = (0, 2)


class SomeNegatives(Negatives):
    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        return clip if trains(clip) and clip.name == "2" else super().draw(clip, random)


class DrawnLabels(Files):
    """Right: what a clip is asked is drawn, and its truth follows."""

    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        return replace(clip, info={"label": int(random.integers(2))})

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {"label": torch.tensor(clip.info["label"])}


def trains(clip: Clip) -> bool:
    return clip.audio is not None and clip.audio.parent.name == "train"


def finds_nothing(root: Path) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("given", "check", "says"),
    [
        ({"files": AnyOrder}, "data set: splits", "another order"),
        ({"files": SameNames}, "data set: splits", "several clips named '0'"),
        ({"official": {"train": 6, "tests": 2}}, "data set: official", "no split 'tests'"),
        ({"official": {"test": 2}}, "data set: official", "leaves out 'train'"),
        ({"official": {"train": 0}}, "data set: official", "'train' 0 clips"),
        ({"official": {"train": 6}, "demo": True}, "data set: official", "is a demo"),
        ({"files": LostPictures}, "data set: files", ".jpg"),
        ({"files": OnePicture}, "data set: files", "1 pictures for 2 segments"),
        ({"files": Refusing}, "data set: missing files", "is missing. 'clips' names the files"),
        ({"files": Stopping}, "data set: missing files", "which is whole, is not listed any more"),
        ({"task": Unsure}, "data set: targets", "tensor(False), no bool"),
        ({"files": OddTargets}, "data set: targets", "stacked"),
        ({"task": Asks, "head": Reads, "files": AskedInFloats}, "data set: inputs", "torch.float32"),
        ({"task": Asks, "head": Reads, "files": AskedTooMuch}, "data set: inputs", "'tags'"),
        ({"task": Asks, "head": Reads, "files": AskedAnything}, "data set: inputs", "read again in epoch 0"),
        ({"files": OwnNegatives}, "data set: companions", "from nothing else"),
        ({"files": LostNegatives}, "data set: companions", "lost.wav"),
        ({"files": ShortNegatives}, "data set: companions", "1.0 s"),
        ({"files": FewShots}, "data set: companions", "shots of the segments [0]: it takes 2"),
        ({"files": ShotsBehindTheEnd}, "data set: companions", "shots of the segments [0, 2]: it takes 2"),
        ({"files": SomeNegatives}, "data set: companions", "others ['negative']"),
        ({"files": ReadsNothing}, "data set: wrong root", "which holds none"),
        ({"files": OwnWindows}, "data set: settings", "(2, 0.5, 0.5)"),
        ({"as_published": {"data": {"shotz": 1}}}, "data set: protocols", "cannot be used with protocol=paper"),
        ({"files": TellsNumbers}, "data set: what is told", "the note 3, no text"),
        ({"files": CountsShares}, "data set: what is told", "counts 0.5 of 'padded'"),
        ({"marks": ("train/none.txt", "list.csv")}, "data set: marks", "none of the marks"),
        ({"default_for": ("other",)}, "data set: tasks", "'other'"),
        ({"reads": f"{__name__}:finds_nothing"}, "data set: what files say", "finds nothing"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_broken_one_fails_one_check(failing_of_all: Failing, given: dict[str, Any], check: str, says: str) -> None:
    found = failing_of_all(**world(**given))
    assert list(found) == [check], found
    assert says in found[check]


def test_truths_are_those_of_drawn_clips(failing_of_all: Failing) -> None:
    assert failing_of_all(**world(files=DrawnLabels)) == {}


def test_settings_that_no_run_has_are_found(make_plugin: Callable[..., Any], world_files: Path) -> None:
    defaults = {"data.segments": 2, "data.clip_seconds": 2.0, "train.epocs": 3}
    subject = Subject.of_module(make_plugin(**world(defaults=defaults)), "broken", data={"files": world_files})
    with pytest.raises(AssertionError, match=r"train\.epocs"):
        tasks(DatasetCase(subject, subject.specs("datasets")[0]))
