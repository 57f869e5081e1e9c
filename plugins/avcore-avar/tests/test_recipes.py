"""Recipes of methods for recognition, and every count that is printed for one."""

import importlib.resources

import pytest

import avcore_avar
import avcore_ave
import avcore_copl
import avcore_dgsct
import avcore_lavish
import avcore_stfp
import avcore_stgcma
import avcore_timm
from avcore.assemble import assemble
from avcore.config import load_recipe, resolve_config
from avcore.config.recipes import parse_yaml
from avcore.registry import Registry
from avcore.report.parameters import ParameterReport, count_parameters
from avcore_avar.task import AVARTask

METHODS = ("copl", "dgsct", "lavish", "stfp", "stgcma")
NO_GATES = ("parts.stfp.temporal.gate=none", "parts.stfp.joint.gate=none")


@pytest.fixture(scope="module")
def registry() -> Registry:
    modules = (
        avcore_avar,
        avcore_ave,
        avcore_copl,
        avcore_dgsct,
        avcore_lavish,
        avcore_stfp,
        avcore_stgcma,
        avcore_timm,
    )
    return Registry.from_modules({module.__name__.replace("_", "-"): module for module in modules})


def count(registry: Registry, method: str, recipe: str | None = None, *sets: str) -> ParameterReport:
    resolved = resolve_config(registry, method=method, task="avar", recipe=recipe, sets=sets, need_data=False)
    assert resolved.config.data.dataset == "kinetics-sounds"
    return count_parameters(assemble(resolved.config, registry, meta=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_recipe_that_says_where_its_settings_are_from(registry: Registry, method: str) -> None:
    recipe = load_recipe(registry, method, "avar", None)
    file = importlib.resources.files(f"avcore_{method}") / "recipes" / "avar.yaml"
    assert file.read_text(encoding="utf-8").split("settings:\n")[1].startswith("  # ")
    of_ave = load_recipe(registry, method, "ave", None).settings
    for section in ("visual", "optim", "train"):
        assert recipe.settings[section] == of_ave[section]


@pytest.mark.parametrize(
    ("recipe", "classes", "expected", "printed"),
    [
        (None, 29, 1_824_797, "1.82"),
        (None, 31, 1_825_823, None),
        (None, 32, 1_826_336, None),
        ("base", 29, 1_095_965, "1.10"),
        ("base", 31, 1_096_991, "1.10"),
        ("base", 32, 1_097_504, "1.10"),
    ],
)
def test_counts_of_av_stfp(
    registry: Registry, recipe: str | None, classes: int, expected: int, printed: str | None
) -> None:
    """The poster prints 1.82 and 1.10 M: with ViT-L/14 that is the count of AVE, which has 29 classes."""
    names = f"task_options.classes=[{', '.join(f'c{index}' for index in range(classes))}]"
    found = count(registry, "stfp", recipe, *NO_GATES, names).trainable
    assert found == expected
    assert printed is None or f"{found / 1e6:.2f}" == printed


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("copl", 2 * 1024 * 31 + 31),
        ("dgsct", (1536 + 768) * 31 + 31),
        ("lavish", 2048 * 512 + 512 + 512 * 31 + 31),
        ("stgcma", 2048 * 512 + 512 + 512 * 31 + 31),
    ],
)
def test_heads_of_the_other_methods(registry: Registry, method: str, head: int) -> None:
    report = count(registry, method)
    assert report.trainable - report.added == head


@pytest.mark.parametrize("method", ["copl", "lavish"])
def test_the_front_end_of_ogm_ge(registry: Registry, method: str) -> None:
    config = resolve_config(registry, method=method, task="avar", recipe="ogm", need_data=False).config
    model = assemble(config, registry, meta=True)
    front = model.streams["audio"].front_end
    geometry = front.geometry
    assert (geometry.mel_bins, geometry.shift_ms, geometry.frames) == (128, 10.0, 1024)
    assert geometry.pad_first
    # Where nothing was heard the picture is (0 + 4.503877) / (2 * 5.141276).
    assert -geometry.mean / (2 * geometry.std) == pytest.approx(0.438, abs=1e-4)
    assert model.segments == 3
    assert config.data.settings.window_seconds == config.data.settings.clip_seconds == 10.0
    assert [one["name"] for one in config.train.augment.visual] == ["RandomResizedCrop", "RandomHorizontalFlip"]


def test_published_numbers_have_sources_and_known_names() -> None:
    text = (importlib.resources.files("avcore_avar") / "published.yaml").read_text(encoding="utf-8")
    rows = parse_yaml(text, "published.yaml")["published"]
    assert {(row["method"], row["value"]) for row in rows} >= {("AVSlowFast R50", 83.7), ("CrissCross", 66.7)}
    for row in rows:
        assert (row["task"], row["metric"], row["split"]) == ("avar", AVARTask.score, "test")
        assert 0 < row["value"] < 100
        assert row["source"]
        assert row["note"]
