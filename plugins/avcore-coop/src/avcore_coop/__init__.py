"""Classes as words, and what learns their context: CoOp, CoCoOp, CLIP-Adapter, MaPLe. Light: imports no torch."""

from collections.abc import Iterable
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import TEXTS, HeadSpec, PromptSpec
from avcore_coop.settings import AdapterSettings, ConditionalSettings, MapleSettings
from avcore_fewshot import IN_A_SHARED_SPACE
from avcore_fewshot.config import ContextSettings, WordsHeadConfig


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
