"""LAVISH in a model: where it acts, what it refuses, the published counts, training, recipes."""

from collections.abc import Callable
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from avcore import AVCoreError
from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.model import AVModel
from avcore.registry import Registry, load_registry
from avcore.report.parameters import count_parameters
from avcore.states import load_trainable_state, parameter_groups, trainable_state, unused_in_reference
from avcore.tasks import Batch
from avcore.testing.toys import make_batch
from avcore_lavish.settings import LavishSettings

Make = Callable[..., AVModel]
VIT_B, VIT_L = "vit_base_patch16_224.augreg_in21k", "vit_large_patch16_224.augreg_in21k"
SWIN_L = "swinv2_large_window12_192.ms_in22k"
# Log-mel pictures of the size of the small Swin Transformers.
SMALL_SOUND = ("audio.frames=32", "audio.mel_bins=32")


def test_both_streams_read_the_tokens_before_the_update(make: Make) -> None:
    """At each sub-layer x + A(x) + Ad(x ; y) in both streams, from the tokens that enter it."""
    model = make(moved=True).double().eval()
    draws = torch.Generator().manual_seed(2)
    visual, audio = (torch.randn(4, count, 32, generator=draws).double() for count in (5, 49))
    made, _, _ = model.steps[1]({"visual": visual, "audio": audio}, {})
    layer, blocks = model.parts["lavish"].layers["1"], model.steps[1].blocks
    side = SimpleNamespace(as_own=lambda tokens: tokens)
    same = SimpleNamespace(visual=side, audio=side)
    edits = layer.p1(visual, audio, same)
    visual, audio = (
        x + blocks[stream].attention(x)[0] + getattr(edits, stream).add
        for stream, x in (("visual", visual), ("audio", audio))
    )
    edits = layer.p2(visual, audio, same)
    for stream, x in (("visual", visual), ("audio", audio)):
        torch.testing.assert_close(made[stream], x + blocks[stream].mlp(x) + getattr(edits, stream).add)


