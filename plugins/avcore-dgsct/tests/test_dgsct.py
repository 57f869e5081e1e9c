"""DG-SCT in a model: where it acts, what it pools, what it refuses, training, recipes."""

from collections.abc import Callable
from importlib.resources import files

import pytest
import torch
import yaml
from torch import Tensor

from avcore import AVCoreError
from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.states import parameter_groups, trainable_state
from avcore.tasks import Batch
from avcore_dgsct.settings import DGSCTSettings

Make = Callable[..., AVModel]
SEGMENTATION = (
    "parts.dgsct.align=resize",
    "parts.dgsct.order=avs",
    "parts.dgsct.batch_norm=false",
    "parts.dgsct.audio_gate=false",
    "parts.dgsct.latents=zeros",
    "parts.dgsct.pool=audio",
)
SERIAL = ("parts.dgsct.placement=serial", "parts.dgsct.pool=none", "plan.atomic_audio=false")


def tokens(model: AVModel, block: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(2)
    layer = model.parts["dgsct"].layers[str(block)]
    shapes = [(8, len(layer.p1.visual.align.tokens.bias), layer.p1.visual.latents.shape[1])]
    shapes.append((8, len(layer.p1.audio.align.tokens.bias), layer.p1.audio.latents.shape[1]))
    visual, audio = (torch.randn(shape, generator=draws).double() for shape in shapes)
    return visual, audio


def test_the_audio_block_runs_whole_and_both_streams_read_the_tokens_before_the_update(make: Make) -> None:
    """Published order at a pair: p1 of both beside attention and audio's whole block, then p2 and the visual MLP."""
    model = make(moved=True).double().eval()
    assert model.config.plan.atomic_audio
    visual, audio = tokens(model, 1)
    made, _, _ = model.steps[1]({"visual": visual, "audio": audio}, {})
    layer, blocks = model.parts["dgsct"].layers["1"], model.steps[1].blocks
    visual_p1, audio_p1 = layer.p1(visual, audio)
    visual = visual + blocks["visual"].attention(visual)[0] + visual_p1.add
    audio = audio + blocks["audio"].attention(audio)[0]
    audio = audio + blocks["audio"].mlp(audio) + audio_p1.add
    visual_p2, audio_p2 = layer.p2(visual, audio)
    torch.testing.assert_close(made["visual"], visual + blocks["visual"].mlp(visual) + visual_p2.add)
    torch.testing.assert_close(made["audio"], audio + audio_p2.add)


def test_serial_bottlenecks_follow_attention_and_mlp(make: Make) -> None:
    model = make(*SERIAL, "parts.dgsct.temporal_gate=true", moved=True).double().eval()
    streams = dict(zip(("visual", "audio"), tokens(model, 1), strict=True))
    made, _, _ = model.steps[1](dict(streams), {})
    layer, blocks = model.parts["dgsct"].layers["1"], model.steps[1].blocks
    for pair, frozen in ((layer.p1, lambda s, x: blocks[s].attention(x)[0]), (layer.p2, lambda s, x: blocks[s].mlp(x))):
        streams = {stream: x + frozen(stream, x) for stream, x in streams.items()}
        adapted = dict(zip(streams, pair(streams["visual"], streams["audio"]), strict=True))
        streams = {stream: x + adapted[stream].add for stream, x in streams.items()}
    for stream, expected in streams.items():
        torch.testing.assert_close(made[stream], expected)


def test_event_localisation_starts_at_the_frozen_backbones(make: Make, batch: Batch) -> None:
    model = make().eval()
    features = model.features(batch)
    for stream in ("visual", "audio"):
        torch.testing.assert_close(features.stream(stream).raw_tokens, model.plain(stream, batch).raw_tokens)


@pytest.mark.parametrize("pool", ["both", "audio", "none"])
def test_pooled_vectors_are_weighted_by_the_last_maps(make: Make, batch: Batch, pool: str) -> None:
    """Normed tokens of pictures, tokens of sound before the final norm; the maps are those of the last p2."""
    model = make(f"parts.dgsct.pool={pool}", moved=True).eval()
    features = model.features(batch)
    assert features.offers.keys() == {"dgsct.visual_map", "dgsct.audio_map"}
    (visual_M1N,), (audio_M1N,) = features.offers["dgsct.visual_map"], features.offers["dgsct.audio_map"]
    assert visual_M1N.shape == (8, 1, 1)
    assert audio_M1N.shape == (8, 1, 4)
    torch.testing.assert_close(audio_M1N.sum(-1), torch.ones(8, 1))
    for name, stream, weighted in (
        ("visual", features.stream("visual"), (visual_M1N.mT * features.stream("visual").tokens).sum(1)),
        ("audio", features.stream("audio"), (audio_M1N.mT * features.stream("audio").raw_tokens).sum(1)),
    ):
        expected = weighted if pool in ("both", name) else stream.tokens.mean(1)
        torch.testing.assert_close(stream.pooled, expected.unflatten(0, (2, 4)))


def test_layers_stand_at_the_pairs_alone(make: Make) -> None:
    """Of three visual blocks beside two in the third stage, the first runs alone."""
    model = make(meta=True)
    assert list(model.parts["dgsct"].layers) == [str(e.visual) for e in model.plan if e.paired]
    assert len(model.parts["dgsct"].layers) == 5


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "setting",
    [
        "reduction=0",
        "groups=0",
        "tokens=0",
        "alpha=-1",
        "beta=-1",
        "gamma=-1",
        "order=other",
        "align=none",
        "pool=last",
    ],
)
def test_settings_out_of_range_are_named(make: Make, setting: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.dgsct\.{setting.partition('=')[0]}"):
        make(f"parts.dgsct.{setting}")


def test_groups_that_do_not_divide_the_widths_are_refused(make: Make) -> None:
    with pytest.raises(AVCoreError, match=r"parts\.dgsct: blocks of width 16 have a bottleneck of 8"):
        make("parts.dgsct.groups=3")


def test_grids_with_class_tokens_are_not_resized(make: Make) -> None:
    sets = ("visual.weights=random", "audio.weights=random", "parts.dgsct.reduction=2", *SEGMENTATION)
    with pytest.raises(AVCoreError, match="class tokens before their grids: use align=tokens_then_width"):
        make(*sets, visual="vit_tiny_patch16_224", meta=True)


def test_single_streams_are_refused(make: Make) -> None:
    with pytest.raises(AVCoreError, match="'dgsct' needs both streams"):
        make(streams="visual", meta=True)


def test_serial_bottlenecks_have_no_maps_and_want_audio_in_two_parts(make: Make) -> None:
    with pytest.raises(AVCoreError, match=r"parts\.dgsct\.pool must be 'none' with placement=serial"):
        make("parts.dgsct.placement=serial", "parts.dgsct.pool=both")
    with pytest.raises(AVCoreError, match="audio blocks run atomically"):
        make(*SERIAL[:2])


# -------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("task", "settings"),
    [("ave", ()), ("ave", ("parts.dgsct.temporal_gate=true",)), ("ave", SERIAL), ("avs", SEGMENTATION)],
    ids=["ave", "gated", "serial", "avs"],
)
def test_a_step_changes_every_parameter_and_nothing_frozen(
    make: Make, batch: Batch, task: str, settings: tuple[str, ...]
) -> None:
    model = make(*settings, task=task, moved=True).train()
    if task == "avs":
        # TPAVI's increment starts behind a normalisation by zero, as published.
        for tpavi in model.head.decoder.tpavi.values():
            torch.nn.init.ones_(tpavi.out_norm.weight)
    unchanged = digest(model.towers)
    before = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    trained = [parameter for group in parameter_groups(model).values() for _, parameter in group]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    model.loss(model(batch), batch).backward()
    assert [name for g in parameter_groups(model).values() for name, p in g if p.grad is None] == []
    optimizer.step()
    after = trainable_state(model)
    equal = [name for name in before if torch.equal(after[name], before[name])]
    assert {name.rpartition(".")[2] for name in equal} <= {"num_batches_tracked"}
    assert digest(model.towers) == unchanged


