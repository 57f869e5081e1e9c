"""Bottleneck fusion against tokens joined by hand, on timm's Vision Transformer in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import avcore_baselines
import avcore_mbt
import avcore_timm
from avcore import AVCoreError, AVModel, BackboneSpec, hookimpl, parameter_groups
from avcore.report.parameters import count_parameters
from avcore.specs import STREAMS
from avcore.testing import ToyPlugin, create_model, make_batch, make_model
from avcore_timm import HTSAT_PRESETS
from avcore_timm.settings import HTSATSettings, SwinSettings

SOUND = ("audio.frames=48", "audio.mel_bins=32")
WIDTH, DEPTH = 64, 6  # of test_vit
OTHERS = {"avcore-timm": avcore_timm, "avcore-mbt": avcore_mbt}


def make(*sets: str) -> AVModel:
    return make_model(avcore_timm, "test_vit", listed=("mbt",), others={"avcore-mbt": avcore_mbt}, sets=(*SOUND, *sets))


@pytest.mark.parametrize("last", [2, 4, 12])
def test_bottlenecks_equal_tokens_joined_by_hand(last: int) -> None:
    model = make("parts.mbt.tokens=3", f"parts.mbt.last={last}").double()
    data = make_batch(model)
    images = model.front_ends(data)
    (start,) = [parameter for name, parameter in parameter_groups(model)["parts"] if name.startswith("mbt.")]
    assert start.shape == (3, WIDTH)
    trunk: Any = model.towers["visual"].trunk.model  # type: ignore[union-attr]
    x: dict[str, Tensor] = {}
    for stream in STREAMS:
        tower: Any = model.towers[stream]
        x[stream] = tower.enter(tower.embed(images[stream].double()))
    bottlenecks = start.expand(len(x["visual"]), -1, -1)
    for index, block in enumerate(wrapped.inner for wrapped in trunk.blocks):
        if index < DEPTH - last:
            x = {stream: block(tokens) for stream, tokens in x.items()}
            continue
        whole = {stream: block(torch.cat([tokens, bottlenecks], dim=1)) for stream, tokens in x.items()}
        x = {stream: whole[stream][:, : tokens.shape[1]] for stream, tokens in x.items()}
        bottlenecks = torch.stack([whole[stream][:, x[stream].shape[1] :] for stream in STREAMS]).mean(0)
    features = model.features(data)
    for stream in STREAMS:
        torch.testing.assert_close(features.stream(stream).tokens, trunk.norm(x[stream]), rtol=0, atol=1e-10)
        assert (features.stream(stream).tokens - model.plain(stream, data).tokens).abs().max() > 1e-3


def test_sound_reaches_the_picture_after_two_fused_pairs() -> None:
    model = make("parts.mbt.last=2")
    data = make_batch(model)
    mixed = replace(data, waveform=make_batch(model, seed=2).waveform)
    one, other = (model.features(batch).stream("visual").tokens for batch in (data, mixed))
    assert (one - other).abs().max() > 1e-4


class SmallSwin:
    """A Swin-V2 of 6 blocks in four stages, widths 16 to 128, and a narrower HTS-AT of 5."""

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        sizes = {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 3, 1), "num_heads": (2, 2, 2, 2)}
        swin = {"small_swin": {"model": "swinv2_tiny_window8_256", "arguments": sizes}}
        htsat = {"small_htsat": {**HTSAT_PRESETS["test_htsat"], "width": 12}}
        builds = {"small_swins": "avcore_timm.swin:build_v2", "small_htsats": "avcore_timm.htsat:build"}
        return [
            BackboneSpec(name="small_swins", build=builds["small_swins"], config=SwinSettings, presets=swin),
            BackboneSpec(name="small_htsats", build=builds["small_htsats"], config=HTSATSettings, presets=htsat),
        ]


@pytest.mark.parametrize("sound", ["shared", "own"])
def test_bottlenecks_pass_merges_and_wait_where_a_stream_rests(sound: str) -> None:
    """A visual block of the third stage runs alone beside the HTS-AT: the bottlenecks are not in it."""
    own = ("audio.backbone=small_htsat", "audio.weights=random")
    model = make_model(
        SmallSwin(),
        "small_swin",
        listed=("mbt",),
        others=OTHERS,
        sets=("parts.mbt.last=6", *(own if sound == "own" else ("audio.frames=32", "audio.mel_bins=32"))),
    ).train()
    assert len(model.parts["mbt"].layers) == (6 if sound == "shared" else 5)
    assert ("align" in model.parts) == (sound == "own")
    widths = [parameter.shape[-1] for name, parameter in parameter_groups(model)["parts"] if name.startswith("mbt.")]
    assert widths == ([16] if sound == "shared" else [12, 16])
    data = make_batch(model)
    model.loss(model(data), data).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("sets", "count"), [((), 4 * 768), (("parts.mbt.tokens=16", "parts.mbt.last=12"), 16 * 768)])
def test_counts_on_vit_base(sets: tuple[str, ...], count: int) -> None:
    model = create_model(
        {"timm": avcore_timm, "mbt": avcore_mbt, "toys": ToyPlugin()},
        task="toy",
        prompts="none",
        fusions="mbt",
        visual="vit_base_patch16_224",
        set=sets,
        meta=True,
    )
    assert sum(parameter.numel() for _, parameter in parameter_groups(model)["parts"]) == count


def test_everything_trains_in_the_method_on_vit_base_and_ast() -> None:
    """172.0 M, as the table of the AV-STFP poster has it."""
    model = create_model(
        {"timm": avcore_timm, "mbt": avcore_mbt, "baselines": avcore_baselines, "toys": ToyPlugin()},
        task="toy",
        method="mbt",
        visual="vit_base_patch16_224",
        set=("audio.backbone=ast", "audio.weights=random", "audio.frames=98"),
        meta=True,
    )
    counted = count_parameters(model)
    assert counted.parts["full"].trainable == 171_985_920
    assert counted.added == 171_985_920 + 4 * 768
    assert round(counted.added / 1e6, 1) == 172.0
    assert counted.total == counted.added + counted.parts["head"].parameters


@pytest.mark.parametrize("setting", ["tokens=0", "last=1"])
def test_settings_out_of_range_are_named(setting: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.mbt\.{setting.partition('=')[0]}"):
        make(f"parts.mbt.{setting}")
