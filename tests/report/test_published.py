"""Published scores stand beside a run's own only where both are of the same thing."""

from typing import Any

import pytest
from toy_results import result

from avcore.config import resolve_config
from avcore.registry import Registry
from avcore.report.published import published_scores, render_published

OFFICIAL = {"train": 90, "val": 10, "test": 20}
WHOLE: dict[str, Any] = {
    "prompts": ("m.rows",),
    "fusions": ("m.mix",),
    "visual": "toy_large",
    "clips": OFFICIAL,
    "plugins": {"heads": {"seg.mask": {"distribution": "toy-seg", "version": "0"}}},
}


def test_it_stands_beside_a_run_on_the_data_set_as_published(fake_registry: Registry) -> None:
    run = result(**WHOLE)
    (row,) = published_scores(run, fake_registry)
    assert (row["metric"], row["value"], row["ours"]) == ("score", 80.7, 61.25)
    *_, line = render_published([row], run).splitlines()
    assert line.split() == ["score", "test", "80.7", "61.25", "toy_large", "table", "3"]


@pytest.mark.parametrize(
    "changed",
    [
        {"clips": {}},
        {"clips": {"train": 90, "val": 10}},
        {"clips": {"val": 10, "test": 20}},
        {"clips": {**OFFICIAL, "test": 2}},
        {"clips": {**OFFICIAL, "train": 8}},
        {"dataset": "seg-demo"},
        {"dataset": "cls-a"},
        {"dataset": "gone"},
        {"dataset": None},
        {"method": None},
        {"method": "gone"},
        {"prompts": ()},
        {"prompts": ("m.rows", "m.deep")},
        {"fusions": ("solo",)},
        {"plugins": {"heads": {"seg.points": {}}}},
        {"recipe": "large"},
        {"recipe": "gone"},
        {"broken": {"test": {"a": "cut short"}}},
        {"without_truth": ("test",)},
        {"metrics": {"val": {"score": 50.0}}},
        {"metrics": {"test": {"other": 1}}},
    ],
    ids=str,
)
def test_nothing_stands_beside_anything_else(fake_registry: Registry, changed: dict[str, Any]) -> None:
    assert published_scores(result(**{**WHOLE, **changed}), fake_registry) == []


@pytest.mark.parametrize("changed", [{"visual": "toy_tiny"}, {"audio": "swin_a"}, {"streams": "visual"}], ids=str)
def test_ours_is_left_out_where_it_is_of_other_encoders(fake_registry: Registry, changed: dict[str, Any]) -> None:
    run = result(**{**WHOLE, **changed})
    (row,) = published_scores(run, fake_registry)
    assert row["ours"] is None
    assert render_published([row], run).splitlines()[-1].split()[:4] == ["score", "test", "80.7", "–"]


def test_a_demo_has_none_whatever_it_says(fake_modules: dict[str, Any], make_plugin: Any) -> None:
    from dataclasses import replace

    (demo,) = fake_modules["toy-demo"].avcore_datasets()
    files = fake_modules["toy-seg"].avcore_datasets()[0]
    fake_modules["toy-demo"] = make_plugin(datasets=[replace(demo, official=OFFICIAL)])
    registry = Registry.from_modules(fake_modules)
    assert published_scores(result(**{**WHOLE, "dataset": "seg-demo"}), registry) == []
    # Nor has a data set of the same name and size that somebody else offers.
    fake_modules["toy-other"] = make_plugin(datasets=[files])
    registry = Registry.from_modules(fake_modules).recorded({"datasets": ("toy-other:seg-files",)})
    assert published_scores(result(**WHOLE), registry) == []


def test_several_seeds_have_a_spread(fake_registry: Registry) -> None:
    run = result(**WHOLE, seeds=(0, 1), metrics_sd={"val": {"score": 1.0}, "test": {"other": 0, "score": 0.5}})
    text = render_published(published_scores(run, fake_registry), run)
    assert "61.25 ± 0.50 (n = 2)" in text


def test_the_recipe_is_what_a_run_of_it_would_be(fake_registry: Registry) -> None:
    config = resolve_config(fake_registry, method="m", task="seg", need_data=False).config
    assert (config.prompts, config.fusions, config.visual.backbone, config.head.name) == (
        WHOLE["prompts"],
        WHOLE["fusions"],
        WHOLE["visual"],
        *WHOLE["plugins"]["heads"],
    )
