"""AV-STFP as a whole: base, single branches, refusals, gradients, half precision, compiled steps, recipes."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

import avcore_stfp
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.config.recipes import recipes_of
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.states import parameter_groups, trainable_state
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_batch

Make = Callable[..., AVModel]

EVERY_FORM = [
    (),
    ("parts.stfp.temporal.form=unprojected",),
    ("parts.stfp.temporal.form=tokens",),
    ("parts.stfp.temporal.own_pass=false", "parts.stfp.temporal.gate=none"),
    ("parts.stfp.temporal.gate=heads",),
    ("parts.stfp.spatial.normed=false",),
    ("audio.backbone=narrow", "audio.weights=random"),
    ("parts.stfp.joint.vectors=0",),
    ("parts.stfp.joint.form=merged", "parts.stfp.joint.gate=none"),
    ("parts.stfp.joint.form=tokens",),
    ("parts.stfp.joint.form=latents",),
]

every_form = pytest.mark.parametrize(
    "sets", EVERY_FORM, ids=lambda sets: sets[0].removeprefix("parts.stfp.") if sets else "default"
)


def test_the_class_token_of_sound_starts_as_the_frozen_one(narrow: Make) -> None:
    """Before any step the base changes nothing; then it moves row 0 of the embedded sound alone."""
    with_base = narrow(prompts="segment_embedding+stfp.base", fusions="none", initial=True)
    batch = make_batch(with_base)
    for stream in ("visual", "audio"):
        assert torch.equal(with_base.features(batch).stream(stream).tokens, with_base.plain(stream, batch).tokens)
    part = with_base.parts["stfp.base.audio"]
    with torch.no_grad():
        part.class_token += torch.arange(48.0, dtype=torch.float64)  # type: ignore[operator]
    x = torch.zeros(6, 7, 48, dtype=torch.float64)
    added = part.after_embedding(x, None).expand_as(x)  # type: ignore[operator]
    assert torch.equal(added[:, 0], part.class_token.expand(6, -1))  # type: ignore[operator]
    assert not added[:, 1:].any()
    assert with_base.parts["stfp.base.visual"].class_token is None
    for stream, moved in (("visual", False), ("audio", True)):
        same = torch.equal(with_base.features(batch).stream(stream).tokens, with_base.plain(stream, batch).tokens)
        assert same is not moved


def test_one_class_token_serves_both_streams(narrow: Make) -> None:
    model = narrow("parts.stfp.base.class_token=none", fusions="stfp.joint+stfp.class_token", initial=True)
    assert [name for name in trainable_state(model) if "class_token" in name] == ["stfp.class_token.class_token"]
    batch = make_batch(model)
    with torch.no_grad():
        before = model.features(batch)
        model.parts["stfp.class_token"].class_token += torch.arange(48.0, dtype=torch.float64)  # type: ignore[operator]
        after = model.features(batch)
    for stream in ("visual", "audio"):
        assert not torch.allclose(after.stream(stream).pooled, before.stream(stream).pooled)


def test_the_final_norm_trains_once_for_a_shared_trunk(narrow: Make) -> None:
    model = narrow(initial=True)
    norms = [name for name, _ in parameter_groups(model)["parts"] if ".norm." in name]
    assert norms == ["stfp.base.visual.backbone.visual.norm.weight", "stfp.base.visual.backbone.visual.norm.bias"]
    kept = narrow("parts.stfp.base.final_norm=false", initial=True)
    assert not [name for name, _ in parameter_groups(kept)["parts"] if ".norm." in name]


@every_form
def test_every_trained_tensor_learns_in_every_form(narrow: Make, sets: tuple[str, ...]) -> None:
    model = narrow(*sets).train()
    batch = make_batch(model)
    batch.targets["labels"] = torch.randint(0, 29, (2, 3))
    before = digest(model.towers)
    model.loss(model(batch), batch).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert digest(model.towers) == before


@every_form
def test_half_precision_of_the_frozen_weights_keeps_close(narrow: Make, sets: tuple[str, ...]) -> None:
    model = narrow(*sets, initial=True).float()
    x = tokens_for(model)
    with torch.no_grad():
        expected = model.steps[0](x, {})[0]
        model.towers.to(torch.bfloat16)
        found = model.steps[0]({stream: tokens.bfloat16() for stream, tokens in x.items()}, {})[0]
    for stream in x:
        assert found[stream].dtype == torch.bfloat16
        assert_close(found[stream].float(), expected[stream], rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("parts.stfp.temporal.form=unprojected", "parts.stfp.spatial.normed=false", "parts.stfp.joint.form=tokens"),
        ("parts.stfp.temporal.form=tokens", "parts.stfp.temporal.gate=none", "parts.stfp.joint.form=latents"),
        (
            "parts.stfp.temporal.own_pass=false",
            "parts.stfp.temporal.gate=heads",
            "parts.stfp.joint.form=merged",
            "parts.stfp.joint.gate=none",
        ),
        ("audio.backbone=narrow", "audio.weights=random"),
    ],
    ids=["default", "unprojected", "tokens", "merged", "own trunks"],
)
def test_a_pair_of_blocks_compiles_to_one_graph(narrow: Make, sets: tuple[str, ...]) -> None:
    model = narrow(*sets)
    x = tokens_for(model)
    expected = model.steps[0](x, {})[0]
    captured = capture(model.steps[0], x)
    for stream in x:
        assert_close(captured.output[0][stream], expected[stream], rtol=0, atol=1e-12)


def test_parts_left_out_leave_no_node(narrow: Make) -> None:
    """A step without AV-STFP is the frozen pair of blocks; each part adds operations of its own."""
    sizes = []
    for prompts, fusion in (("stfp.base", "none"), ("stfp.spatial", "none"), ("stfp.spatial", "stfp.joint")):
        model = narrow(prompts=prompts, fusions=fusion)
        sizes.append(capture(model.steps[0], tokens_for(model)).nodes)
    bare = narrow(method="none", fusions="none")
    frozen = capture(bare.steps[0], tokens_for(bare)).nodes
    assert sizes[0] == frozen < sizes[1] < sizes[2]


def test_streams_of_unequal_width_meet_through_maps_of_the_plan(narrow: Make) -> None:
    model = narrow("audio.backbone=wide", "audio.weights=random")
    assert list(model.parts["align"].layers) == list(model.parts["stfp.joint"].layers)
    assert model(make_batch(model))["logits"].isfinite().all()


@pytest.mark.parametrize("stream", ["visual", "audio"])
def test_one_branch_runs_with_its_own_prompts(narrow: Make, stream: str) -> None:
    model = narrow(streams=stream, fusions="none")
    assert set(model.parts) == {
        f"{name}.{stream}" for name in ("segment_embedding", "stfp.base", "stfp.temporal", "stfp.spatial")
    }
    assert model(make_batch(model))["logits"].shape == (2, 3, 29)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("visual.backbone=plain", "parts.stfp.base.class_token=audio"), r"'stfp\.base' needs a class token"),
        (("parts.stfp.temporal.vectors=3",), r"parts\.stfp\.temporal\W+vectors must be 1 or more, and even"),
        (("parts.stfp.temporal.own_pass=false",), r"parts\.stfp\.temporal\W+gate must be 'none' or 'heads'"),
        (("parts.stfp.temporal.form=tokens", "parts.stfp.temporal.gate=heads"), r"gate must be 'zero' or 'none'"),
        (("parts.stfp.joint.form=merged",), r"parts\.stfp\.joint\W+gate must be 'none' with form=merged"),
        (("parts.stfp.joint.form=tokens", "parts.stfp.joint.vectors=1"), r"parts\.stfp\.joint\W+vectors must be 2 or"),
        (("parts.stfp.joint.form=latents", "parts.stfp.joint.vectors=0"), r"parts\.stfp\.joint\W+vectors must be 1 or"),
        (("parts.stfp.spatial.length=0",), r"parts\.stfp\.spatial\W+length must be 1 or more"),
        (
            ("parts.stfp.spatial.normed=false", "parts.stfp.spatial.row_bias=0"),
            "row_bias must be null",
        ),
        (("parts.stfp.spatial.std=-1",), r"parts\.stfp\.spatial\W+std must be 0 or more"),
        (
            (
                "parts.stfp.temporal.own_pass=false",
                "parts.stfp.temporal.gate=none",
                "data.segments=1",
                "data.clip_seconds=1",
            ),
            r"own_pass=false needs clips of two segments or more",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(narrow: Make, sets: tuple[str, ...], message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        narrow(*sets)


def test_a_backbone_without_class_token_runs_without_one(narrow: Make) -> None:
    model = narrow("visual.backbone=plain")
    assert not [name for name in trainable_state(model) if "class_token" in name]
    assert model(make_batch(model))["logits"].shape == (2, 3, 29)
    alone = narrow("visual.backbone=plain", streams="visual", fusions="none")
    assert alone.parts["stfp.base.visual"].unused_in_reference == 3 * 48


@pytest.mark.parametrize("kind", ["auto", "audio"])
def test_sound_has_a_class_token_of_its_own_where_there_are_class_tokens(narrow: Make, kind: str) -> None:
    model = narrow(f"parts.stfp.base.class_token={kind}")
    names = [name for name in trainable_state(model) if "class_token" in name]
    assert names == ["stfp.base.audio.class_token"]


def test_recipes_follow_the_input_and_head_of_stg_cma(registry: Registry) -> None:
    found = [one for one in recipes_of(registry.methods["stfp"]) if one[0] in ("ave", "ave-weak")]
    assert found == [("ave", None), ("ave-weak", None), ("ave", "base")]
    for variant in (None, "base"):
        config = resolve_config(registry, method="stfp", task="ave", recipe=variant, need_data=False).config
        assert (config.audio.settings.patch, config.audio.settings.position) == ("one_channel", "crop")
        assert config.audio.backbone is None
        assert config.visual.settings.image_mean == (0.485, 0.456, 0.406)
        head = config.head.settings
        assert (head.dropout, head.first, head.loss) == (0.5, "audio", "cross_entropy")
        assert (config.optim.betas, config.optim.weight_decay) == ((0.95, 0.999), 5e-7)
        assert (config.optim.schedule, config.optim.warmup_epochs, config.train.epochs) == ("cosine", 2, 20)


def test_the_plugin_is_light() -> None:
    code = "import sys, avcore_stfp; print([name for name in ('torch', 'timm', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    (method,) = avcore_stfp.avcore_methods()
    assert method.prompts == ("segment_embedding", "stfp.base", "stfp.temporal", "stfp.spatial")
