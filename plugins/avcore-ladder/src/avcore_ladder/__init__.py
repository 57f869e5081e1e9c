"""Side networks on frozen blocks: LST (Sung et al., NeurIPS 2022), DTL (Fu et al., AAAI 2024). Light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec, PromptSpec
from avcore_ladder.settings import AloneSettings, SideSettings

LST = "Sung et al., LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning, arXiv:2206.06522"
CHANGED = frozenset({"pooled", "tokens", "maps"})


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """The ladder of one stream."""
    return [
        PromptSpec(
            name="ladder.alone",
            build="avcore_ladder.ladder:Alone",
            config=AloneSettings,
            finishes=CHANGED,
            paper=LST,
            summary="a side network beside one stream, which reads its blocks and no other stream",
            identity_at_start=True,
        )
    ]


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """The ladders of both streams."""
    return [
        FusionSpec(
            name="ladder.side",
            build="avcore_ladder.ladder:Side",
            config=SideSettings,
            finishes=CHANGED,
            paper=LST,
            summary="side networks that read the blocks of both streams, and each other; how they meet is our reading",
            identity_at_start=True,
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """LST, which no paper has for pictures with sound."""
    return [
        MethodSpec(
            name="ladder",
            fusions=("ladder.side",),
            recipes="avcore_ladder",
            paper=LST,
            summary="LST for two streams: side networks read frozen blocks, and no gradient enters a backbone",
        )
    ]
