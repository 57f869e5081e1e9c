from pathlib import Path
from typing import Any

import pytest

from avcore.config import demo_tasks_of, load_demo_recipe, load_recipe, recipes_of
from avcore.config.recipes import parse_yaml
from avcore.errors import AVCoreError, ConfigError
from avcore.registry import Registry


def test_a_recipe_has_settings_and_published_numbers(fake_registry: Registry) -> None:
    recipe = load_recipe(fake_registry, "m", "segment")
    assert recipe is not None
    assert recipe.name == "m/seg"
    assert recipe.summary == "the plain one"
    assert recipe.settings["optim"] == {"lr": 3e-4}
    assert recipe.published == ({"metric": "score", "dataset": "seg-files", "value": 80.7, "source": "table 3"},)


def test_variants(fake_registry: Registry) -> None:
    assert recipes_of(fake_registry.methods["m"]) == [("seg", None), ("seg", "large")]
    recipe = load_recipe(fake_registry, "m", "seg", "large")
    assert recipe is not None
    assert recipe.name == "m/seg.large"
    with pytest.raises(AVCoreError, match=r"no recipe 'lage' for task 'seg'. Did you mean 'large'\? Variants: large."):
        load_recipe(fake_registry, "m", "seg", "lage")


def test_what_a_method_sets_on_demos_is_no_variant(fake_registry: Registry) -> None:
    assert demo_tasks_of(fake_registry.methods["m"]) == ["seg"]
    recipe = load_demo_recipe(fake_registry, "m", "segment")
    assert recipe is not None
    assert (recipe.name, recipe.settings) == ("m/seg.demo", {"parts": {"m": {"mix": {"reduction": 2}}}})
    assert load_demo_recipe(fake_registry, "solo", "seg") is None
    with pytest.raises(ConfigError, match="is used by itself on data sets that are a demo: leave out --recipe"):
        load_recipe(fake_registry, "m", "seg", "demo")


def test_nothing_is_published_on_a_demo(
    fake_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avcore.config.recipes._folder", lambda spec: tmp_path)
    (tmp_path / "seg.demo.yaml").write_text("published: [{metric: a, value: 1, source: b}]")
    with pytest.raises(ConfigError, match=r"m/seg\.demo: nothing is published on a demo"):
        load_demo_recipe(fake_registry, "m", "seg")


def test_no_recipe(fake_registry: Registry) -> None:
    assert load_recipe(fake_registry, "m", "cls") is None
    assert load_recipe(fake_registry, "solo", "seg") is None
    with pytest.raises(AVCoreError, match="Variants: none"):
        load_recipe(fake_registry, "solo", "seg", "large")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("setings: {}", r"unknown key 'setings'. Did you mean 'settings'"),
        ("published: {a: 1}", "'published' must be a list of mappings"),
        ("published: [{metric: x}]", "lacks value, source"),
        ("settings: 3", "'settings' must be a mapping"),
        ("- 1", "holds a list"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_malformed_recipe_is_named(
    fake_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr("avcore.config.recipes._folder", lambda spec: tmp_path)
    (tmp_path / "seg.yaml").write_text(text)
    with pytest.raises(AVCoreError, match=message) as caught:
        load_recipe(fake_registry, "m", "seg")
    assert "toy_recipe_package/recipes/seg.yaml" in str(caught.value)


def test_a_missing_recipe_package_is_named(fake_modules: dict[str, Any], make_plugin: Any) -> None:
    from avcore.specs import MethodSpec

    lost = make_plugin(methods=[MethodSpec(name="lost", recipes="no_such_package_here")])
    registry = Registry.from_modules({**fake_modules, "lost": lost})
    with pytest.raises(AVCoreError, match="'no_such_package_here', which is no package"):
        load_recipe(registry, "lost", "seg")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("null", None), ("[1, a]", [1, "a"]), ("true", True), ("'3'", "3"), ("", None)]
)
def test_values_follow_yaml(text: str, value: Any) -> None:
    assert parse_yaml(f"value: {text}", "x") == {"value": value}
