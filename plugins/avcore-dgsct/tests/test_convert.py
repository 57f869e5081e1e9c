"""Checkpoints of the published code under avcore's names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from avcore import load_adapter
from avcore.backbones import state_faults
from avcore.cli.convert import convert as command
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.states import trainable_state
from avcore.tasks import Batch
from avcore_dgsct.convert import convert

Make = Callable[..., AVModel]

# Ours to theirs, the longest first.
NAMES = {
    "align.tokens": "conv_adapter",
    "align.width": "fc",
    "guidance.channel_own": "fc_affine_video_1",
    "guidance.channel_other": "fc_affine_audio_1",
    "guidance.channel_squeeze": "fc_affine_bottleneck",
    "guidance.channel_gate": "fc_affine_v_c_att",
    "guidance.token_own": "fc_affine_video_2",
    "guidance.token_other": "fc_affine_audio_2",
    "guidance.token_score": "fc_affine_v_s_att",
    "guidance.segment_gate": "temporal_gated.0",
    "latents": "my_tokens",
    "latent_gate": "gate_av",
    "gate": "gate",
    "down": "down_sampler",
    "up": "up_sampler",
    "norm_down": "bn1",
    "norm_up": "bn2",
    "norm_before": "ln_before",
    "norm_post": "ln_post",
}
HEAD = {
    "temporal.visual_in": "temporal_attn.v_fc",
    "temporal.audio_in": "temporal_attn.a_fc",
    "temporal.visual.lstm": "temporal_attn.audio_visual_rnn_layer.visual_rnn",
    "temporal.audio.lstm": "temporal_attn.audio_visual_rnn_layer.audio_rnn",
    **{
        f"temporal.{ours}{part}": f"temporal_attn.{theirs}_{name}"
        for ours, theirs in (("visual", "video"), ("audio", "audio"))
        for part, name in (
            (".affine", "encoder.affine_matrix"),
            (".transformer", "encoder.encoder"),
            (".gate", "gated.0"),
            ("_decoder.affine", "decoder.affine_matrix"),
            ("_decoder.attention", "decoder.decoder.layers.0.multihead_attn"),
            ("_decoder.up", "decoder.decoder.layers.0.linear1"),
            ("_decoder.down", "decoder.decoder.layers.0.linear2"),
            ("_decoder.norm_attention", "decoder.decoder.layers.0.norm1"),
            ("_decoder.norm_mlp", "decoder.decoder.layers.0.norm2"),
        )
    },
    "localisation.visual_score": "CMBS.video_cas",
    "localisation.audio_score": "CMBS.audio_cas",
    "localisation.is_event": "CMBS.localize_module.classifier",
    "localisation.event": "CMBS.localize_module.event_classifier",
}
UNUSED = (
    "adapter_token_downsampler.0.weight",
    "swin.head.weight",
    "htsat.head.bias",
    "htsat.tscam_conv.weight",
    "vis_adapter_blocks_p1.0.gate_tk",
    "CMBS.AVInter.norm1.weight",
    "CMBS.video_norm.bias",
    "temporal_attn.video_encoder.encoder_layer.linear1.weight",
    "temporal_attn.audio_decoder.decoder_layer.norm1.weight",
    "temporal_attn.audio_decoder.decoder.layers.0.self_attn.in_proj_bias",
)


def theirs(key: str, names: dict[str, str]) -> str:
    ours = next(name for name in names if key == name or key.startswith(f"{name}."))
    return names[ours] + key.removeprefix(ours)


def official(model: AVModel) -> dict[str, Tensor]:
    """The state of a small model of event localisation as the published code would save it."""
    made = dict.fromkeys(UNUSED, torch.ones(1))
    for prefix, stream in (("swin", "visual"), ("htsat", "audio")):
        for key, value in model.towers[stream].weights().items():
            pieces = key.split(".")
            if "downsample" in pieces:
                # There merging ends a stage instead of beginning the next.
                pieces[1] = str(int(pieces[1]) - 1)
            made[f"{prefix}.{'.'.join(pieces)}"] = value
    layers = list(model.parts["dgsct"].layers)
    for key, value in trainable_state(model).items():
        if key.startswith("head."):
            made[theirs(key.removeprefix("head."), HEAD)] = value
            continue
        _, _, block, pair, stream, rest = key.split(".", 5)
        kind = {"visual": "vis", "audio": "audio"}[stream]
        name = theirs(rest, NAMES)
        pointwise = name in ("conv_adapter.weight", "down_sampler.weight", "up_sampler.weight")
        made[f"{kind}_adapter_blocks_{pair}.{layers.index(block)}.{name}"] = (
            value[..., None, None] if pointwise else value
        )
    return made


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_comes_back_under_our_names(make: Make, prefix: str) -> None:
    model = make(moved=True)
    made = convert({f"{prefix}{key}": value for key, value in official(model).items()}, make(meta=True))
    for stream in ("visual", "audio"):
        frozen = {key.removeprefix(f"{stream}."): made.pop(key) for key in list(made) if key.startswith(f"{stream}.")}
        own = model.towers[stream].weights()
        assert state_faults(own, frozen) == []
        assert all(torch.equal(frozen[key], own[key]) for key in own)
    assert state_faults(trainable_state(model), made) == []
    assert all(torch.equal(value, trainable_state(model)[key]) for key, value in made.items())


def test_unknown_keys_are_named(make: Make) -> None:
    strange = {
        "module.vis_adapter_blocks_p3.0.gate": torch.ones(1),
        "vis_adapter_blocks_p1.5.gate": torch.ones(1),
        "vis_adapter_blocks_p1.0.gate_ak": torch.ones(1),
        "temporal_attn.text_encoder.affine_matrix.weight": torch.ones(1),
        "CMBS.localize_module.regressor.weight": torch.ones(1),
        "mlp_class.weight": torch.ones(1),
    }
    assert set(convert(strange, make(meta=True))) == {f"unknown.{key}" for key in strange}
    # Only the heads of this package are known.
    other = make("head.name=ave.linear", meta=True)
    assert list(convert({"CMBS.video_cas.weight": torch.ones(1)}, other)) == ["unknown.CMBS.video_cas.weight"]


def test_the_head_of_video_parsing(make: Make) -> None:
    """Its names, and their values, are held to the published ones by the golden case."""
    model = make(task="avvp", meta=True)
    one = torch.ones(1)
    made = convert(
        {
            "audio_token": one,
            "fc_v.weight": one,
            "audio_cug.han_encoder.assign.q_proj.bias": one,
            "av_mcg.blocks.5.attn.qkv.weight": one,
            "temporal_attn.audio_gated.0.bias": one,
            "temporal_attn.video_gated.0.bias": one,
            "temporal_attn.audio_encoder.encoder_layer.norm1.bias": one,
            "visual_cug.blocks.0.attn.gate": one,
        },
        model,
    )
    assert set(made) == {
        "head.network.audio_tokens",
        "head.embedding.visual.weight",
        "head.network.audio.by_other.assignment.query.bias",
        "head.network.both.blocks.5.qkv.weight",
        "head.temporal.audio.gate.bias",
        "unknown.visual_cug.blocks.0.attn.gate",
    }


def test_what_segmentation_never_uses_is_dropped(make: Make) -> None:
    unused = {
        f"vis_adapter_blocks_p2.0.{name}": torch.ones(1)
        for name in ("ln_before.weight", "conv_adapter.bias", "temporal_gated.0.weight")
    }
    unused |= {
        key: torch.ones(1)
        for key in (
            "conv1.conv2d_list.0.weight",
            "x1_linear.weight",
            "path4.resConfUnit1.conv1.bias",
            "temporal_attn.video_decoder.0.affine_matrix.weight",
            "temporal_attn.audio_encoder.3.encoder_layer.norm1.bias",
        )
    }
    settings = ("parts.dgsct.align=resize", "parts.dgsct.order=avs", "parts.dgsct.pool=audio")
    model = make(*settings, task="avs", meta=True)
    assert convert(unused, model) == {}
    assert list(convert({"x1_linear_.weight": torch.ones(1), "x9.weight": torch.ones(1)}, model)) == [
        "head.projections.0.weight",
        "unknown.x9.weight",
    ]


def test_a_temporal_gate_is_kept_where_it_is_used(make: Make) -> None:
    key = "audio_adapter_blocks_p1.0.temporal_gated.0.bias"
    model = make("parts.dgsct.temporal_gate=true", meta=True)
    assert list(convert({key: torch.ones(1)}, model)) == ["dgsct.layers.0.p1.audio.guidance.segment_gate.bias"]


def test_the_command_makes_an_adapter_that_computes_the_same(
    make: Make, batch: Batch, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avcore.runs.convert.load_registry", lambda: registry)
    source, file, out = make(moved=True).eval(), tmp_path / "best.pt", tmp_path / "adapter"
    torch.save(official(source), file)
    settings = source.config
    chosen = [
        *("visual.backbone=small", "audio.backbone=test_htsat", "audio.repeat_seconds=null"),
        *("data.segments=4", "data.clip_seconds=1.2", "data.window_seconds=0.3", "data.window_margin=0.3"),
        *(f"parts.dgsct.{key}={getattr(settings.parts['dgsct'], key)}" for key in ("reduction", "tokens")),
        *("head.visual_width=12", "head.audio_width=6", "head.temporal={width: 8, feed_forward: 12, heads: 2}"),
    ]
    options = [word for setting in chosen for word in ("--set", setting)]
    arguments = [str(file), "--from", "dgsct", "--task", "ave", "-o", str(out), *options]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    files = (f"visual.weights={out / 'backbone.safetensors'}", f"audio.weights={out / 'audio_backbone.safetensors'}")
    again = make(*files).eval()
    load_adapter(out, again)
    assert torch.equal(again(batch)["event"], source(batch)["event"])


def test_a_checkpoint_of_other_settings_is_refused_with_the_list(make: Make) -> None:
    made = convert(official(make()), make("parts.dgsct.batch_norm=false", meta=True))
    faults = state_faults(trainable_state(make("parts.dgsct.batch_norm=false", meta=True)), made)
    assert any("dgsct.layers.0.p1.visual.norm_down.weight" in fault for fault in faults)
