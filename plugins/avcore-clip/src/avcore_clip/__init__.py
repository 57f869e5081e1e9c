"""CLIP's text towers, on open_clip modules. This module is light: it imports no torch and no open_clip."""

from collections.abc import Iterable, Mapping
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import TEXT, BackboneSpec
from avcore_clip.settings import TextSettings

_SIZES = {
    "RN50": (512, 12, 8, 1024),
    "ViT-B-32": (512, 12, 8, 512),
    "ViT-B-16": (512, 12, 8, 512),
    "ViT-L-14": (768, 12, 12, 768),
    "ViT-L-14-336": (768, 12, 12, 768),
    "ViT-H-14": (1024, 24, 16, 1024),
}


def _text(name: str) -> Mapping[str, Any]:
    width, depth, heads, shared = _SIZES[name]
    return {"width": width, "depth": depth, "heads": heads, "shared": shared, "length": 77}


# Small enough to be tested in a second; the vocabulary is CLIP's, since the tokenizer is.
TEST_CLIP_TEXT: Mapping[str, Any] = {
    "config": {
        "embed_dim": 12,
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
    }
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    **{
        f"{name}-quickgelu.openai": _text(name) for name in ("RN50", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336")
    },
    "ViT-B-32.laion2b_s34b_b79k": _text("ViT-B-32"),
    "ViT-B-16.laion2b_s34b_b88k": _text("ViT-B-16"),
    "ViT-L-14.laion2b_s32b_b82k": _text("ViT-L-14"),
    "ViT-H-14.laion2b_s32b_b79k": _text("ViT-H-14"),
    "ViT-B-32.datacomp_xl_s13b_b90k": _text("ViT-B-32"),
    "ViT-B-16.datacomp_xl_s13b_b90k": _text("ViT-B-16"),
    "ViT-L-14.datacomp_xl_s13b_b90k": _text("ViT-L-14"),
    "test_clip_text": TEST_CLIP_TEXT,
}


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    """Text towers by their open_clip name, with or without the tag of their weights after a dot."""
    return [
        BackboneSpec(
            name="clip_text",
            build="avcore_clip.text:build",
            config=TextSettings,
            paper="arXiv:2103.00020",
            summary="CLIP's text towers by their open_clip name",
            presets=PRESETS,
            patterns=("ViT-*", "ViTamin-*", "RN50*", "RN101*", "EVA0*", "MobileCLIP*", "PE-Core-*", "convnext_*"),
            streams=(TEXT,),
        )
    ]
