"""What needs no training: names of classes as people write them, and the run that is made of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from installed import installed
from torch import Tensor

import avcore
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.registry import Registry
from avcore.runs.zeroshot import read_words
from avcore.specs import HeadSpec, TaskSpec
from avcore.tasks import Features, Head, Task
from avcore.testing.backbones import ToyBackbones
from avcore.testing.texts import ToyTexts
from avcore.testing.toys import ToyPlugin, at_hand, make_batch


@dataclass(frozen=True, kw_only=True)
class NamesConfig:
    names: tuple[str, ...] = ("a", "b")


class Names(Task):
    score = "nothing"
    prediction: ClassVar[Mapping[str, str]] = {"which": "segment"}

    @property
    def classes(self) -> tuple[str, ...]:
        names: tuple[str, ...] = self.config.names
        return names


class First(Head):
    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"which": next(iter(features.streams.values())).pooled.sum(-1)}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"which": output["which"].long()}


class Plugin:
    @hookimpl
    def avcore_tasks(self) -> list[TaskSpec]:
        return [
            at_hand(TaskSpec, name="names", thing=Names, config=NamesConfig, head="learns", kind="n", words="names")
        ]

    @hookimpl
    def avcore_heads(self) -> list[HeadSpec]:
        learns = at_hand(HeadSpec, name="learns", thing=First, serves=("n",))
        return [learns, at_hand(HeadSpec, name="knows", thing=First, serves=("n",), untrained=True)]


REGISTRY = Registry.from_modules(
    {"backbones": ToyBackbones(), "texts": ToyTexts(), "toys": ToyPlugin(), "names": Plugin()}
)


@pytest.fixture(autouse=True)
def only() -> Iterator[None]:
    with installed(REGISTRY):
        yield


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("dog, cat", ("dog", "cat")),
        (' dog ,"siren, far  off","a ""b"""', ("dog", "siren, far off", 'a "b"')),
        ("Hund\nVögel\nсобака, 犬", ("Hund", "Vögel", "собака", "犬")),
        (", ".join(f"class {number}" for number in range(600)), tuple(f"class {number}" for number in range(600))),
    ],
)
def test_names_as_people_write_them(text: str, names: tuple[str, ...]) -> None:
    assert read_words(text) == names


def test_names_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("\ufeffsiren, far off\n\n  dog \r\n", encoding="utf-8")
    assert read_words(f"@{file}") == ("siren, far off", "dog")
    with pytest.raises(AVCoreError, match=r"that is a file\. Write --zero-shot @"):
        read_words(str(file))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "No class is named"),
        ("  ", "No class is named"),
        ("dog", "Only 'dog' is named"),
        ("dog, , cat", "Class 2 of 3 has no name"),
        ("dog, cat,", "Class 3 of 3 has no name"),
        ("dog, cat, Dog", "Classes 1 and 3 are both 'Dog'"),
        ('dog, "cat', "Write names with commas between them"),
    ],
)
def test_lists_that_say_nothing_are_refused(text: str, says: str) -> None:
    with pytest.raises(AVCoreError, match=says):
        read_words(text)


def test_a_run_without_training() -> None:
    run = avcore.zero_shot(["dog", "cat"], visual="toy_plain")
    assert run.config.head.name == "knows"
    assert run.config.streams == "visual"
    assert run.model.task.classes == ("dog", "cat")
    assert not run.model.training
    with torch.no_grad():
        assert run.model(make_batch(run.model))["which"].shape[0] > 0
    both = avcore.zero_shot(["dog", "cat"], visual="toy_plain", audio="toy_plain", set=["head.name=learns"])
    assert (both.config.streams, both.config.head.name) == ("both", "learns")
    assert avcore.zero_shot(["dog", "cat"], audio="toy_plain").config.streams == "audio"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"words": "dog, cat"}, "is one text: give a list"),
        ({"words": ["dog"]}, "Only 'dog' is named"),
        ({"words": None}, "Which data set"),
        ({"words": ["dog", "cat"], "task": "toy"}, "Task 'toy' has classes of its own"),
        ({"words": None, "task": "toy"}, "No installed head answers task 'toy' without training"),
        ({"words": ["dog", "cat"], "visual": None}, "No backbone"),
        ({"words": ["dog", "cat"], "task": "nams"}, "nams"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(AVCoreError, match=says):
        avcore.zero_shot(**{"visual": "toy_plain", **given})
