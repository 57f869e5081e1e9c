"""Rows that every reader asks for: full fine-tuning, norms, biases, LoRA, visual prompt tuning. Light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import MethodSpec, PromptSpec
from avcore_baselines.settings import DeepSettings, LoRASettings, ShallowSettings

LORA = "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685"
VPT = "Jia et al., Visual Prompt Tuning, arXiv:2203.12119"
BIAS = "Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Models, arXiv:2106.10199"
FULL = "Kornblith et al., Do Better ImageNet Models Transfer Better?, arXiv:1805.08974"
NORMS = "Basu et al., Strong Baselines for Parameter Efficient Few-Shot Fine-tuning, arXiv:2304.01917"


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """What each of them puts into one stream."""
    rows, trained = "avcore_baselines.rows", "avcore_baselines.trained"
    return [
        PromptSpec(
            name="full",
            build=f"{trained}:Full",
            paper=FULL,
            summary="all of the backbone trains",
            identity_at_start=True,
        ),
        PromptSpec(
            name="bias",
            build=f"{trained}:Bias",
            paper=BIAS,
            summary="every bias of the backbone trains: of linear maps, convolutions and norms",
            identity_at_start=True,
        ),
        PromptSpec(
            name="lora",
            build="avcore_baselines.lowrank:LoRALayer",
            config=LoRASettings,
            paper=LORA,
            summary="low-rank increments of frozen maps of attention and MLP, in every block",
            identity_at_start=True,
        ),
        PromptSpec(
            name="norms",
            build=f"{trained}:Norms",
            paper=NORMS,
            summary="every layer norm of the backbone trains",
            identity_at_start=True,
        ),
        PromptSpec(
            name="vpt.shallow",
            build=f"{rows}:Shallow",
            config=ShallowSettings,
            paper=VPT,
            summary="one set of rows that flows through all blocks beside the tokens",
        ),
        PromptSpec(
            name="vpt.deep",
            build=f"{rows}:DeepLayer",
            config=DeepSettings,
            paper=VPT,
            summary="fresh rows in every block, read by its attention and dropped",
        ),
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """One part each, in both streams; they share their recipes."""
    given = {"full": FULL, "bias": BIAS, "lora": LORA, "norms": NORMS}
    summaries = {
        "full": "full fine-tuning of both streams",
        "bias": "bias-only tuning of both streams (BitFit)",
        "lora": "LoRA in both streams: low-rank increments of frozen maps",
        "norms": "norm-only tuning of both streams",
    }
    methods = [
        MethodSpec(name=name, prompts=(name,), recipes="avcore_baselines", paper=paper, summary=summaries[name])
        for name, paper in given.items()
    ]
    deep = MethodSpec(
        name="vpt",
        prompts=("vpt.deep",),
        recipes="avcore_baselines",
        paper=VPT,
        summary="visual prompt tuning of both streams, deep",
    )
    return [*methods, deep]
