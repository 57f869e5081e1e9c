"""STG-CMA: spatial-temporal-global cross-modal adaptation (Wang et al., CVPR Workshops 2024). Light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec, PromptSpec
from avcore_stgcma.settings import BottleneckSettings, TemporalSettings

PAPER = (
    "Wang et al., Towards Efficient Audio-Visual Learners via Empowering Pre-trained Vision Transformers with "
    "Cross-Modal Adaptation, CVPR Workshops 2024"
)


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """What acts on one stream."""
    return [
        PromptSpec(
            name="stgcma.base",
            build="avcore_stgcma.prompts:Base",
            paper=PAPER,
            summary="the trainable final norm",
            identity_at_start=True,
        ),
        PromptSpec(
            name="stgcma.temporal",
            build="avcore_stgcma.prompts:Temporal",
            config=TemporalSettings,
            paper=PAPER,
            summary="bottlenecks behind the frozen attention over time",
            identity_at_start=True,
        ),
        PromptSpec(
            name="stgcma.bottlenecks",
            build="avcore_stgcma.prompts:BottlenecksLayer",
            config=BottleneckSettings,
            paper=PAPER,
            summary="the bottlenecks of stgcma.exchange without the exchange: for one stream, or as an ablation",
            identity_at_start=True,
        ),
    ]


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """Spatial and global cross-modal adaptation."""
    return [
        FusionSpec(
            name="stgcma.exchange",
            build="avcore_stgcma.fusion:ExchangeLayer",
            config=BottleneckSettings,
            as_own=("width", "windows"),
            paper=PAPER,
            summary="bottlenecks in series with frozen attention and MLP, which attend to each other's hidden vectors",
            identity_at_start=True,
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method, on CLIP."""
    return [
        MethodSpec(
            name="stgcma",
            prompts=("segment_embedding", "stgcma.base", "stgcma.temporal"),
            fusions=("stgcma.exchange",),
            recipes="avcore_stgcma",
            converter="avcore_stgcma.convert:convert",
            defaults={
                "visual": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
                "audio": {"patch": "one_channel", "position": "crop"},
                "optim": {
                    "optimizer": "adam",
                    "betas": [0.95, 0.999],
                    "weight_decay": 5.0e-7,
                    "schedule": "cosine",
                },
            },
            paper=PAPER,
            summary="serial bottlenecks over time and space, with an exchange within",
        )
    ]
