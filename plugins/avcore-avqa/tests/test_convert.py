"""Checkpoints of LAVISH's and DG-SCT's published code of question answering become adapters that compute the same."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small import assemble_small
from torch import Tensor

import avcore_avqa
import avcore_dgsct
import avcore_lavish
import avcore_timm
from avcore import load_adapter
from avcore.assemble import assemble
from avcore.cli.convert import convert as command
from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.states import trainable_state
from avcore.testing.toys import make_batch
from avcore_avqa.convert import rename

BOTTLENECK = {
    "latents": "my_tokens",
    "latent_gate": "gate_av",
    "gate": "gate",
    "down": "down_sampler",
    "up": "up_sampler",
    "norm_before": "ln_before",
    "norm_post": "ln_post",
    "align.tokens": "conv_adapter",
    "align.width": "fc",
    "guidance.channel_own": "fc_affine_video_1",
    "guidance.channel_other": "fc_affine_audio_1",
    "guidance.channel_squeeze": "fc_affine_bottleneck",
    "guidance.channel_gate": "fc_affine_v_c_att",
    "guidance.token_own": "fc_affine_video_2",
    "guidance.token_other": "fc_affine_audio_2",
    "guidance.token_score": "fc_affine_v_s_att",
}
POINTWISE = ("conv_adapter.weight", "down_sampler.weight", "up_sampler.weight")
THEIRS = (
    *("question_encoder.word2vec", "question_encoder.lstm", "question_encoder.fc", "fc_gl", "fc1", "fc2", "fc3", "fc4"),
    *("attn_v", "attn_a", "linear11", "linear12", "linear21", "linear22", "norm1", "norm2", "fc_fusion", "fc_ans"),
    "fc_a2",
)
UNUSED = ("fc", "fc_v", "fc_st", "fc_aq", "fc_vq", "norm3", "fc_a1_pure", "fc_a2_pure")
"""Layers that the published heads make and never use."""
SMALL = (
    *("data.segments=2", "data.clip_seconds=2", "data.window_seconds=1.0", "data.window_margin=1.0"),
    "head.match_width=8",
)
SETS = {
    "lavish": (
        "visual.backbone=test_swinv2",
        "audio.frames=null",
        "audio.mel_bins=null",
        "parts.lavish.reduction=4",
        "head.width=16",
        *SMALL,
    ),
    "dgsct": (
        "visual.backbone=test_swinv2",
        "audio.backbone=test_htsat",
        "audio.repeat_seconds=null",
        "parts.dgsct.reduction=4",
        "head.width=128",
        *SMALL,
    ),
}
RANDOM = {"lavish": ("visual.weights=random",), "dgsct": ("visual.weights=random", "audio.weights=random")}
RECIPE = {"lavish": "swin", "dgsct": None}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.from_modules(
        {
            "avcore-timm": avcore_timm,
            "avcore-lavish": avcore_lavish,
            "avcore-dgsct": avcore_dgsct,
            "avcore-avqa": avcore_avqa,
        }
    )


@pytest.fixture(scope="module")
def make(registry: Registry) -> Callable[..., AVModel]:
    def made(method: str, *sets: str, meta: bool = False) -> AVModel:
        resolved = resolve_config(
            registry, method=method, task="avqa", recipe=RECIPE[method], sets=(*SETS[method], *sets), need_data=False
        )
        return (partial(assemble, meta=True) if meta else assemble_small)(resolved.config, registry)

    return made


def trained(model: AVModel) -> AVModel:
    """Everything that trains moved, so that gates, norms and latent tokens matter."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in trainable_state(model).values():
            tensor.add_(torch.rand(tensor.shape, generator=draws) * 0.5)
    return model.eval()


def unmerged(key: str) -> str:
    """timm 0.6 ends a stage with what timm 1.0 begins the next with."""
    pieces = key.split(".")
    if "downsample" in pieces:
        pieces[1] = str(int(pieces[1]) - 1)
    return ".".join(pieces)


