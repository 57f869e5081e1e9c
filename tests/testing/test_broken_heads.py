"""Each check of heads is failed by one that is wrong in that one way, and by no other."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from sound_world import Asked, Asks, Compares, Files, Linear, Negatives, Reads, world
from torch import Tensor, nn

from avcore import (
    Batch,
    Clip,
    Features,
    Input,
    Progress,
    StreamLayout,
    Task,
)
from avcore.specs import TEXTS

Failing = Callable[..., dict[str, str]]


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


class AlwaysCompares(Compares):
    def forward(self, features: Features) -> dict[str, Tensor]:
        other = features.companions["negative"].stream("visual").pooled.mean(1)
        return {**Linear.forward(self, features), "other": self.map(other)}


class ComparesOddly(Compares):
    """With one that no batch has, in a way that no model knows."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.companions = {"negative": "plain", "absent": "frozen"}


class ReadsNobody(Compares):
    companion_reads = MappingProxyType({"partner": {"visual": ("pooled",)}})


class Declares(Linear):
    """Sound: says what its loss reads, and weighs by what is valid."""

    declared: ClassVar[Mapping[str, Input]] = {"label": Input(shape=(), dtype="int64")}

    @property
    def targets(self) -> Mapping[str, Input]:
        return self.declared

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        each_B = F.cross_entropy(output["logits"].float(), batch.targets["label"], reduction="none")
        valid_B = batch.valid.to(each_B.dtype)
        return {"entropy": (each_B * valid_B).sum() / valid_B.sum()}


class DeclaresWhatIsNot(Declares):
    declared: ClassVar[Mapping[str, Input]] = {**Declares.declared, "labels": Input(shape=())}


class DeclaresAnotherShape(Declares):
    declared: ClassVar[Mapping[str, Input]] = {"label": Input(shape=(2,), dtype="int64")}


class Worded(Linear):
    """Sound: a map of sentences beside that of the pictures."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.register_buffer("ids", torch.tensor([[1, 20, 63], [1, 31, 63]]), persistent=False)
        self.words = nn.Linear(layouts["text"].width, 1)

    def forward(self, features: Features) -> dict[str, Tensor]:
        told_2 = self.words(features.encoders["text"](self.ids, keep=True).pooled)[:, 0]
        return {"logits": super().forward(features)["logits"] + told_2}


class WordedTwice(Worded):
    """Sound: the sentences of another encoder beside them, where there is one."""

    def forward(self, features: Features) -> dict[str, Tensor]:
        logits = super().forward(features)["logits"]
        if "text_audio" in features.encoders:
            logits = logits + features.encoders["text_audio"](self.ids).pooled.mean(1)  # type: ignore[arg-type]
        return {"logits": logits}


class WordedUnused(Worded):
    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.other = nn.Linear(2, 2)


class Numbered(Files):
    """Sound: clips have a number beside their label."""

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {**super().target(clip), "number": torch.tensor(int(clip.name))}


class DeclaresTooLittle(Declares):
    """Reads the label, and declares only what it does not read."""

    declared: ClassVar[Mapping[str, Input]] = {"number": Input(shape=(), dtype="int64")}


class DeclaresAndChooses(Declares):
    loss = Linear.loss


@pytest.mark.parametrize(
    ("given", "check", "says"),
    [
        ({"head": PredictsOne}, "head: outputs", "'surest'"),
        ({"head": UnusedMap}, "head: losses", "other.weight"),
        ({"head": WordedUnused, "encoders": ("text",)}, "head: losses", "other.weight"),
        ({"head": Worded, "encoders": TEXTS}, "head: sentences for sound", "never calls it"),
        ({"untrained": True}, "head: untrained", "'linear' is said to answer without training, and has map.weight"),
        ({"head": CountsPadding}, "head: padded clips", "batch.valid"),
        ({"head": SeesOthers}, "head: batch equivariance", "clips must not see each other"),
        ({"head": CountsClips}, "head: batch equivariance", "'clips' is one number"),
        ({"head": MixesTypes}, "head: autocast", "RuntimeError"),
        ({"head": ForgetsSegments}, "head: prediction axes", "(B, T, ...)"),
        ({"head": ForgetsColumns}, "head: prediction axes", "(B, T, Y, X)"),
        ({"serves": ("naming", "namings")}, "head: serves", "Did you mean 'naming'"),
        ({"head": DeclaresWhatIsNot}, "head: targets", "Did you mean 'label'"),
        ({"head": DeclaresAnotherShape}, "head: targets", "declares the target 'label' as (3, 2)"),
        ({"head": DeclaresTooLittle, "files": Numbered}, "head: targets", "its loss reads 'label'"),
        ({"head": DeclaresAndChooses}, "head: targets", "Weigh by batch.valid"),
        ({"head": AsksForNobody}, "head: companions", "'partner'"),
        ({"head": ComparesOddly, "files": Negatives}, "head: companions", "'frozen'"),
        (
            {"head": ReadsNobody, "files": Negatives},
            "head: companions",
            "reads of 'partner', which it does not",
        ),
        ({"head": AlwaysCompares, "files": Negatives}, "head: companions", "features.companions"),
        ({"head": DiesAway}, "head: progress", "the loss 'entropy' is inf"),
        ({"head": Ratchets}, "head: progress", "asked for again"),
        ({"head": Waits}, "head: progress", "late"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_broken_one_fails_one_check(failing_of_all: Failing, given: dict[str, Any], check: str, says: str) -> None:
    found = failing_of_all(**world(**given))
    assert list(found) == [check], found
    assert says in found[check]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"serves": ("naming",)},
        {"head": Declares},
        {"task": Asks, "head": Reads, "files": Asked},
        {"head": Compares, "files": Negatives},
        {"head": Worded, "encoders": ("text",)},
        {"head": WordedTwice, "encoders": TEXTS},
    ],
    ids=("plain", "serves", "targets", "inputs", "companions", "sentences", "sentences for sound"),
)
def test_a_sound_world_fails_nothing(failing_of_all: Failing, given: dict[str, Any]) -> None:
    assert failing_of_all(**world(**given)) == {}