def test_event_localisation_starts_at_the_frozen_backbone(make: Make, batch: Batch) -> None:
    model = make().eval()
    features = model.features(batch)
    for stream in ("visual", "audio"):
        torch.testing.assert_close(features.stream(stream).tokens, model.plain(stream, batch).tokens)
    latents = model.parts["lavish"].layers["0"].p1.audio.latents
    assert 0 <= latents.min() < 0.2
    assert 0.8 < latents.max() <= 1


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("setting", ["reduction=0", "groups=0", "tokens=0", "order=other", "latents=ones"])
def test_settings_out_of_range_are_named(make: Make, setting: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.lavish\.{setting.partition('=')[0]}"):
        make(f"parts.lavish.{setting}")


@pytest.mark.parametrize("setting", ["groups=3", "reduction=64", "reduction=32"])
def test_groups_that_do_not_divide_the_widths_are_refused(make: Make, setting: str) -> None:
    with pytest.raises(AVCoreError, match=r"parts\.lavish: blocks of width 32 have a bottleneck of \d"):
        make(f"parts.lavish.{setting}")


def test_single_streams_are_refused(make: Make) -> None:
    with pytest.raises(AVCoreError, match="'lavish' needs both streams"):
        make(streams="visual")


def test_lavish_offers_no_prompts(make: Make) -> None:
    with pytest.raises(AVCoreError, match="'lavish' has no prompts"):
        make(prompts="lavish")


# ---------------------------------------------------------------------------------------------------------- counts


def sizes(model: AVModel) -> tuple[int, int]:
    """Parameters of the bottlenecks, and of the head."""
    groups = parameter_groups(model)
    bottlenecks, head = (sum(parameter.numel() for _, parameter in groups[name]) for name in ("parts", "head"))
    return bottlenecks, head


@pytest.mark.parametrize(("visual", "counts"), [(VIT_B, (3_843_168, 801_821)), (VIT_L, (13_394_112, 1_063_965))])
def test_counts_of_event_localisation(make: Make, visual: str, counts: tuple[int, int]) -> None:
    model = make(visual=visual, meta=True)
    assert sizes(model) == counts
    assert sum(counts) == {VIT_B: 4_644_989, VIT_L: 14_458_077}[visual]
    assert unused_in_reference(model)["lavish"] == 0
    assert sizes(make(visual=visual, meta=True, recipe="v2")) == counts


def test_counts_of_event_localisation_on_swin_large(make: Make) -> None:
    model = make(visual=SWIN_L, recipe="swin", meta=True)
    assert sizes(model) == (8_447_808, 1_588_253)
    assert sum(sizes(model)) == 10_036_061


def test_counts_of_the_other_tasks_on_swin_large(make: Make) -> None:
    blocks = [192] * 2 + [384] * 2 + [768] * 18 + [1536] * 2
    # As CoPL counts it (17.1 M), and as the published script of question answering is launched (21.0 M with its head).
    for (reduction, groups, tokens), count in {(4, 2, 16): 17_148_096, (8, 4, 64): 8_835_264}.items():
        settings = (f"reduction={reduction}", f"groups={groups}", f"tokens={tokens}", "batch_norm=false")
        model = make(*(f"parts.lavish.{one}" for one in settings), recipe="swin", visual=SWIN_L, meta=True)
        each = (tokens * d + 2 * d * (d // reduction) // groups + 4 * d + 2 for d in blocks)
        assert sizes(model)[0] == 4 * sum(each) == count
    model = make(task="avs", recipe="swin", visual=SWIN_L, meta=True)
    assert sizes(model)[0] + unused_in_reference(model)["lavish"] == 17_148_048


def test_counts_with_an_encoder_of_sound_of_half_the_width_and_depth(make: Make) -> None:
    """12 pairs; bottlenecks as wide as their stream, and the maps between the widths counted apart."""
    model = make(recipe="unshared", visual=SWIN_L, meta=True)
    pairs = [(192, 96)] * 2 + [(384, 192)] * 2 + [(768, 384)] * 6 + [(1536, 768)] * 2
    parts = count_parameters(model).parts
    assert parts["align"].trainable == sum(2 * v * a + v + a for v, a in pairs) == 8_639_424
    each = [2 * sum(2 * d + d * d // 8 + 4 * d + 2 * (d // 8) + 2 * d + 2 for d in pair) for pair in pairs]
    assert parts["lavish"].trainable == sum(each) == 2_914_368


def test_counts_of_question_answering_on_vit_large(make: Make) -> None:
    width = 1024
    # As CoPL counts it (27.1 M), and as the published script is launched.
    for (reduction, groups, tokens), count in {(4, 2, 16): 27_132_096, (8, 4, 64): 12_976_320}.items():
        settings = (f"reduction={reduction}", f"groups={groups}", f"tokens={tokens}", "batch_norm=false")
        model = make(*(f"parts.lavish.{setting}" for setting in settings), visual=VIT_L, meta=True)
        each = tokens * width + 2 * width * (width // reduction) // groups + 4 * width + 2
        assert sizes(model)[0] == 24 * 4 * each == count


def test_counts_of_segmentation_on_vit_large(make: Make) -> None:
    """No gates in audio's bottlenecks, and an LN_pre that is allocated but never used."""
    model = make(task="avs", visual=VIT_L, meta=True)
    unused = unused_in_reference(model)["lavish"]
    assert unused == 24 * 4 * 2 * 1024
    assert sizes(model)[0] + unused == 27_132_096 - 24 * 2


def test_published_counts_stand_beside_ours(registry: Registry) -> None:
    resolved = resolve_config(registry, method="lavish", task="ave", need_data=False)
    report = count_parameters(assemble(resolved.config, registry, meta=True), resolved.recipe.published)
    shown = [line.split() for line in report.render("vit_large_patch16_224").splitlines()]
    assert ["trainable_M", "14.5", "14.46"] in [line[:3] for line in shown]
    assert ["parameters_M", "13.5", "13.39"] in [line[:3] for line in shown]


# -------------------------------------------------------------------------------------------------------- training


def test_running_statistics_move_in_training_only_and_are_saved(make: Make, batch: Batch) -> None:
    model = make()
    mean = "lavish.layers.2.p2.audio.norm_down.running_mean"
    model.eval()(batch)
    assert not trainable_state(model)[mean].any()
    model.train()(batch)
    state = trainable_state(model)
    assert state[mean].any()
    again = make()
    load_trainable_state(again, state)
    assert torch.equal(trainable_state(again)[mean], state[mean])


def test_a_step_changes_every_bottleneck_and_nothing_frozen(make: Make, batch: Batch) -> None:
    model = make(moved=True).train()
    unchanged = digest(model.towers)
    frozen = {name: tensor.clone() for name, tensor in model.towers.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    trained = [parameter for group in parameter_groups(model).values() for _, parameter in group]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    model.loss(model(batch), batch).backward()
    optimizer.step()
    equal = [name for name, tensor in trainable_state(model).items() if torch.equal(tensor, before[name])]
    assert {name.rpartition(".")[2] for name in equal} == {"num_batches_tracked"}
    assert digest(model.towers) == unchanged
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.towers.state_dict().items())
    assert all(parameter.grad is None for parameter in model.towers.parameters())


def trained_everywhere(model: AVModel) -> None:
    batch = make_batch(model)
    batch.targets["labels"] = torch.randint(0, 29, (2, 2), generator=torch.Generator().manual_seed(0))
    model.loss(model(batch), batch).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_bottlenecks_train_in_every_stage_of_a_shared_swin(make: Make) -> None:
    model = make(*SMALL_SOUND, visual="small_swin", moved=True).train()
    assert len(model.parts["lavish"].layers) == 6
    trained_everywhere(model)


def test_bottlenecks_and_the_maps_between_unequal_encoders_train(make: Make) -> None:
    sets = (*SMALL_SOUND, "audio.backbone=narrow_swin", "audio.weights=random")
    model = make(*sets, visual="small_swin", moved=True).train()
    assert list(model.parts["lavish"].layers) == list(model.parts["align"].layers) == ["0", "1", "4", "5"]
    trained_everywhere(model)


def test_with_unequal_encoders_event_localisation_starts_at_the_frozen_ones(make: Make) -> None:
    sets = (*SMALL_SOUND, "audio.backbone=narrow_swin", "audio.weights=random")
    model = make(*sets, visual="small_swin").eval()
    batch = make_batch(model)
    features = model.features(batch)
    for stream in ("visual", "audio"):
        torch.testing.assert_close(features.stream(stream).tokens, model.plain(stream, batch).tokens)


def test_with_frozen_weights_in_half_precision_the_bottlenecks_train(make: Make, batch: Batch) -> None:
    model = make(moved=True).train()
    exact = model(batch)["logits"].detach()
    model.towers.to(torch.bfloat16)
    out = model(batch)
    model.loss(out, batch).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert (out["logits"] - exact).norm() < 0.05 * exact.norm()


# --------------------------------------------------------------------------------------------------------- recipes

RECIPES = sorted(
    entry.name
    for entry in files("avcore_lavish").joinpath("recipes").iterdir()
    # Grounding has no part; avcore-avqa tries it.
    if ".grounding." not in entry.name
)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_resolve_and_assemble(registry: Registry, name: str) -> None:
    task, _, variant = name.removesuffix(".yaml").partition(".")
    content = yaml.safe_load(files("avcore_lavish").joinpath("recipes", name).read_text())
    settings = LavishSettings(**content["settings"]["parts"]["lavish"])
    if task not in registry.tasks:
        return
    resolved = resolve_config(registry, method="lavish", task=task, recipe=variant or None, need_data=False)
    assert resolved.config.parts["lavish"] == settings
    parts = {"align", "lavish"} if variant == "unshared" else {"lavish"}
    assert set(assemble(resolved.config, registry, meta=True).parts) == parts


def test_how_the_recipe_feeds_sound_to_a_vit_does_not_reach_a_swin() -> None:
    def frames(**given: str) -> Any:
        resolved = resolve_config(load_registry(), method="lavish", task="ave", need_data=False, **given)
        return resolved.config.audio.settings.frames

    assert frames() == 102
    assert frames(visual="vit_tiny_patch16_224") == 102
    assert frames(visual="swinv2_tiny_window8_256") is None
    assert frames(visual="swin_tiny_patch4_window7_224", audio="vit_tiny_patch16_224") is None
