"""Each check of tasks is failed by one that is wrong in that one way, and by no other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sound_world import Asked, Asks, Naming, Reads, Scores, world
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from avcore import Batch, Event
from avcore.testing.cases import TaskCase
from avcore.testing.checks.tasks import inputs
from avcore.testing.subject import Subject

Failing = Callable[..., dict[str, str]]


class SaysNothingOfAxes(Naming):
    prediction: ClassVar[dict[str, str]] = {}


class InventsAxes(Naming):
    prediction: ClassVar[dict[str, str]] = {**Naming.prediction, "surest": "frames"}


class NamesAnotherFirst(Naming):
    prediction: ClassVar[dict[str, str]] = {"surest": "clip", **Naming.prediction}


class DetailsOfTensors(Naming):
    def details(self, times: Sequence[tuple[float, float]], prediction: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"class": prediction["label"]}


class DetailsWithoutEnd(Naming):
    def details(self, times: Sequence[tuple[float, float]], prediction: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"class": float("inf")}


class DetailsOfWholeClipsAlone(Naming):
    def details(self, times: Sequence[tuple[float, float]], prediction: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"ends": [times[place][1] for place in range(2)]}


class TellsNoTruth(Naming):
    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        return f"class {int(prediction['surest'])}"


class MovesWhatIsNotThere(Naming):
    pixel_targets: ClassVar[dict[str, float]] = {"mask": 0}


class MovesNumbers(Naming):
    pixel_targets: ClassVar[dict[str, float]] = {"label": 0}


class AsksWithoutHelp(Asks):
    given = replace(Asks.given, help="")


class AsksForNoType(Asks):
    given = replace(Asks.given, dtype="words")


class AsksForAList(Asks):
    given = replace(Asks.given, shape=[3])  # type: ignore[arg-type]


class ReadsAsItComes(Asks):
    def read_input(self, name: str, text: str) -> Tensor:
        return torch.tensor([len(word) for word in text.split()], dtype=torch.int64)


class ReadsOnlyNumbers(Asks):
    def read_input(self, name: str, text: str) -> Tensor:
        return torch.tensor([int(word) for word in text.split()][:3] or [0, 0, 0])


class ReadsNoText(Asks):
    def read_input(self, name: str, text: str) -> Tensor:
        return [0, 0, 0]  # type: ignore[return-value]


class OtherScore(Naming):
    score = "precision"


class ScoresAll(Scores):
    valid_only = False


class CountsPaddedClips(Naming):
    scores = ScoresAll


class OwnList(Scores):
    """What it remembers is no state, so that it stays with its process."""

    def __init__(self) -> None:
        super().__init__()
        self.own: list[Tensor] = []

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        self.own.append((prediction["label"] == batch.targets["label"])[batch.valid])

    def compute(self) -> dict[str, float]:
        return {"accuracy": float(torch.cat(self.own).float().mean())}


class ForgetsOthers(Naming):
    scores = OwnList


class Running(Scores):
    """The mean over pairs in the order in which they come, the lone clip at the end counting like a pair."""

    def compute(self) -> dict[str, float]:
        pairs = dim_zero_cat(self.right).double().split(2)
        return {"accuracy": float(torch.stack([pair.mean() for pair in pairs]).mean())}


class OrderOfArrival(Naming):
    scores = Running


class ByClip(Scores):
    """Leaves nothing after a batch without a valid clip."""

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        right_B = prediction["label"] == batch.targets["label"]
        self.right += [right_B[[place]] for place in batch.valid.nonzero().flatten().tolist()]


class NothingOfIdleProcesses(Naming):
    scores = ByClip


class Divides(Scores):
    """As some metrics of torchmetrics, which take no empty batch."""

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        super().update(prediction, batch)
        self.right[-1].reshape(len(self.right[-1]), -1)


class TakesNothingEmpty(Naming):
    scores = Divides


class PlainScores(Naming):
    """Metrics that are no `torchmetrics.Metric`."""

    def metrics(self, protocol: str) -> Any:
        return SimpleNamespace(update=lambda prediction, batch: None, compute=lambda: {"accuracy": 1.0})


class DrawsFloats(Naming):
    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        return frames_TYX3 / 255


class DrawsOver(Naming):
    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        frames_TYX3[:, 0] = 7
        return frames_TYX3


class Talks(Naming):
    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        return "one line\nand another"


class LosesItsSettings(Naming):
    def __init__(self, config: Any) -> None:
        self.config = None


class Eventful(Naming):
    """Predicts an event over the whole video."""

    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        return [Event(label="a", modality="audio", start_s=times[0][0], stop_s=times[-1][1], probability=1.0)]


class EndsBeforeItBegins(Naming):
    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        return [Event(label="a", start_s=times[0][1], stop_s=times[0][0])]


class NamesNothing(Naming):
    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        return [Event(label=" ", start_s=times[0][0], stop_s=times[0][1])]


class IsTooSure(Naming):
    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        return [Event(label="a", start_s=times[0][0], stop_s=times[0][1], probability=1.5)]


class SmellsIt(Naming):
    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        return [Event(label="a", start_s=times[0][0], stop_s=times[0][1], modality="smell")]


class Sure(Naming):
    """Has a majority answer: the class of most clips."""

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        return {"label": torch.stack([truth["label"] for truth in truths]).bincount().argmax()}


class AnswersFirst(Sure):
    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        return {"label": next(iter(truths))["label"]}


class AnswersABatch(Sure):
    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        return {"label": torch.stack([truth["label"] for truth in truths])}


class AnswersTooLittle(Naming):
    """The metrics read more of a prediction."""

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        return {}


class AnswersOtherwise(Sure):
    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        return {"class": torch.tensor(0)}


@pytest.mark.parametrize("task", [Sure, Eventful])
def test_a_majority_answer_and_events_pass(failing_of_all: Failing, task: type[Naming]) -> None:
    assert not failing_of_all(**world(task=task))


@pytest.mark.parametrize(
    ("given", "check", "says"),
    [
        ({"task": EndsBeforeItBegins}, "task: events", "is from 1.0 to 0.0 s"),
        ({"task": NamesNothing}, "task: events", "has no name"),
        ({"task": IsTooSure}, "task: events", "the probability 1.5"),
        ({"task": SmellsIt}, "task: events", "'smell', no modality"),
        ({"task": AnswersFirst}, "task: majority", "in another order"),
        ({"task": AnswersABatch}, "task: majority", "and a head predicts () for a clip"),
        ({"task": AnswersTooLittle}, "task: majority", "the update of its metrics fails"),
        ({"task": AnswersOtherwise}, "task: majority", "'class'"),
        ({"task": SaysNothingOfAxes}, "task: predictions", "'label'"),
        ({"task": InventsAxes}, "task: predictions", "'frames'"),
        ({"task": NamesAnotherFirst}, "task: predictions", "'surest' first"),
        ({"task": DetailsOfTensors}, "task: details", "no JSON"),
        ({"task": DetailsWithoutEnd}, "task: details", "no JSON"),
        ({"task": DetailsOfWholeClipsAlone}, "task: details", "IndexError"),
        ({"task": TellsNoTruth}, "task: description", "fails on label"),
        ({"task": MovesWhatIsNotThere}, "task: pixel targets", "nothing would move it"),
        ({"task": MovesNumbers}, "task: pixel targets", "not (B, ..., Y, X)"),
        ({"task": AsksWithoutHelp, "head": Reads, "files": Asked}, "task: inputs", "has no help"),
        ({"task": AsksForAList, "head": Reads, "files": Asked}, "task: inputs", "above 0"),
        ({"task": ReadsAsItComes, "head": Reads, "files": Asked}, "task: inputs", "is read as"),
        ({"task": ReadsOnlyNumbers, "head": Reads, "files": Asked}, "task: inputs", "ValueError"),
        ({"task": ReadsNoText, "head": Reads, "files": Asked}, "task: inputs", "no tensor"),
        ({"task": LosesItsSettings}, "task: default head", "super().__init__(config)"),
        ({"task": OtherScore}, "task: metrics", "'precision'"),
        ({"task": CountsPaddedClips}, "task: padded clips", "batch.valid"),
        ({"task": NothingOfIdleProcesses}, "task: padded clips", "without a valid clip"),
        ({"task": TakesNothingEmpty}, "task: padded clips", "fails on a batch of no valid clip"),
        ({"task": ForgetsOthers}, "task: processes", "add_state"),
        ({"task": OrderOfArrival}, "task: processes", "batch.samples"),
        ({"task": DrawsFloats}, "task: drawing", "float64"),
        ({"task": DrawsOver}, "task: drawing", "changes the frames"),
        ({"task": Talks}, "task: description", "several lines"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_broken_one_fails_one_check(failing_of_all: Failing, given: dict[str, Any], check: str, says: str) -> None:
    found = failing_of_all(**world(**given))
    assert list(found) == [check], found
    assert says in found[check]


def test_metrics_of_no_known_kind_fail_whatever_takes_them(failing_of_all: Failing) -> None:
    found = failing_of_all(**world(task=PlainScores))
    assert list(found) == ["task: metrics", "task: padded clips", "task: processes"]
    assert all("derive it from torchmetrics.Metric" in text for text in found.values())


def test_an_input_of_no_type_is_found(make_plugin: Callable[..., Any], world_files: Path) -> None:
    plugin = make_plugin(**world(task=AsksForNoType, files=Asked))
    subject = Subject.of_module(plugin, "broken", data={"files": world_files})
    with pytest.raises(AssertionError, match="'words' is no type"):
        inputs(TaskCase(subject, subject.specs("tasks")[0]))
