"""Backbones on timm modules. This module is light: it imports no torch and no timm."""

from collections.abc import Iterable, Mapping
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import BackboneSpec
from avcore_timm.settings import ViTSettings

_VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


def _vit(size: str, patch: int = 16) -> Mapping[str, Any]:
    width, depth, heads = _VIT_SIZES[size]
    return {"width": width, "depth": depth, "heads": heads, "patch": patch, "size": 224}


VIT_PRESETS = {
    "vit_tiny_patch16_224": _vit("tiny"),
    "vit_small_patch16_224": _vit("small"),
    "vit_base_patch16_224": _vit("base"),
    "vit_large_patch16_224": _vit("large"),
    "vit_base_patch16_224.augreg_in21k": _vit("base"),
    "vit_large_patch16_224.augreg_in21k": _vit("large"),
    "vit_base_patch16_clip_quickgelu_224.openai": _vit("base"),
    "vit_large_patch14_clip_quickgelu_224.openai": _vit("large", patch=14),
}


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    """Vision Transformers by their timm name."""
    return [
        BackboneSpec(
            name="vit",
            build="avcore_timm.vit:build",
            config=ViTSettings,
            paper="arXiv:2010.11929, arXiv:2103.00020",
            summary="Vision Transformers of timm: plain ViT, CLIP's visual tower, DeiT",
            presets=VIT_PRESETS,
            patterns=("vit_*", "deit_*", "test_vit*"),
        )
    ]
