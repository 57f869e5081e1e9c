"""Classes as words, and what learns their context: CoOp, CoCoOp, CLIP-Adapter, MaPLe. Light: imports no torch."""

from collections.abc import Iterable, Mapping
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import TEXTS, HeadSpec, MethodSpec, PromptSpec
from avcore_coop.settings import AdapterSettings, ConditionalSettings, MapleSettings
from avcore_fewshot import IN_A_SHARED_SPACE
from avcore_fewshot.config import ContextSettings, WordsHeadConfig

WITH_SOUND: dict[str, Any] = {
    "visual": {"backbone": "vit_base_patch32_clip_quickgelu_224.openai"},
    "text": {"backbone": "ViT-B-32-quickgelu.openai"},
    # Ten pieces of 1 s, each repeated to 10 s.
    "data": {"window_seconds": 1.0, "window_margin": 1.0},
    "audio": {"backbone": "clap_fused", "repeat_seconds": 10.0},
    "text_audio": {"backbone": "clap_text_fused"},
    "optim": {
        **{"optimizer": "adam", "lr": 3e-4, "head_lr": 3e-4, "clip_norm": 0.5},
        **{"schedule": "multistep", "milestones": [10, 20, 30], "step_factor": 0.5},
    },
    "train": {"epochs": 200, "batch_size": 2, "precision": "fp32"},
}
"""DG-SCT's encoders and course of training: its table compares all four. ``--streams visual`` is pictures alone."""


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """CoOp's context, for sentences, and MaPLe's prompts, for pictures (their words reach the head)."""
    return [
        PromptSpec(
            name="coop",
            build="avcore_fewshot.learnt:Context",
            config=ContextSettings,
            identity_at_start=True,
            paper="arXiv:2109.01134",
            summary="CoOp: a learnt context of every sentence; put it there with parts.coop.streams=text",
        ),
        PromptSpec(
            name="maple",
            build="avcore_coop.prompts:Maple",
            config=MapleSettings,
            paper="arXiv:2210.03117",
            summary="MaPLe: deep prompts of sentences, mapped to those of pictures; read by the head coop.words",
        ),
    ]


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """Cosines with the names of classes: with prompts in them, behind bottlenecks, with a context for each segment."""
    common: dict[str, Any] = {"serves": ("segments", "clip"), "encoders": TEXTS, "defaults": IN_A_SHARED_SPACE}
    return [
        HeadSpec(
            name="coop.words",
            build="avcore_coop.heads:PromptedHead",
            config=WordsHeadConfig,
            paper="arXiv:2210.03117",
            summary="fewshot.words, into whose sentences MaPLe writes its prompts",
            **common,
        ),
        HeadSpec(
            name="coop.adapter",
            build="avcore_coop.heads:AdapterHead",
            config=AdapterSettings,
            paper="arXiv:2110.04544",
            summary="fewshot.words behind CLIP-Adapter's bottlenecks",
            **common,
        ),
        HeadSpec(
            name="coop.conditional",
            build="avcore_coop.heads:ConditionalHead",
            config=ConditionalSettings,
            paper="arXiv:2203.05557",
            summary="fewshot.words with CoCoOp's context, which depends on each segment",
            **common,
        ),
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The four, as DG-SCT's few-shot table compares them."""
    return [
        _method(
            "coop",
            "fewshot.words",
            "arXiv:2109.01134",
            "CoOp: a learnt context of the sentences",
            parts={"coop": {"streams": "text"}},
        ),
        _method(
            "cocoop", "coop.conditional", "arXiv:2203.05557", "CoCoOp: a context that depends on what a segment shows"
        ),
        _method(
            "clip_adapter", "coop.adapter", "arXiv:2110.04544", "CLIP-Adapter: a bottleneck behind each frozen encoder"
        ),
        _method(
            "maple",
            "coop.words",
            "arXiv:2210.03117",
            "MaPLe: deep prompts of sentences, mapped to those of pictures",
            parts={"maple": {"streams": "visual"}},
        ),
    ]


def _method(name: str, head: str, paper: str, summary: str, parts: Mapping[str, Any] | None = None) -> MethodSpec:
    return MethodSpec(
        name=name,
        prompts=tuple(parts or ()),
        recipes=f"avcore_coop.methods.{name}",
        defaults={**WITH_SOUND, "head": {"name": head, "join": "sum"}, "parts": parts or {}},
        paper=paper,
        summary=summary,
    )
