"""Side networks on frozen blocks: LST (Sung et al., NeurIPS 2022), DTL (Fu et al., AAAI 2024). Light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, MethodSpec, PromptSpec
from avcore_ladder.settings import AloneSettings, LowRankSettings, LowRankSideSettings, SideSettings

LST = "Sung et al., LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning, arXiv:2206.06522"
DTL = "Fu et al., DTL: Disentangled Transfer Learning for Visual Recognition, arXiv:2312.07856"
CHANGED = frozenset({"pooled", "tokens", "maps"})


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """Side networks of one stream."""
    return [
        PromptSpec(
            name="ladder.alone",
            build="avcore_ladder.ladder:Alone",
            config=AloneSettings,
            finishes=CHANGED,
            paper=LST,
            summary="a side network beside one stream, which reads its blocks and no other stream",
            identity_at_start=True,
        ),
        PromptSpec(
            name="dtl.alone",
            build="avcore_ladder.lowrank:LowRankAlone",
            config=LowRankSettings,
            finishes=CHANGED,
            paper=DTL,
            summary="low-rank maps beside one stream, added up and ended at the features, where the paper feeds blocks",
            identity_at_start=True,
        ),
    ]


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """Side networks of both streams."""
    return [
        FusionSpec(
            name="ladder.side",
            build="avcore_ladder.ladder:Side",
            config=SideSettings,
            finishes=CHANGED,
            paper=LST,
            summary="side networks that read the blocks of both streams, and each other; how they meet is our reading",
            identity_at_start=True,
        ),
        FusionSpec(
            name="dtl.side",
            build="avcore_ladder.lowrank:LowRankSide",
            config=LowRankSideSettings,
            finishes=CHANGED,
            paper=DTL,
            summary="low-rank maps beside both streams, ended at the features; how they hear each other is our reading",
            identity_at_start=True,
        ),
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """LST and DTL, which no paper has for pictures with sound."""
    return [
        MethodSpec(
            name="ladder",
            fusions=("ladder.side",),
            recipes="avcore_ladder",
            paper=LST,
            summary="LST for two streams: side networks read frozen blocks, and no gradient enters a backbone",
        ),
        MethodSpec(
            name="dtl",
            fusions=("dtl.side",),
            recipes="avcore_ladder.dtl",
            paper=DTL,
            summary="DTL's low-rank side network for two streams, without its feedback into blocks",
        ),
    ]