def test_with_frozen_weights_in_half_precision_the_bottlenecks_stay_in_full(make: Make, batch: Batch) -> None:
    model = make(moved=True).train()
    exact = model(batch)["event"].detach()
    model.towers.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(batch)
        model.loss(out, batch).backward()
    for name, parameter in (*parameter_groups(model)["parts"], *parameter_groups(model)["head"]):
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert (out["event"] - exact).norm() < 0.1 * exact.norm()


# --------------------------------------------------------------------------------------------------------- recipes

RECIPES = sorted(
    entry.name
    for entry in files("avcore_dgsct").joinpath("recipes").iterdir()
    # Those of few-shot are those of test_fewshot.py; grounding has no part.
    if ".demo." not in entry.name and not entry.name.startswith("fewshot") and ".grounding." not in entry.name
)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_resolve_and_assemble(registry: Registry, name: str) -> None:
    task, _, variant = name.removesuffix(".yaml").partition(".")
    content = yaml.safe_load(files("avcore_dgsct").joinpath("recipes", name).read_text())
    resolved = resolve_config(registry, method="dgsct", task=task, recipe=variant or None, need_data=False)
    assert resolved.config.parts["dgsct"] == DGSCTSettings(**content["settings"]["parts"]["dgsct"])
    model = assemble(resolved.config, registry, meta=True)
    assert set(model.parts) == {"dgsct"}
    assert (model.windows.length, model.windows.margin) == (1.0, 1.0)
    assert model.sound.repeat_seconds == model.segments


def test_the_first_stage_of_question_answering_has_the_head_alone(registry: Registry) -> None:
    resolved = resolve_config(registry, method="dgsct", task="avqa", recipe="grounding", need_data=False)
    model = assemble(resolved.config, registry, meta=True)
    assert not model.parts
    assert resolved.config.head.name == "avqa.grounding"
    assert model.sound.repeat_seconds == model.segments


def test_published_counts_stand_beside_ours(registry: Registry) -> None:
    resolved = resolve_config(registry, method="dgsct", task="ave", need_data=False)
    report = count_parameters(assemble(resolved.config, registry, meta=True), resolved.recipe.published)
    shown = [line.split() for line in report.render("swinv2_large_window12_192", "htsat").splitlines()]
    assert ["parameters_M", "187.1", "188.54"] in [line[:3] for line in shown]
    assert ["trainable_percent", "43.6", "46.86"] in [line[:3] for line in shown]
