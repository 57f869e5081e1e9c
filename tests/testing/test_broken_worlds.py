"""Each check of heads, tasks, data sets and methods is failed by one that is wrong in that one way, and by no other."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avcore import (
    AVCoreError,
    Batch,
    Clip,
    ClipSettings,
    Dataset,
    DatasetSpec,
    Features,
    Head,
    HeadSpec,
    MethodSpec,
    NoConfig,
    Progress,
    PromptSpec,
    StreamLayout,
    Task,
    TaskSpec,
    Windows,
)
from avcore.testing.backbones import ToyBackbones
from avcore.testing.cases import DatasetCase
from avcore.testing.checks.datasets import tasks
from avcore.testing.subject import Subject
from avcore.testing.toys import at_hand

Failing = Callable[..., dict[str, str]]


class Scores(Metric):
    valid_only = True
    right: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        right_B = prediction["label"] == batch.targets["label"]
        self.right.append(right_B[batch.valid] if self.valid_only else right_B)

    def compute(self) -> dict[str, float]:
        return {"accuracy": float(dim_zero_cat(self.right).float().mean())}


class Naming(Task):
    score = "accuracy"
    prediction: ClassVar[dict[str, str]] = {"label": "clip"}
    scores: type[Scores] = Scores

    def metrics(self, protocol: str) -> Scores:
        return self.scores()

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        return np.asarray(frames_TYX3 // 2 if int(prediction["label"]) else 255 - frames_TYX3)

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(targets)

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        return f"class {int(prediction['label'])}"


class Linear(Head):
    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.map = nn.Linear(layouts["visual"].width, 2)

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"logits": self.map(features.stream("visual").pooled.mean(1))}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        each_B = F.cross_entropy(output["logits"].float(), batch.targets["label"], reduction="none")
        return {"entropy": each_B[batch.valid].mean()}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"label": output["logits"].argmax(-1)}


class Files(Dataset):
    splits: tuple[str, ...] = ("train", "test")

    def __init__(self, config: ClipSettings, root: Path, task: Task) -> None:
        self.root = Path(root)
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)

    def clips(self, split: str) -> Sequence[Clip]:
        sounds = sorted((self.root / split).glob("*.wav"))
        if not sounds:
            raise AVCoreError(f"'{self.root / split}' holds no sound.")
        return [self.clip(sound) for sound in sounds]

    def clip(self, sound: Path) -> Clip:
        return Clip(name=sound.stem, frames=(sound.with_suffix(".png"),) * self.segments, audio=sound, seconds=2.0)

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {"label": torch.tensor(int(clip.name) % 2)}


def write(root: Path) -> Path:
    for split in Files.splits:
        (root / split).mkdir()
        for number in range(4):
            (root / split / f"{number}.wav").touch()
            (root / split / f"{number}.png").touch()
    return root


def world(
    *, head: type[Head] = Linear, task: type[Task] = Naming, files: type[Files] = Files, **fields: Any
) -> dict[str, list[Any]]:
    """A head, a task and a data set that belong together."""
    given = {"tasks": ("naming",), "defaults": {"data.segments": 2, "data.clip_seconds": 2.0}, **fields}
    return {
        "heads": [at_hand(HeadSpec, name="linear", thing=head, config=NoConfig)],
        "tasks": [at_hand(TaskSpec, name="naming", thing=task, head="linear")],
        "datasets": [at_hand(DatasetSpec, name="files", thing=files, **given)],
    }


KINDS = ("head", "task", "data set")


def failing_of_all(failing: Failing, declared: dict[str, list[Any]]) -> dict[str, str]:
    found = [(kind, failing(kind, data={"files": write_once()}, **declared)) for kind in KINDS]
    return {f"{kind}: {name}": text for kind, failed in found for name, text in failed.items()}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> Iterator[None]:
    FOLDER.append(write(tmp_path))
    yield
    FOLDER.clear()


FOLDER: list[Path] = []


def write_once() -> Path:
    return FOLDER[0]


# --------------------------------------------------------------------------------------------------------------------
# Heads


class PredictsOne(Linear):
    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {**super().predict(output, features), "surest": output["logits"].amax()[None]}


class UnusedMap(Linear):
    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.other = nn.Linear(2, 2)


class CountsPadding(Linear):
    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"entropy": F.cross_entropy(output["logits"].float(), batch.targets["label"])}


class SeesOthers(Linear):
    def forward(self, features: Features) -> dict[str, Tensor]:
        logits = super().forward(features)["logits"]
        # Of the first clips alone, so that padding changes nothing.
        return {"logits": logits - 2 * logits[:3].mean(0)}


class MixesTypes(Linear):
    def forward(self, features: Features) -> dict[str, Tensor]:
        logits = super().forward(features)["logits"]
        return {"logits": torch.lerp(logits, self.map.bias.expand_as(logits), 0.5)}


# --------------------------------------------------------------------------------------------------------------------
# Tasks


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


# --------------------------------------------------------------------------------------------------------------------
# Data sets


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


class OddTargets(Files):
    """Of the training clips, which nothing else looks at."""

    def target(self, clip: Clip) -> dict[str, Tensor]:
        target = super().target(clip)
        odd = clip.audio is not None and clip.audio.parent.name == "train" and clip.name == "2"
        return {"label": target["label"].float()} if odd else target


class ReadsNothing(Files):
    def clips(self, split: str) -> Sequence[Clip]:
        return [self.clip(sound) for sound in sorted((self.root / split).glob("*.wav"))]


class OwnWindows(Files):
    def __init__(self, config: ClipSettings, root: Path, task: Task) -> None:
        super().__init__(config, root, task)
        self.windows = Windows(length=0.5, margin=0.5)


def finds_nothing(root: Path) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("given", "check", "says"),
    [
        ({"head": PredictsOne}, "head: outputs", "'surest'"),
        ({"head": UnusedMap}, "head: losses", "other.weight"),
        ({"head": CountsPadding}, "head: padded clips", "batch.valid"),
        ({"head": SeesOthers}, "head: batch equivariance", "clips must not see each other"),
        ({"head": MixesTypes}, "head: autocast", "RuntimeError"),
        ({"task": LosesItsSettings}, "task: default head", "super().__init__(config)"),
        ({"task": OtherScore}, "task: metrics", "'precision'"),
        ({"task": CountsPaddedClips}, "task: padded clips", "batch.valid"),
        ({"task": NothingOfIdleProcesses}, "task: padded clips", "without a valid clip"),
        ({"task": ForgetsOthers}, "task: processes", "add_state"),
        ({"task": OrderOfArrival}, "task: processes", "batch.samples"),
        ({"task": DrawsFloats}, "task: drawing", "float64"),
        ({"task": DrawsOver}, "task: drawing", "changes the frames"),
        ({"task": Talks}, "task: description", "several lines"),
        ({"files": AnyOrder}, "data set: splits", "another order"),
        ({"files": SameNames}, "data set: splits", "several clips named '0'"),
        ({"files": LostPictures}, "data set: files", ".jpg"),
        ({"files": OnePicture}, "data set: files", "1 pictures for 2 segments"),
        ({"files": OddTargets}, "data set: targets", "stacked"),
        ({"files": ReadsNothing}, "data set: wrong root", "which holds none"),
        ({"files": OwnWindows}, "data set: settings", "(2, 0.5, 0.5)"),
        ({"default_for": ("other",)}, "data set: tasks", "'other'"),
        ({"reads": f"{__name__}:finds_nothing"}, "data set: what files say", "finds nothing"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_broken_head_task_or_data_set_fails_one_check(
    failing: Failing, given: dict[str, Any], check: str, says: str
) -> None:
    found = failing_of_all(failing, world(**given))
    assert list(found) == [check], found
    assert says in found[check]


def test_metrics_of_no_known_kind_fail_whatever_takes_them(failing: Failing) -> None:
    found = failing_of_all(failing, world(task=PlainScores))
    assert list(found) == ["task: metrics", "task: padded clips", "task: processes"]
    assert all("derive it from torchmetrics.Metric" in text for text in found.values())


def test_a_sound_world_fails_nothing(failing: Failing) -> None:
    assert failing_of_all(failing, world()) == {}


def test_settings_that_no_run_has_are_found(make_plugin: Callable[..., Any]) -> None:
    defaults = {"data.segments": 2, "data.clip_seconds": 2.0, "train.epocs": 3}
    subject = Subject.of_module(make_plugin(**world(defaults=defaults)), "broken", data={"files": write_once()})
    with pytest.raises(AssertionError, match=r"train\.epocs"):
        tasks(DatasetCase(subject, subject.specs("datasets")[0]))


# --------------------------------------------------------------------------------------------------------------------
# Methods


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """``recipes(text)`` is a package with that text as the recipe of the task ``naming``."""

    def make(text: str) -> str:
        name = f"recipes_{abs(hash(str(tmp_path)))}"
        folder = tmp_path / "packages" / name / "recipes"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / "naming.yaml").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        return name

    return make


SOUND = "settings: {visual.backbone: toy_plain, optim.lr: 0.1}\npublished: [{metric: a, value: 1.5, source: table 1}]\n"


def converts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(state)


def test_a_broken_recipe_for_demos_fails_one_check(
    failing: Failing, recipes: Callable[[str], str], tmp_path: Path
) -> None:
    package = recipes(SOUND)
    (tmp_path / "packages" / package / "recipes" / "naming.demo.yaml").write_text("settings: {optim.rate: 0.1}\n")
    method = MethodSpec(name="all", prompts=("mine",), summary="one line", paper="arXiv:0", recipes=package)
    made = world()
    found = failing(
        "method",
        **{**made, "datasets": [replace(one, demo=True) for one in made["datasets"]]},
        backbones=list(ToyBackbones().avcore_backbones()),
        prompts=[at_hand(PromptSpec, name="mine", thing=None)],
        methods=[method],
    )
    # What does not resolve on its data set is no plain recipe either.
    assert {*found} >= {"recipes on demos"}
    assert "optim.rate" in found["recipes on demos"]


@pytest.mark.parametrize(
    ("text", "fields", "check", "says"),
    [
        (SOUND, {"prompts": ("other",)}, "parts", "'other'"),
        (SOUND, {"prompts": ()}, "parts", "neither prompts nor fusions"),
        (SOUND, {"summary": ""}, "summary", "no summary"),
        (SOUND, {"paper": ""}, "summary", "names no paper"),
        (SOUND.replace("optim.lr", "optim.rate"), {}, "recipes", "optim.rate"),
        (SOUND.replace("1.5", "good"), {}, "published numbers", "no number"),
        (SOUND.replace("table 1", "''"), {}, "published numbers", "no source"),
        (SOUND, {"converter": f"{__name__}:converts"}, "converter", "convert(state, model)"),
        (SOUND, {"converter": f"{__name__}:nowhere"}, "converter", "nowhere"),
        (SOUND, {}, "", ""),
    ],
)
def test_a_broken_method_fails_one_check(
    failing: Failing,
    recipes: Callable[[str], str],
    text: str,
    fields: dict[str, Any],
    check: str,
    says: str,
) -> None:
    given = {"prompts": ("mine",), "summary": "one line", "paper": "arXiv:0", "recipes": recipes(text), **fields}
    found = failing(
        "method",
        **world(),
        backbones=list(ToyBackbones().avcore_backbones()),
        prompts=[at_hand(PromptSpec, name="mine", thing=None)],
        methods=[MethodSpec(name="all", **given)],
    )
    if "prompts" in fields:
        # What is listed and not there makes no configuration either.
        found.pop("recipes", None)
    assert list(found) == ([check] if check else []), found
    assert says in found.get(check, "")
