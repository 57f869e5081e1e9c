"""AV-STFP: spatial, temporal and fusion prompts (Wang et al., BMVC 2025). This module is light: it imports no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec, PromptSpec
from avcore_stfp.settings import (
    BaseSettings,
    JointSettings,
    SpatialSettings,
    TemporalSettings,
    base_needs,
    class_token_needs,
)

PAPER = (
    "Wang et al., Prompt Image to Watch and Hear: Multimodal Prompting for Parameter-Efficient Audio-Visual Learning, "
    "BMVC 2025"
)


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """What acts on one stream."""
    return [
        PromptSpec(
            name="stfp.base",
            build="avcore_stfp.prompts:Base",
            config=BaseSettings,
            requires=base_needs,
            paper=PAPER,
            summary="a class token of its own for sound, and the trainable final norm",
            identity_at_start=True,
        ),
        PromptSpec(
            name="stfp.temporal",
            build="avcore_stfp.prompts:Temporal",
            config=TemporalSettings,
            paper=PAPER,
            summary="key and value prompts of a pass over time through the frozen attention",
            identity_at_start=True,
        ),
        PromptSpec(
            name="stfp.spatial",
            build="avcore_stfp.prompts:SpatialLayer",
            config=SpatialSettings,
            paper=PAPER,
            summary="prompt rows beside the tokens of each frame",
        ),
    ]


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """What reads both streams."""
    return [
        FusionSpec(
            name="stfp.joint",
            build="avcore_stfp.fusion:Joint",
            config=JointSettings,
            as_own=("width",),  # tokens of one stream are rows of the other's attention
            paper=PAPER,
            summary="a pass of both streams and prompts between them through the frozen attention",
            identity_at_start=True,
        ),
        FusionSpec(
            name="stfp.class_token",
            build="avcore_stfp.fusion:ClassToken",
            requires=class_token_needs,
            paper=PAPER,
            summary="one trained class token for both streams, in place of stfp.base's for sound",
            identity_at_start=True,
        ),
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method, on CLIP, with the conventions of STG-CMA."""
    return [
        MethodSpec(
            name="stfp",
            prompts=("segment_embedding", "stfp.base", "stfp.temporal", "stfp.spatial"),
            fusions=("stfp.joint",),
            recipes="avcore_stfp",
            defaults={
                "audio": {"patch": "one_channel", "position": "crop"},
                "optim": {
                    "optimizer": "adam",
                    "betas": [0.95, 0.999],
                    "weight_decay": 5.0e-7,
                    "schedule": "cosine",
                },
            },
            paper=PAPER,
            summary="AV-STFP: temporal, spatial and fusion prompts on the frozen attention",
        )
    ]
