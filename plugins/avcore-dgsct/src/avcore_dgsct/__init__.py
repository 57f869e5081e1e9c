"""DG-SCT: cross-modal prompts by dual-guided attention (Duan et al., NeurIPS 2023). This module is light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import TEXTS, FusionSpec, HeadSpec, MethodSpec, PromptSpec
from avcore_dgsct.settings import (
    AVEHeadSettings,
    AVSHeadSettings,
    AVVPHeadSettings,
    DGSCTSettings,
    FewShotHeadSettings,
    dgsct_needs,
)
from avcore_fewshot import IN_A_SHARED_SPACE
from avcore_fewshot.config import ContextSettings

PAPER = "arXiv:2311.05152"


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """The bottlenecks of both streams."""
    return [
        FusionSpec(
            name="dgsct",
            build="avcore_dgsct.fusion:DGSCT",
            config=DGSCTSettings,
            requires=dgsct_needs,
            finishes=frozenset({"pooled"}),
            paper=PAPER,
            summary="bottlenecks beside attention and MLP; the other stream picks channels, tokens and segments",
        )
    ]


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """The learnt context of sentences."""
    return [
        PromptSpec(
            name="dgsct.context",
            build="avcore_fewshot.learnt:Context",
            config=ContextSettings,
            paper="arXiv:2109.01134",
            summary="learnt vectors on the first words of every sentence, at first those words themselves (CoOp)",
            identity_at_start=True,
        )
    ]


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """Event localisation, segmentation and video parsing with temporal gates."""
    return [
        HeadSpec(
            name="dgsct.ave",
            serves=("segments", "weak-segments"),
            build="avcore_dgsct.ave:AVEHead",
            config=AVEHeadSettings,
            paper=PAPER,
            summary="LSTMs and transformers over the segments with mutual gates, then CMBS's localisation",
        ),
        HeadSpec(
            name="dgsct.avs",
            serves=("masks",),
            build="avcore_dgsct.avs:AVSHead",
            config=AVSHeadSettings,
            paper=PAPER,
            summary="gates of the segments at four scales, then AVSBench's decoder",
        ),
        HeadSpec(
            name="dgsct.avvp",
            serves=("parsing",),
            build="avcore_dgsct.avvp:AVVPHead",
            config=AVVPHeadSettings,
            paper=PAPER,
            summary="a gate of the segments from sound on pictures, then MGN",
        ),
        HeadSpec(
            name="dgsct.fewshot",
            serves=("segments", "clip"),
            encoders=TEXTS,
            defaults=IN_A_SHARED_SPACE,
            build="avcore_dgsct.fewshot:FewShotHead",
            config=FewShotHeadSettings,
            paper=PAPER,
            summary="cosines with sentences behind adapters, both streams joined, and contrastive terms",
        ),
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method."""
    return [
        MethodSpec(
            name="dgsct",
            fusions=("dgsct",),
            recipes="avcore_dgsct",
            converter="avcore_dgsct.convert:convert",
            # The published code runs an audio block whole, then adds both of its bottlenecks.
            defaults={"plan": {"atomic_audio": True}},
            paper=PAPER,
            summary="dual-guided spatial, channel and temporal bottlenecks between a picture and a sound encoder",
        )
    ]
