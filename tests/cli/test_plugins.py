import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from avcore.cli import main
from avcore.registry import Registry, load_registry

PLUGIN = """
from avcore.hookspecs import hookimpl
from avcore.specs import PromptSpec

@hookimpl
def avcore_prompts():
    return [PromptSpec(name="good.rows", build="toy.x:Rows")]
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plugins", *arguments])


@pytest.fixture
def fake(fake_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.cli.plugins.load_registry", lambda: fake_registry)


@pytest.fixture
def two_plugins(install_plugin: Callable[..., str]) -> None:
    install_plugin("toy-bad", "raise OSError('no such device')")
    install_plugin("toy-good", PLUGIN)


@pytest.mark.usefixtures("two_plugins")
def test_list() -> None:
    result = invoke("list")
    assert result.exit_code == 0
    head, core, bad, good = result.stdout.splitlines()
    assert head.split() == ["DISTRIBUTION", "VERSION", "STATE", "OFFERS"]
    assert core.split(maxsplit=3)[::2] == ["avcore", "ok"]
    assert core.endswith("prompts: segment_embedding")
    assert bad.split(maxsplit=3) == ["toy-bad", "1.2", "broken", "OSError: no such device"]
    assert good.split(maxsplit=3) == ["toy-good", "1.2", "ok", "prompts: good.rows"]


@pytest.mark.usefixtures("two_plugins")
def test_list_as_json() -> None:
    core, bad, good = json.loads(invoke("list", "--json").stdout)
    assert core["offers"] == {"prompts": ["segment_embedding"]}
    assert good == {
        "distribution": "toy-good",
        "version": "1.2",
        "state": "ok",
        "error": "",
        "heavy": [],
        "offers": {"prompts": ["good.rows"]},
    }
    assert bad["state"] == "broken"


def test_list_of_nothing_says_what_to_install(install_plugin: Callable[..., str]) -> None:
    assert "pip install" in invoke("list").stdout


@pytest.mark.usefixtures("two_plugins")
def test_doctor_shows_tracebacks_and_fails_if_something_is_broken() -> None:
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "toy-bad 1.2: broken" in result.stdout
    assert "Traceback (most recent call last)" in result.stdout
    assert "1 ok, 1 broken, 0 blocked" in result.stdout
    bad, good = json.loads(invoke("doctor", "--json").stdout)
    assert "no such device" in bad["traceback"]
    assert good["import_ms"] >= 0


def test_doctor_is_content_with_sound_plugins(install_plugin: Callable[..., str]) -> None:
    install_plugin("toy-good", PLUGIN)
    assert invoke("doctor").exit_code == 0


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("toy-m", "distribution", {"state": "ok", "offers": {"prompts": ["m.rows", "m.deep"]}}),
        ("m", "method", {"origin": "toy-m", "prompts": ["m.rows"], "fusions": ["m.mix"]}),
        ("m.rows", "prompt", {"paper": "arXiv:1", "summary": "rows", "needs": []}),
        ("segment_embedding", "prompt", {"origin": "avcore", "needs": []}),
        ("m.mix", "fusion", {"needs": ["both streams"]}),
        ("toyvit", "backbone", {"presets": ["toy_large", "toy_tiny"], "patterns": ["toy_*"]}),
        ("toy_tiny", "backbone", {"family": "toyvit", "preset": {"width": 8}, "origin": "toy-backbones"}),
        ("seg.mask", "head", {"build": "toy.seg:Mask"}),
        ("segment", "task", {"name": "seg", "head": "seg.mask"}),
        ("seg-demo", "data set", {"demo": True, "default_for": ["seg"]}),
    ],
)
def test_show(name: str, kind: str, expected: dict[str, Any]) -> None:
    (card,) = json.loads(invoke("show", name, "--json").stdout)
    assert card["kind"] == kind
    for key, value in expected.items():
        assert value.items() <= card[key].items() if isinstance(value, dict) else card[key] == value
    assert invoke("show", name).exit_code == 0


@pytest.mark.usefixtures("fake")
def test_show_prints_settings_with_type_default_and_help() -> None:
    text = invoke("show", "m.rows").stdout
    assert "length = 10  (a whole number)" in text
    assert "rows per block" in text
    (card,) = json.loads(invoke("show", "m.rows", "--json").stdout)
    assert card["settings"][0] == {"name": "length", "type": "a whole number", "default": 10, "help": "rows per block"}


@pytest.mark.usefixtures("fake")
def test_show_prints_recipes_with_published_numbers() -> None:
    text = invoke("show", "m").stdout
    assert "--task seg: the plain one" in text
    assert "--task seg --recipe large" in text
    assert "published  score 80.7  (table 3)" in text
    assert "--task seg on a demo: of a few pixels" in text


@pytest.mark.usefixtures("fake")
def test_show_lists_everything_of_that_name() -> None:
    cards = json.loads(invoke("show", "solo", "--json").stdout)
    assert [card["kind"] for card in cards] == ["method", "fusion"]


@pytest.mark.usefixtures("fake")
def test_show_of_an_unknown_name() -> None:
    result = invoke("show", "m.row")
    assert result.exit_code == 2
    assert "Nothing installed is called 'm.row'. Did you mean 'm.rows'?" in result.stderr


def test_everything_that_is_installed_can_be_shown() -> None:
    registry = load_registry()
    for name in sorted({name for table in registry.tables.values() for name in table.names()}):
        result = CliRunner().invoke(main, ["plugins", "show", name])
        assert result.exit_code == 0, f"{name}: {result.output}"
        assert name in result.output


def test_heads_and_tasks_show_what_goes_together() -> None:
    (head,) = json.loads(invoke("show", "avs.decoder", "--json").stdout)
    assert (head["serves"], head["encoders"]) == (["masks"], [])
    (task,) = json.loads(invoke("show", "avs", "--json").stdout)
    assert task["predicts"] == "masks"
    assert {"avs.decoder", "dgsct.avs"} <= set(task["heads"])
    assert "ave.linear" not in task["heads"]


def test_show_of_a_backbone_lists_its_stages_and_pairs() -> None:
    (card,) = json.loads(invoke("show", "vit_tiny_patch16_224", "--json").stdout)
    assert card["plan"]["stages"]["visual"] == [
        {"depth": 12, "width": 192, "heads": 3, "tokens": 197, "grid": [14, 14], "window": None}
    ]
    assert card["plan"]["pairs"] == [[block, block] for block in range(12)]
    text = invoke("show", "vit_large_patch16_224", "--audio", "vit_tiny_patch16_224").stdout
    assert "visual stage 1: 24 blocks of width 1024, 16 heads, 197 tokens (14 x 14)" in text
    assert "12 pairs of blocks (visual+audio): 1+0 3+1 5+2" in text
    assert "visual alone: 0 2 4 6" in text


def test_show_of_a_method_has_the_plan_of_each_recipe() -> None:
    (card,) = json.loads(invoke("show", "copl", "--json").stdout)
    assert all(recipe["plan"]["pairs"] for recipe in card["recipes"] if recipe["variant"] != "demo")
    assert [recipe["task"] for recipe in card["recipes"] if recipe["variant"] == "demo"] == ["avs-ms3", "avs"]


@pytest.mark.usefixtures("fake")
def test_show_says_why_a_backbone_cannot_be_laid_out() -> None:
    assert "'toy.vit:build' cannot be imported" in invoke("show", "toy_tiny").stdout