def official(model: AVModel, method: str) -> dict[str, Tensor]:
    """The state of a model as the published code would save it."""
    made = {f"{name}.weight": torch.ones(1) for name in (*UNUSED, *(("fc_a1",) if method == "lavish" else ()))}
    trunks = {"swin": "visual", **({"htsat": "audio"} if method == "dgsct" else {})}
    for theirs, stream in trunks.items():
        made |= {f"{theirs}.{unmerged(key)}": value for key, value in model.towers[stream].weights().items()}
    layers = list(model.parts[method].layers)
    back = {}
    for name in (*THEIRS, *(("yb_fc_v", "yb_fc_a") if method == "lavish" else ("fc_a1",))):
        found = rename(f"{name}.x", lavish=method == "lavish")
        assert found is not None
        back[found.removesuffix(".x")] = name
    for key, value in trainable_state(model).items():
        if key.startswith("head.network."):
            inner = key.removeprefix("head.network.")
            ours = next(name for name in back if inner.startswith(f"{name}."))
            made[back[ours] + inner.removeprefix(ours)] = value
        elif key.startswith("lavish.backbone.visual."):
            made[f"swin.{unmerged(key.removeprefix('lavish.backbone.visual.'))}"] = value
        else:
            _, _, block, pair, stream, rest = key.split(".", 5)
            ours = next(name for name in BOTTLENECK if rest == name or rest.startswith(f"{name}."))
            name = BOTTLENECK[ours] + rest.removeprefix(ours)
            place = f"{'vis' if stream == 'visual' else 'audio'}_adapter_blocks_{pair}.{layers.index(block)}"
            made[f"{place}.{name}"] = value[..., None, None] if name in POINTWISE else value
    return made


def convert(file: Path, method: str, out: Path, *sets: str) -> object:
    options = [word for setting in (*SETS[method], *sets) for word in ("--set", setting)]
    options += ["--recipe", RECIPE[method]] if RECIPE[method] else []
    arguments = [str(file), "--from", method, "--task", "avqa", "-o", str(out), *options]
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize("method", SETS)
def test_the_command_makes_an_adapter_that_computes_the_same(
    method: str, make: Callable[..., AVModel], registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avcore.runs.convert.load_registry", lambda: registry)
    source, file, out = trained(make(method, *RANDOM[method])), tmp_path / "best.pt", tmp_path / "adapter"
    torch.save({f"module.{key}": value for key, value in official(source, method).items()}, file)
    done = convert(file, method, out)
    assert done.exit_code == 0, done.output
    weights = [f"visual.weights={out / 'backbone.safetensors'}"]
    weights += [f"audio.weights={out / 'audio_backbone.safetensors'}"] if method == "dgsct" else []
    again = make(method, *weights).eval()
    load_adapter(out, again)
    batch = make_batch(source)
    expected, found = source.double()(batch), again.double()(batch)
    for name in ("answer", "match"):
        assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize("method", SETS)
def test_what_is_unknown_missing_or_misshapen_is_named(
    method: str, make: Callable[..., AVModel], registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avcore.runs.convert.load_registry", lambda: registry)
    state, file, out = official(make(method, *RANDOM[method]), method), tmp_path / "best.pt", tmp_path / "adapter"
    state["fc_new.weight"] = torch.ones(1)
    state["fc_gl.bias"] = torch.ones(3)
    del state["question_encoder.lstm.bias_hh_l0"]
    del state["vis_adapter_blocks_p1.1.my_tokens"]
    torch.save(state, file)
    done = convert(file, method, out)
    assert isinstance(done.exception, AVCoreError)
    for fault in (
        "unknown: fc_new.weight",
        "missing: head.network.question.lstm.bias_hh_l0",
        f"missing: {method}.layers.{list(make(method, meta=True).parts[method].layers)[1]}.p1.visual.latents",
        f"misshapen: head.network.grounded.bias is (3,) instead of ({16 if method == 'lavish' else 128},)",
    ):
        assert fault in done.output
    assert "2 missing" in done.output + str(done.exception)
    assert not out.exists()


def test_trained_norms_are_the_parts(make: Callable[..., AVModel]) -> None:
    """LAVISH's checkpoint has them where the frozen ones stood, and they count as trained."""
    from avcore_lavish.convert import convert as renamed

    model = make("lavish", *RANDOM["lavish"])
    made = renamed(official(model, "lavish"), make("lavish", meta=True))
    norms = {key for key in made if key.startswith("lavish.backbone.visual.")}
    assert "lavish.backbone.visual.layers.0.blocks.0.norm1.weight" in norms
    assert {key for key in trainable_state(model) if ".backbone." in key} == norms
    assert not any("norm" in key for key in made if key.startswith("visual."))
    frozen = renamed(official(model, "lavish"), make("lavish", "parts.lavish.norms=false", meta=True))
    assert "visual.layers.0.blocks.0.norm1.weight" in frozen
