"""A narrow CLIP for whole models."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from small import assemble_small

import avcore_ave
import avcore_stgcma
from avcore.config import resolve_config
from avcore.hookspecs import hookimpl
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore_timm.settings import ViTSettings

NARROW = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 4}


class NarrowCLIP:
    """A plugin that offers CLIP's visual tower with arguments of its own."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.preset = {"model": "vit_base_patch16_clip_quickgelu_224", "arguments": arguments}

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        """``clip``."""
        return [
            BackboneSpec(name="vit", build="avcore_timm.vit:build", config=ViTSettings, presets={"clip": self.preset})
        ]


@pytest.fixture
def registry_with() -> Callable[..., Registry]:
    """``registry_with(arguments)``: STG-CMA, AVE, and a CLIP of those arguments."""

    def registry(clip: Mapping[str, Any] = NARROW) -> Registry:
        return Registry.from_modules(
            {"clip": NarrowCLIP(clip), "avcore-stgcma": avcore_stgcma, "avcore-ave": avcore_ave}
        )

    return registry


@pytest.fixture
def make(registry_with: Callable[..., Registry]) -> Callable[..., AVModel]:
    """``make(*sets, clip=arguments, **options)``: STG-CMA on AVE with two segments, on random weights."""

    def model(*sets: str, clip: Mapping[str, Any] = NARROW, **options: Any) -> AVModel:
        registry = registry_with(clip)
        always = ("visual.weights=random", "data.segments=2", "data.clip_seconds=2")
        resolved = resolve_config(
            registry,
            method="stgcma",
            task="ave",
            visual="clip",
            sets=(*always, *sets),
            need_data=False,
            **options,
        )
        return assemble_small(resolved.config, registry).eval()

    return model
