"""Backbones on timm modules. This module is light: it imports no torch and no timm."""

from collections.abc import Iterable, Mapping
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import BackboneSpec
from avcore_timm.presets import SWIN_PRESETS, SWINV2_PRESETS, TEST_SWIN, TEST_SWINV2
from avcore_timm.settings import ASTSettings, EATSettings, HTSATSettings, SwinSettings, ViTSettings

_VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


def _vit(size: str, patch: int = 16, picture: int = 224) -> Mapping[str, Any]:
    width, depth, heads = _VIT_SIZES[size]
    return {"width": width, "depth": depth, "heads": heads, "patch": patch, "size": picture}


VIT_PRESETS = {
    "vit_tiny_patch16_224": _vit("tiny"),
    "vit_small_patch16_224": _vit("small"),
    "vit_base_patch16_224": _vit("base"),
    "vit_large_patch16_224": _vit("large"),
    "vit_base_patch16_224.augreg_in21k": _vit("base"),
    "vit_large_patch16_224.augreg_in21k": _vit("large"),
    "vit_base_patch16_clip_quickgelu_224.openai": _vit("base"),
    "vit_large_patch14_clip_quickgelu_224.openai": _vit("large", patch=14),
    "vit_small_patch14_dinov2.lvd142m": _vit("small", patch=14, picture=518),
    "vit_base_patch14_dinov2.lvd142m": _vit("base", patch=14, picture=518),
    "vit_large_patch14_dinov2.lvd142m": _vit("large", patch=14, picture=518),
    "vit_base_patch16_siglip_224.webli": _vit("base"),
    "deit_tiny_distilled_patch16_224.fb_in1k": _vit("tiny"),
    "deit_small_distilled_patch16_224.fb_in1k": _vit("small"),
    "deit_base_distilled_patch16_224.fb_in1k": _vit("base"),
}

HTSAT_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "htsat": {
        **{"width": 96, "depths": (2, 2, 6, 2), "heads": (4, 8, 16, 32), "window": 8},
        **{"mel_bins": 64, "side": 256, "seconds": 10.0},
    },
    "test_htsat": {
        **{"width": 16, "depths": (1, 1, 2, 1), "heads": (1, 2, 2, 4), "window": 4},
        **{"mel_bins": 32, "side": 64, "seconds": 1.0},
    },
}

AST_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ast": {"width": 768, "depth": 12, "heads": 12, "mel_bins": 128, "frames": 1024},
    "test_ast": {"width": 24, "depth": 2, "heads": 2, "mel_bins": 46, "frames": 106},
}

EAT_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "eat_base": {"width": 768, "depth": 12, "heads": 12, "mel_bins": 128, "frames": 1024},
    "eat_large": {"width": 1024, "depth": 24, "heads": 16, "mel_bins": 128, "frames": 1024},
    "sslam": {"width": 768, "depth": 12, "heads": 12, "mel_bins": 128, "frames": 1024},
    "test_eat": {"width": 24, "depth": 2, "heads": 2, "mel_bins": 32, "frames": 96},
}


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    """Backbones by their timm name."""
    return [
        BackboneSpec(
            name="vit",
            build="avcore_timm.vit:build",
            config=ViTSettings,
            paper="arXiv:2010.11929, arXiv:2103.00020",
            summary="Vision Transformers of timm: plain ViT, CLIP's and SigLIP's visual towers, DINOv2, DeiT",
            presets=VIT_PRESETS,
            patterns=("vit_*", "deit*", "test_vit*"),
        ),
        BackboneSpec(
            name="swin",
            build="avcore_timm.swin:build",
            config=SwinSettings,
            paper="arXiv:2103.14030",
            summary="Swin Transformers of timm, version 1",
            presets={**SWIN_PRESETS, "test_swin": TEST_SWIN},
            patterns=("swin_*",),
        ),
        BackboneSpec(
            name="swinv2",
            build="avcore_timm.swin:build_v2",
            config=SwinSettings,
            paper="arXiv:2111.09883",
            summary="Swin Transformers of timm, version 2",
            presets={**SWINV2_PRESETS, "test_swinv2": TEST_SWINV2},
            patterns=("swinv2_*",),
        ),
        BackboneSpec(
            name="htsat",
            build="avcore_timm.htsat:build",
            config=HTSATSettings,
            paper="arXiv:2202.00874",
            summary="HTS-AT for sound: timm's Swin Transformer behind a mel front end",
            presets=HTSAT_PRESETS,
            streams=("audio",),
            converter="avcore_timm.htsat:htsat_keys",
        ),
        BackboneSpec(
            name="ast",
            build="avcore_timm.ast:build",
            config=ASTSettings,
            paper="arXiv:2104.01778",
            summary="Audio Spectrogram Transformer for sound, on timm's Vision Transformer",
            presets=AST_PRESETS,
            streams=("audio",),
            converter="avcore_timm.ast:ast_keys",
        ),
        BackboneSpec(
            name="eat",
            build="avcore_timm.eat:build",
            config=EATSettings,
            paper="arXiv:2401.03497, arXiv:2506.12222",
            summary="EAT and SSLAM for sound: Vision Transformers with norms behind the sums",
            presets=EAT_PRESETS,
            streams=("audio",),
            converter="avcore_timm.eat:eat_keys",
        ),
    ]
