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
    Input,
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
from avcore.testing.cases import DatasetCase, TaskCase
from avcore.testing.checks.datasets import tasks
from avcore.testing.checks.tasks import inputs
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
    # Of every head below.
    prediction: ClassVar[dict[str, str]] = {"label": "clip", "surest": "clip", "heard": "segment", "seen": "pixel"}
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
    *,
    head: type[Head] = Linear,
    task: type[Task] = Naming,
    files: type[Files] = Files,
    serves: tuple[str, ...] = (),
    **fields: Any,
) -> dict[str, list[Any]]:
    """A head, a task and a data set that belong together."""
    given = {"tasks": ("naming",), "defaults": {"data.segments": 2, "data.clip_seconds": 2.0}, **fields}
    return {
        "heads": [at_hand(HeadSpec, name="linear", thing=head, config=NoConfig, serves=serves)],
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


class CountsClips(Linear):
    def forward(self, features: Features) -> dict[str, Tensor]:
        return {**super().forward(features), "clips": torch.tensor(features.clips)}


class MixesTypes(Linear):
    def forward(self, features: Features) -> dict[str, Tensor]:
        logits = super().forward(features)["logits"]
        return {"logits": torch.lerp(logits, self.map.bias.expand_as(logits), 0.5)}


class ForgetsSegments(Linear):
    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {**super().predict(output, features), "heard": output["logits"][:, :1].repeat(1, features.segments + 1)}


class ForgetsColumns(Linear):
    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        maps_BTY = output["logits"][:, None].repeat(1, features.segments, 1)
        return {**super().predict(output, features), "seen": maps_BTY}


class DiesAway(Linear):
    """Divides by what is left of the training."""

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        left = torch.tensor(float(progress.epochs - 1 - progress.epoch))
        return {name: term / left for name, term in super().loss(output, batch, progress).items()}


class Ratchets(Linear):
    """Remembers how far a training went."""

    furthest = 0

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        self.furthest = max(self.furthest, progress.epoch)
        return {name: term / (1 + self.furthest) for name, term in super().loss(output, batch, progress).items()}


class Waits(Linear):
    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = super().loss(output, batch, progress)
        return {**terms, "late": terms["entropy"]} if progress.epoch > 1 else terms


class AsksForNobody(Linear):
    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.companions = {"partner": "plain"}


class Compares(Linear):
    """Sound: sees how far another clip is from its own."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.companions = {"negative": "plain"}

    def forward(self, features: Features) -> dict[str, Tensor]:
        made = super().forward(features)
        if "negative" in features.companions:
            other = features.companions["negative"].stream("visual").pooled.mean(1)
            made["other"] = self.map(other)
        return made

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        apart_B = (output["logits"] - output["other"]).float().square().mean(1)
        truth_B = batch.companions["negative"].targets["label"] - batch.targets["label"]
        apart = (apart_B * truth_B.abs())[batch.valid & batch.companions["negative"].valid].mean()
        return {**super().loss(output, batch, progress), "apart": apart}


class AlwaysCompares(Compares):
    def forward(self, features: Features) -> dict[str, Tensor]:
        other = features.companions["negative"].stream("visual").pooled.mean(1)
        return {**Linear.forward(self, features), "other": self.map(other)}


class ComparesOddly(Compares):
    """With one that no batch has, in a way that no model knows."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.companions = {"negative": "plain", "absent": "frozen"}


class Reads(Linear):
    """Sound: adds what was written of a clip."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.words = nn.Embedding(9, 2)

    def forward(self, features: Features) -> dict[str, Tensor]:
        read_B2 = self.words(features.inputs["words"]).mean(1)
        return {"logits": super().forward(features)["logits"] + read_B2}


# --------------------------------------------------------------------------------------------------------------------
# Tasks


class SaysNothingOfAxes(Naming):
    prediction: ClassVar[dict[str, str]] = {}


class InventsAxes(Naming):
    prediction: ClassVar[dict[str, str]] = {**Naming.prediction, "surest": "frames"}


class Asks(Naming):
    """Sound: takes three ids."""

    given = Input(shape=(3,), dtype="int64", help="three numbers from 0 to 8")

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"words": self.given}

    def read_input(self, name: str, text: str) -> Tensor:
        words = text.split()
        if len(words) != 3 or not all(word in "012345678" for word in words):
            raise AVCoreError(f"'{text}' is not three numbers from 0 to 8.")
        return torch.tensor([int(word) for word in words])


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
        return {"label": target["label"].float()} if trains(clip) and clip.name == "2" else target


class ReadsNothing(Files):
    def clips(self, split: str) -> Sequence[Clip]:
        return [self.clip(sound) for sound in sorted((self.root / split).glob("*.wav"))]


class OwnWindows(Files):
    def __init__(self, config: ClipSettings, root: Path, task: Task) -> None:
        super().__init__(config, root, task)
        self.windows = Windows(length=0.5, margin=0.5)


class Asked(Files):
    """Sound: three ids for each clip."""

    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        return {"words": torch.tensor([int(clip.name), epoch, 0])}


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


class Negatives(Files):
    """Sound: the negative of a clip is another of the other label."""

    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        assert clip.audio is not None
        others = [other for other in self.clips(clip.audio.parent.name) if int(other.name) % 2 != int(clip.name) % 2]
        return replace(clip, companions={"negative": others[random.integers(len(others))]})


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


class SomeNegatives(Negatives):
    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        return clip if trains(clip) and clip.name == "2" else super().draw(clip, random)


def trains(clip: Clip) -> bool:
    return clip.audio is not None and clip.audio.parent.name == "train"


def finds_nothing(root: Path) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("given", "check", "says"),
    [
        ({"head": PredictsOne}, "head: outputs", "'surest'"),
        ({"head": UnusedMap}, "head: losses", "other.weight"),
        ({"head": CountsPadding}, "head: padded clips", "batch.valid"),
        ({"head": SeesOthers}, "head: batch equivariance", "clips must not see each other"),
        ({"head": CountsClips}, "head: batch equivariance", "'clips' is one number"),
        ({"head": MixesTypes}, "head: autocast", "RuntimeError"),
        ({"head": ForgetsSegments}, "head: prediction axes", "(B, T, ...)"),
        ({"head": ForgetsColumns}, "head: prediction axes", "(B, T, Y, X)"),
        ({"serves": ("naming", "namings")}, "head: serves", "Did you mean 'naming'"),
        ({"head": AsksForNobody}, "head: companions", "'partner'"),
        ({"head": ComparesOddly, "files": Negatives}, "head: companions", "'frozen'"),
        ({"head": AlwaysCompares, "files": Negatives}, "head: companions", "features.companions"),
        ({"head": DiesAway}, "head: progress", "the loss 'entropy' is inf"),
        ({"head": Ratchets}, "head: progress", "asked for again"),
        ({"head": Waits}, "head: progress", "late"),
        ({"task": SaysNothingOfAxes}, "task: predictions", "'label'"),
        ({"task": InventsAxes}, "task: predictions", "'frames'"),
        ({"task": AsksWithoutHelp, "head": Reads, "files": Asked}, "task: inputs", "has no help"),
        ({"task": AsksForAList, "head": Reads, "files": Asked}, "task: inputs", "above 0"),
        ({"task": ReadsAsItComes, "head": Reads, "files": Asked}, "task: inputs", "is read as"),
        ({"task": ReadsOnlyNumbers, "head": Reads, "files": Asked}, "task: inputs", "ValueError"),
        ({"task": ReadsNoText, "head": Reads, "files": Asked}, "task: inputs", "no tensor"),
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
        ({"task": Asks, "head": Reads, "files": AskedInFloats}, "data set: inputs", "torch.float32"),
        ({"task": Asks, "head": Reads, "files": AskedTooMuch}, "data set: inputs", "'tags'"),
        ({"task": Asks, "head": Reads, "files": AskedAnything}, "data set: inputs", "read again in epoch 0"),
        ({"files": OwnNegatives}, "data set: companions", "from nothing else"),
        ({"files": LostNegatives}, "data set: companions", "lost.wav"),
        ({"files": ShortNegatives}, "data set: companions", "1.0 s"),
        ({"files": SomeNegatives}, "data set: companions", "others ['negative']"),
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


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"serves": ("naming",)},
        {"task": Asks, "head": Reads, "files": Asked},
        {"head": Compares, "files": Negatives},
    ],
    ids=("plain", "serves", "inputs", "companions"),
)
def test_a_sound_world_fails_nothing(failing: Failing, given: dict[str, Any]) -> None:
    assert failing_of_all(failing, world(**given)) == {}


def test_an_input_of_no_type_is_found(make_plugin: Callable[..., Any]) -> None:
    plugin = make_plugin(**world(task=AsksForNoType, files=Asked))
    subject = Subject.of_module(plugin, "broken", data={"files": write_once()})
    with pytest.raises(AssertionError, match="'words' is no type"):
        inputs(TaskCase(subject, subject.specs("tasks")[0]))


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
