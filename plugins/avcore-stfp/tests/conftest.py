"""A narrow CLIP, small Swin Transformers, and models of AV-STFP on them, in float64."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from small import assemble_small

import avcore_ave
import avcore_stfp
import avcore_timm
from avcore.config import resolve_config
from avcore.hookspecs import hookimpl
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore.states import parameter_groups
from avcore_timm.settings import SwinSettings, ViTSettings

T = 3
NARROW = {
    "model": "vit_base_patch16_clip_quickgelu_224",
    "arguments": {"img_size": 64, "embed_dim": 48, "depth": 4, "num_heads": 4},
}
# Two blocks on a grid of 8 x 8 in windows of 4 x 4, the second shifted; then one on 4 x 4 that sees all of it.
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4)}


@hookimpl
def avcore_backbones() -> list[BackboneSpec]:
    """``narrow``; ``plain``, which pools the mean and has no class token; Swin Transformers of both versions."""
    plain = {
        "model": "vit_tiny_patch16_224",
        "arguments": {**NARROW["arguments"], "class_token": False, "global_pool": "avg", "fc_norm": False},  # type: ignore[dict-item]
    }
    wide = {**NARROW, "arguments": {**NARROW["arguments"], "embed_dim": 64}}  # type: ignore[dict-item]
    presets = {"narrow": NARROW, "plain": plain, "wide": wide}
    swin = {"model": "swin_tiny_patch4_window7_224", "arguments": SWIN}
    swinv2 = {"model": "swinv2_tiny_window8_256", "arguments": SWIN}
    windowed = {"model": "swinv2_tiny_window8_256", "arguments": {**SWIN, "window_size": 2}}
    return [
        BackboneSpec(name="small", build="avcore_timm.vit:build", config=ViTSettings, presets=presets),
        BackboneSpec(
            name="small_swin", build="avcore_timm.swin:build", config=SwinSettings, presets={"narrow_swin": swin}
        ),
        BackboneSpec(
            name="small_swinv2",
            build="avcore_timm.swin:build_v2",
            config=SwinSettings,
            presets={"narrow_swinv2": swinv2, "narrow_windowed": windowed},
        ),
    ]


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The plugins at hand, and the narrow backbones."""
    return Registry.from_modules(
        {
            "avcore-timm": avcore_timm,
            "avcore-ave": avcore_ave,
            "avcore-stfp": avcore_stfp,
            "small": SimpleNamespace(avcore_backbones=avcore_backbones),
        }
    )


@pytest.fixture(scope="session")
def narrow(registry: Registry) -> Callable[..., AVModel]:
    """Make a model on ``narrow`` in float64, evaluation mode, every trained tensor random: gates too."""

    def make(*sets: str, initial: bool = False, **options: str) -> AVModel:
        small = (f"data.segments={T}", f"data.clip_seconds={T}", "audio.frames=48", "audio.mel_bins=32")
        resolved = resolve_config(
            registry,
            task="ave",
            need_data=False,
            sets=("visual.weights=random", *small, *sets),
            **{"method": "stfp", "visual": "narrow", **options},
        )
        model = assemble_small(resolved.config, registry).eval().double()
        if not initial:
            draws = torch.Generator().manual_seed(1)
            for _, parameter in parameter_groups(model)["parts"]:
                parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
        return model

    return make
