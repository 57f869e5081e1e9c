"""The four as methods: what a run of each is, with sound and on pictures alone, and what is published of them."""

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from installed import installed
from toy_results import result

import avcore_avar
import avcore_ave
import avcore_avvp
import avcore_clap
import avcore_clip
import avcore_coop
import avcore_fewshot
import avcore_timm
from avcore.cli import main
from avcore.config import RunConfig, resolve_config
from avcore.registry import Registry
from avcore.report.published import published_scores

PLUGINS = (avcore_avar, avcore_ave, avcore_avvp, avcore_clap, avcore_clip, avcore_coop, avcore_fewshot, avcore_timm)
REGISTRY = Registry.from_modules({module.__name__.replace("_", "-"): module for module in PLUGINS})
# Event localisation, classes of AVE, classes of LLP, with 16 clips of each class (DG-SCT, a plot).
PUBLISHED = {
    "coop": (64.4, 78.1, 31.3),
    "cocoop": (66.0, 78.4, 30.4),
    "clip_adapter": (65.9, 80.4, 30.8),
    "maple": (67.1, 81.3, 31.9),
}
HEADS = {"coop": "fewshot.words", "cocoop": "coop.conditional", "clip_adapter": "coop.adapter", "maple": "coop.words"}


def configured(method: str, **given: Any) -> RunConfig:
    return resolve_config(REGISTRY, method=method, **{"task": "fewshot-ave", **given}, need_data=False).config


@pytest.mark.parametrize("method", PUBLISHED)
def test_with_sound_as_compared_and_on_pictures_alone(method: str) -> None:
    both, alone = configured(method), configured(method, streams="visual")
    for config in (both, alone):
        assert (config.head.name, config.head.settings.join) == (HEADS[method], "sum")
        assert config.prompts == ((method,) if method in ("coop", "maple") else ())
        assert config.part_streams == {"coop": {"coop": "text"}, "maple": {"maple": "visual"}}.get(method, {})
        assert (config.optim.lr, config.optim.milestones, config.train.batch_size) == (3e-4, (10, 20, 30), 2)
    assert (both.audio.backbone, both.text_audio.backbone) == ("clap_fused", "clap_text_fused")
    assert alone.text.backbone == "ViT-B-32-quickgelu.openai"
    assert alone.text_audio.backbone is None


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_scores_stand_beside_a_run(method: str) -> None:
    for task, dataset, metric, place in (
        ("fewshot-ave", "fewshot-ave", "accuracy", 0),
        ("fewshot", "fewshot-ave-cls", "top1", 1),
        ("fewshot", "fewshot-llp-cls", "top1", 2),
    ):
        config = configured(method, task=task)
        done = result(
            method=method,
            task=task,
            dataset=dataset,
            prompts=config.prompts,
            visual=config.visual.backbone,
            audio=config.audio.backbone,
            metrics={"test": {metric: 50.0}},
            clips=dict(REGISTRY.datasets[dataset].official),
            plugins={"heads": {config.head.name: REGISTRY.heads.origin(config.head.name)}},
        )
        found = published_scores(done, REGISTRY)
        assert [(row["value"], row["ours"]) for row in found] == [(PUBLISHED[method][place], 50.0)]


@pytest.fixture
def only() -> Iterator[None]:
    with installed(REGISTRY):
        yield


@pytest.mark.usefixtures("only")
def test_they_stand_in_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.cli.matrix.load_registry", lambda: REGISTRY)
    said = CliRunner().invoke(main, ["plugins", "matrix", "--visual", "test_vit", "--audio", "shared"]).stdout
    rows = {line.split()[-2]: line.split()[-1] for line in said.splitlines() if line.endswith("ok")}
    assert {"coop": "ok", "maple": "ok"}.items() <= rows.items()
    assert "Methods that are a head alone, and go with every row: cocoop, clip_adapter." in said


@pytest.mark.usefixtures("only")
@pytest.mark.parametrize("method", PUBLISHED)
def test_a_task_without_words_is_refused(method: str) -> None:
    said = CliRunner().invoke(main, ["params", "--plugin", method, "--task", "avvp"])
    assert said.exit_code == 2
    assert f"Head '{HEADS[method]}' serves segments, clip" in said.stderr
