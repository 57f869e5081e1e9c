"""AVMoE: mixtures of cross-modal and unimodal experts (Cheng et al., NeurIPS 2024). This module is light: no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import FusionSpec, HeadSpec, MethodSpec, Need
from avcore_avmoe.settings import AVMoESettings
from avcore_dgsct.settings import AVEHeadSettings

PAPER = "Cheng et al., Mixtures of Experts for Audio-Visual Learning, NeurIPS 2024"


def both_streams(settings: AVMoESettings) -> frozenset[Need]:
    """Both streams, of any widths and numbers of tokens."""
    return frozenset({Need.BOTH_STREAMS})


@hookimpl
def avcore_fusions() -> Iterable[FusionSpec]:
    """The mixtures of both streams."""
    return [
        FusionSpec(
            name="avmoe",
            build="avcore_avmoe.fusion:AVMoE",
            config=AVMoESettings,
            requires=both_streams,
            finishes=frozenset({"pooled"}),
            paper=PAPER,
            summary="experts beside attention and MLP, cross-modal and unimodal, weighed for each segment by a router",
        )
    ]


@hookimpl
def avcore_heads() -> Iterable[HeadSpec]:
    """Event localisation."""
    return [
        HeadSpec(
            name="avmoe.ave",
            serves=("segments", "weak-segments"),
            build="avcore_avmoe.ave:AVEHead",
            config=AVEHeadSettings,
            paper=PAPER,
            summary="DG-SCT's temporal interaction and localisation, without a loss of its own for the gates",
        )
    ]


@hookimpl
def avcore_methods() -> Iterable[MethodSpec]:
    """The published method."""
    return [
        MethodSpec(
            name="avmoe",
            fusions=("avmoe",),
            recipes="avcore_avmoe",
            # As in DG-SCT, from whose code it was made.
            defaults={"plan": {"atomic_audio": True}},
            paper=PAPER,
            summary="mixtures of cross-modal and unimodal bottlenecks between a picture and a sound encoder",
        )
    ]
