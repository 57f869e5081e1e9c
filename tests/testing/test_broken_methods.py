"""Each check of methods and their recipes is failed by one that is wrong in that one way, and by no other."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sound_world import Linear, world
from torch import Tensor

from avcore import (
    Input,
    MethodSpec,
    PromptSpec,
)
from avcore.testing.backbones import ToyBackbones
from avcore.testing.toys import at_hand

Failing = Callable[..., dict[str, str]]


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


SOUND = """\
settings: {visual.backbone: toy_plain, optim.lr: 0.1}
published: [{metric: accuracy, dataset: files, value: 1.5, source: table 1}]
"""


class Declares(Linear):
    """Says what its loss reads of the truth."""

    @property
    def targets(self) -> Mapping[str, Input]:
        return {"label": Input(shape=(), dtype="int64")}


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
        (SOUND, {"prompts": ()}, "parts", "neither prompts nor fusions, and its defaults name no head"),
        (SOUND, {"prompts": (), "defaults": {"head.name": "haed"}}, "parts", "the head 'haed', which nobody offers"),
        (SOUND, {"summary": ""}, "summary", "no summary"),
        (SOUND, {"paper": ""}, "summary", "names no paper"),
        (SOUND.replace("optim.lr", "optim.rate"), {}, "recipes", "optim.rate"),
        (SOUND.replace("toy_plain", "toy_plane"), {}, "recipes", "Nearest presets: toy_plain"),
        (SOUND.replace("value", "audio: toy_plane, value"), {}, "published backbones", "Did you mean 'toy_plain'"),
        (SOUND.replace("files", "flies"), {}, "published backbones", "Did you mean 'files'"),
        (SOUND.replace("accuracy", "acuracy"), {}, "published metrics", "Did you mean 'accuracy'"),
        (SOUND.replace("accuracy", "trainable_N"), {}, "published metrics", "Did you mean 'trainable_M'"),
        (SOUND.replace("1.5", "good"), {}, "published numbers", "no number"),
        (SOUND.replace("table 1", "''"), {}, "published numbers", "no source"),
        (SOUND.replace("dataset: files, ", ""), {}, "published numbers", "names no dataset"),
        (SOUND.replace("metric: accuracy, dataset: files", "metric: trainable_M"), {}, "", ""),
        (SOUND.replace("metric: accuracy, dataset: files", "metric: mine"), {}, "", ""),
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
        **world(head=Declares),
        backbones=list(ToyBackbones().avcore_backbones()),
        prompts=[at_hand(PromptSpec, name="mine", thing=None)],
        methods=[MethodSpec(name="all", **given)],
    )
    if "prompts" in fields:
        # What is listed and not there makes no configuration either.
        found.pop("recipes", None)
    assert list(found) == ([check] if check else []), found
    assert says in found.get(check, "")


@pytest.mark.parametrize(
    ("text", "check"),
    [(SOUND.replace("toy_plain", "toy_plane"), "recipes"),
     (SOUND.replace("value", "audio: toy_plane, value"), "published backbones")],
)  # fmt: skip
def test_a_name_that_only_a_pattern_knows_is_made(
    failing: Failing, recipes: Callable[[str], str], text: str, check: str
) -> None:
    found = failing(
        "method",
        **world(head=Declares),
        backbones=[replace(one, patterns=("toy_*",)) for one in ToyBackbones().avcore_backbones()],
        prompts=[at_hand(PromptSpec, name="mine", thing=None)],
        methods=[MethodSpec(name="all", prompts=("mine",), summary="x", paper="arXiv:0", recipes=recipes(text))],
    )
    assert list(found) == [check], found
    assert "There is no toy 'toy_plane'" in found[check]
