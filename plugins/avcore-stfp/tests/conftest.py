"""A narrow CLIP and models of AV-STFP on it, in float64."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

import avcore_ave
import avcore_stfp
import avcore_timm
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.hookspecs import hookimpl
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore_timm.settings import ViTSettings

T = 3
NARROW = {
    "model": "vit_base_patch16_clip_quickgelu_224",
    "arguments": {"img_size": 64, "embed_dim": 48, "depth": 4, "num_heads": 4},
}


@hookimpl
def avcore_backbones() -> list[BackboneSpec]:
    """``narrow``, and ``plain``, which pools the mean and has no class token."""
    plain = {
        "model": "vit_tiny_patch16_224",
        "arguments": {**NARROW["arguments"], "class_token": False, "global_pool": "avg", "fc_norm": False},  # type: ignore[dict-item]
    }
    wide = {**NARROW, "arguments": {**NARROW["arguments"], "embed_dim": 64}}  # type: ignore[dict-item]
    presets = {"narrow": NARROW, "plain": plain, "wide": wide}
    return [BackboneSpec(name="small", build="avcore_timm.vit:build", config=ViTSettings, presets=presets)]


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
        model = assemble(resolved.config, registry).eval().double()
        if not initial:
            draws = torch.Generator().manual_seed(1)
            for _, parameter in model.parameter_groups()["parts"]:
                parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
        return model

    return make
