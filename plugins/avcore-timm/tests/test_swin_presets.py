"""Swin Transformers by name: presets, sound, files of weights, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avcore import compat
from avcore.errors import AVCoreError
from avcore.shapes import WithoutValues
from avcore_timm.presets import SWIN_PRESETS, SWINV2_PRESETS
from avcore_timm.settings import SwinSettings
from avcore_timm.swin import Swin, build, build_v2
from avcore_timm.weights import swin_keys

compat.install()
import timm  # noqa: E402 - only after the import hook
from timm.models import swin_transformer, swin_transformer_v2  # noqa: E402

Make = Callable[..., Swin]


# ------------------------------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize(("presets", "builder"), [(SWIN_PRESETS, build), (SWINV2_PRESETS, build_v2)])
def test_presets_say_what_timm_builds(presets: dict[str, Any], builder: Callable[..., Swin]) -> None:
    for name, preset in presets.items():
        architecture, _, tag = name.partition(".")
        if tag:
            assert preset == presets[architecture], name
            continue
        with WithoutValues():
            swin = builder(SwinSettings(), name=name, preset=preset)
        stages = swin.layout(1).stages
        assert swin.model.embed_dim == preset["width"] == stages[0].width, name
        assert tuple(stage.depth for stage in stages) == preset["depths"], name
        assert tuple(stage.heads for stage in stages) == preset["heads"], name
        assert stages[0].window == (preset["window"],) * 2, name
        assert swin.model.patch_embed.patch_size == (preset["patch"],) * 2, name
        assert swin.model.patch_embed.img_size == (preset["size"],) * 2, name


def test_the_papers_swinv2() -> None:
    name = "swinv2_large_window12_192.ms_in22k"
    with WithoutValues():
        swin = build_v2(SwinSettings(), name=name, preset=SWINV2_PRESETS[name])
        layout = swin.tower("visual", SwinSettings(), segments=10).layout
        sound = swin.tower("audio", SwinSettings(), segments=10).geometry
    frozen = sum(parameter.numel() for parameter in swin.parameters())
    assert frozen == 195_202_932
    classes = 21_841
    assert round((frozen + classes * (layout.width + 1)) / 1e6, 3) == 228.773
    assert [stage.tokens for stage in layout.stages] == [2304, 576, 144, 36]
    assert [stage.window for stage in layout.stages] == [(12, 12), (12, 12), None, None]
    assert layout.taps == (1, 3, 21, 23)
    assert layout.pool == "mean"
    assert (sound.frames, sound.mel_bins, sound.shift_ms) == (192, 192, 5.2)
    assert (sound.mean, sound.std) == (-4.98480, 3.70798)


# -------------------------------------------------------------------------------------------------------------- sound


def test_sound_goes_through_the_same_patch_kernel(family: str, small_swin: Make) -> None:
    swin = small_swin(family)
    image = torch.randn(2, 64, 64)
    repeated = swin.tower("audio", SwinSettings(), segments=1).embed(image)
    same = swin.tower("visual", SwinSettings(), segments=1).embed(image[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(repeated, same)
    # The mean of the kernel gives a third of what three equal channels give.
    averaged = swin.tower("audio", SwinSettings(patch="one_channel"), segments=1).embed(image)
    third = swin.tower("visual", SwinSettings(), segments=1).embed(image[:, None].expand(-1, 3, -1, -1) / 3)
    torch.testing.assert_close(averaged, third, rtol=0, atol=1e-5)


def test_the_picture_of_sound_is_as_large_as_the_model_s(family: str, small_swin: Make) -> None:
    swin = small_swin(family)
    geometry = swin.tower("audio", SwinSettings(fbank_mean=-5.0, shift_ms=10.0, pad_first=True), segments=1).geometry
    assert geometry.pad_first
    assert (geometry.frames, geometry.mel_bins, geometry.shift_ms, geometry.mean) == (64, 64, 10.0, -5.0)
    default = swin.tower("audio", SwinSettings(), segments=1).geometry
    assert (default.shift_ms, default.pad_first) == (15.6, False)
    with pytest.raises(AVCoreError, match="102 x 64 does not fit 'small', which takes 64 x 64"):
        swin.tower("audio", SwinSettings(frames=102), segments=1)


# -------------------------------------------------------------------------------------------------- weights, refusals


def as_timm_0_6(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merging at the end of the stage before, buffers stored, the classifier without ``fc``."""
    old = {}
    for key, value in state.items():
        parts = key.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        old[".".join(parts)] = value
    old["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 16, 16)
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    return old | {"head.weight": torch.ones(2, 128), "head.bias": torch.ones(2)}


def test_names_of_timm_0_6_become_those_of_timm_1(family: str, small_swin: Make) -> None:
    model = small_swin(family).model
    new = model.state_dict()
    old = as_timm_0_6(new)
    found = swin_keys({**old, "other": torch.ones(1)})
    assert found.keys() == {*new, "head.fc.weight", "head.fc.bias", "other"}
    assert all(torch.equal(found[key], value) for key, value in new.items())
    assert swin_keys(found).keys() == found.keys()
    timm_module = swin_transformer if family == "swin" else swin_transformer_v2
    assert timm_module.checkpoint_filter_fn(old, model).keys() == found.keys() - {"other"}


@pytest.mark.parametrize("era", ["timm 0.6", "timm 1"])
def test_files_load_strictly_without_their_classifier(family: str, small_swin: Make, era: str, tmp_path: Path) -> None:
    state = {key: value + 1.0 for key, value in small_swin(family).tower("visual", SwinSettings(), 1).weights().items()}
    classifier = {"head.fc.weight": torch.ones(2, 128), "head.fc.bias": torch.ones(2)}
    path = tmp_path / "weights.safetensors"
    save_file(as_timm_0_6(state) if era == "timm 0.6" else state | classifier, path)
    made = small_swin(family, SwinSettings(weights=str(path)), move=False)
    assert made.notices == ()
    assert all(
        torch.equal(value, state[key]) for key, value in made.tower("visual", SwinSettings(), 1).weights().items()
    )
    assert all(torch.equal(block.tables.bias, block.make_tables().bias) for block in made.blocks)


def test_weights_that_do_not_fit_are_named(family: str, small_swin: Make, tmp_path: Path) -> None:
    state = dict(small_swin(family).tower("visual", SwinSettings(), 1).weights())
    state["layers.1.downsample.reduction.wieght"] = state.pop("layers.1.downsample.reduction.weight")
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    with pytest.raises(AVCoreError, match=r"missing layers\.1\.downsample\.reduction\.weight; unexpected layers\.1\."):
        small_swin(family, SwinSettings(weights=str(path)))


def test_random_weights_are_announced(family: str, small_swin: Make) -> None:
    assert small_swin(family).notices == ("'small' runs on random weights.",)


def test_random_blocks_do_something(family: str, small_swin: Make) -> None:
    swin = small_swin(family, move=False)
    tower = swin.tower("visual", SwinSettings(), segments=1)
    x = torch.randn(1, 256, 16)
    assert tower.block(0).attention(x)[0].abs().max() > 0
    assert tower.block(0).mlp(x).abs().max() > 0


def test_missing_pretrained_weights_say_which_setting_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(AVCoreError, match=r"--set visual\.weights=PATH"):
        build_v2(SwinSettings(), name="swinv2_tiny_window8_256", preset=None)


def test_unknown_models_are_refused_by_name() -> None:
    random = SwinSettings(weights="random")
    with pytest.raises(AVCoreError, match="Did you mean 'swinv2_tiny_window8_256'"):
        build_v2(random, name="swinv2_tiny_window8_265", preset=None)
    with WithoutValues(), pytest.raises(AVCoreError, match=r"a timm SwinTransformerV2Cr, which .* does not know"):
        build_v2(random, name="swinv2_cr_tiny_224", preset=None)
    with WithoutValues(), pytest.raises(AVCoreError, match=r"a timm SwinTransformerV2, which .* does not know"):
        build(random, name="swinv2_tiny_window8_256", preset=None)
    with WithoutValues(), pytest.raises(AVCoreError, match="pools by 'max'"):
        build(random, name="swin_tiny_patch4_window7_224", preset={"arguments": {"global_pool": "max"}})


def test_a_size_that_windows_do_not_divide_is_refused() -> None:
    with (
        WithoutValues(),
        pytest.raises(AVCoreError, match="16 x 16 tokens does not divide into windows of 12 x 12"),
    ):
        build_v2(SwinSettings(size=64), name="swinv2_large_window12_192", preset=None)
