"""VPT against rows joined to the tokens by hand, on timm's Vision Transformer in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avcore_baselines
import avcore_timm
from avcore import AVCoreError, AVModel, BackboneSpec, hookimpl, parameter_groups
from avcore.testing import ToyPlugin, create_model, make_batch, make_model
from avcore_timm.settings import SwinSettings

SOUND = ("audio.frames=48", "audio.mel_bins=32")
WIDTH, DEPTH = 64, 6  # of test_vit


def make(name: str, *settings: str, **options: Any) -> AVModel:
    sets = (*SOUND, *(f"parts.{name}.{setting}" for setting in settings))
    return make_model(
        avcore_timm, "test_vit", listed=(name,), others={"avcore-baselines": avcore_baselines}, sets=sets, **options
    ).double()


def embedded(model: AVModel, stream: str) -> Tensor:
    tower: Any = model.towers[stream]
    found: Tensor = tower.enter(tower.embed(model.front_ends(make_batch(model))[stream].double()))
    return found


def assert_tokens(model: AVModel, stream: str, expected: Tensor) -> None:
    tokens = model.features(make_batch(model)).stream(stream).tokens
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-10)
    assert (model.plain(stream, make_batch(model)).tokens - expected).abs().max() > 1e-3


@pytest.mark.parametrize("stream", ["visual", "audio"])
def test_shallow_rows_flow_beside_the_tokens(stream: str) -> None:
    model = make("vpt.shallow", "length=4")
    trunk: Any = model.towers[stream].trunk.model  # type: ignore[union-attr]
    rows: Any = model.parts[f"vpt.shallow.{stream}"].prompts.rows  # type: ignore[union-attr]
    assert rows.shape == (4, WIDTH)
    x_MND = embedded(model, stream)
    whole = nn.Sequential(*(block.inner for block in trunk.blocks))(
        torch.cat([x_MND, rows.expand(len(x_MND), -1, -1)], dim=1)
    )
    assert_tokens(model, stream, trunk.norm(whole)[:, : x_MND.shape[1]])


@pytest.mark.parametrize("stream", ["visual", "audio"])
def test_deep_rows_are_replaced_in_every_block(stream: str) -> None:
    model = make("vpt.deep", "length=4")
    trunk: Any = model.towers[stream].trunk.model  # type: ignore[union-attr]
    x_MND = embedded(model, stream)
    tokens = x_MND.shape[1]
    for block, layer in zip(trunk.blocks, model.parts[f"vpt.deep.{stream}"].layers.values(), strict=True):
        rows: Any = layer.prompts.rows  # type: ignore[union-attr]
        x_MND = block.inner(torch.cat([x_MND, rows.expand(len(x_MND), -1, -1)], dim=1))[:, :tokens]
    assert_tokens(model, stream, trunk.norm(x_MND))


class SmallSwin:
    """A Swin-V2 of two stages."""

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        sizes = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 2)}
        preset = {"model": "swinv2_tiny_window8_256", "arguments": {**sizes, "num_heads": (2, 2)}}
        build = "avcore_timm.swin:build_v2"
        return [BackboneSpec(name="small_swins", build=build, config=SwinSettings, presets={"small_swin": preset})]


@pytest.mark.parametrize(("name", "widths"), [("vpt.shallow", [16]), ("vpt.deep", [16, 32, 32])])
def test_rows_train_where_widths_grow(name: str, widths: list[int]) -> None:
    model = make_model(
        SmallSwin(),
        "small_swin",
        listed=(name,),
        others={"avcore-timm": avcore_timm, "avcore-baselines": avcore_baselines},
        sets=("audio.frames=16", "audio.mel_bins=16"),
    )
    found = [parameter for key, parameter in parameter_groups(model)["parts"] if ".visual." in key]
    assert [parameter.shape for parameter in found] == [(10, width) for width in widths]
    data = make_batch(model)
    model.loss(model(data), data).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in found)


def test_rows_begin_within_the_bound() -> None:
    bound = math.sqrt(6 / (3 * 8 * 8 + WIDTH))
    rows: Any = make("vpt.shallow", "length=500", "patch=8").parts["vpt.shallow.visual"].prompts.rows  # type: ignore[union-attr]
    assert 0.99 * bound < rows.abs().max() <= bound
    assert rows.mean().abs() < 0.01
    assert rows.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_a_low_bias_lets_deep_rows_start_quietly() -> None:
    quiet, loud = make("vpt.deep", "row_bias=-400"), make("vpt.deep")
    data = make_batch(quiet)
    plain = quiet.plain("visual", data).tokens
    torch.testing.assert_close(quiet.features(data).stream("visual").tokens, plain, rtol=0, atol=1e-10)
    assert (loud.features(data).stream("visual").tokens - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["vpt.shallow", "vpt.deep"])
def test_dropout_is_for_training_only_and_differs_between_pictures(name: str) -> None:
    model = make(name, "dropout=0.5")
    rows: Any = next(module for module in model.modules() if type(module).__name__ == "Rows")
    x = torch.zeros(3, 5, WIDTH)
    assert rows.eval()(x) is rows.rows
    dropped = rows.train()(x)
    assert not torch.equal(dropped[0], dropped[1])
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * rows.rows.expand_as(dropped)[kept])


@pytest.mark.parametrize(
    ("length", "deep", "shallow"),
    [
        (10, 2 * 12 * 10 * 768, 2 * 10 * 768),  # streams, blocks, rows, width
        (50, 2 * 12 * 50 * 768, 2 * 50 * 768),
    ],
)
def test_counts_on_vit_base(length: int, deep: int, shallow: int) -> None:
    model = create_model(
        {"timm": avcore_timm, "baselines": avcore_baselines, "toys": ToyPlugin()},
        task="toy",
        prompts="vpt.deep+vpt.shallow",
        fusions="none",
        visual="vit_base_patch16_224",
        set=(f"parts.vpt.deep.length={length}", f"parts.vpt.shallow.length={length}"),
        meta=True,
    )
    counts = {"vpt.deep": 0, "vpt.shallow": 0}
    for name, parameter in parameter_groups(model)["parts"]:
        counts[".".join(name.split(".")[:2])] += parameter.numel()
    assert counts == {"vpt.deep": deep, "vpt.shallow": shallow}


@pytest.mark.parametrize("setting", ["length=0", "patch=0", "dropout=1.0"])
def test_settings_out_of_range_are_named(setting: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.vpt\.deep\.{setting.partition('=')[0]}"):
        make("vpt.deep", setting)
