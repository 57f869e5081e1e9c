"""Parameters at the published sizes: what is allocated, and with what the reference never uses, what it counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from avcore.injection import PairLayout
from avcore.model import AVModel
from avcore.specs import StageLayout, StreamLayout
from avcore.states import parameter_groups, unused_in_reference
from avcore_ave.temporal import count
from avcore_avs.config import AVSTaskConfig
from avcore_avs.task import AVSTask
from avcore_avvp.config import AVVPTaskConfig
from avcore_avvp.task import AVVPTask
from avcore_dgsct.avs import AVSHead
from avcore_dgsct.avvp import AVVPHead
from avcore_dgsct.fusion import ParallelLayer
from avcore_dgsct.settings import AVSHeadSettings, AVVPHeadSettings, DGSCTSettings

Make = Callable[..., AVModel]


def stream(widths: tuple[int, ...], sides: tuple[int, ...]) -> StreamLayout:
    """One stage for each of the 12 pairs: stages of 2, 2, 6 and 2 blocks."""
    depths = (2, 2, 6, 2)
    stages = tuple(
        StageLayout(width=width, heads=1, depth=depth, grid=(side, side))
        for width, side, depth in zip(widths, sides, depths, strict=True)
    )
    return StreamLayout(stages=stages, segments=10, taps=(1, 3, 9, 11))


SWIN_LARGE = stream((192, 384, 768, 1536), (48, 24, 12, 6))
HTSAT = stream((96, 192, 384, 768), (64, 32, 16, 8))
PAIRS = [
    PairLayout(visual=visual, audio=audio, index=index, pairs=12)
    for index, (visual, audio) in enumerate(zip(SWIN_LARGE.blocks, HTSAT.blocks, strict=True))
]

TOKEN_MAPS = 81_156_432


def bottlenecks(**settings: Any) -> tuple[int, int]:
    """Parameters of the 12 layers, and those that the reference has and never uses."""
    with torch.device("meta"):
        layers = [ParallelLayer(DGSCTSettings(**settings), pair) for pair in PAIRS]
    return sum(count(layer) for layer in layers), sum(layer.unused_in_reference for layer in layers)


def test_bottlenecks_of_event_localisation() -> None:
    """A number `gate_tk` in each of 48 bottlenecks is never used; the maps over the token axis are 43 % of all."""
    assert bottlenecks() == (188_538_816, 48)
    with torch.device("meta"):
        layers = [ParallelLayer(DGSCTSettings(), pair) for pair in PAIRS]
    maps = [both.align.tokens for layer in layers for pair in (layer.p1, layer.p2) for both in pair.children()]
    assert sum(map(count, maps)) == TOKEN_MAPS


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        ({"reduction": 16}, 187.131),
        ({"reduction": 2, "audio_gate": False}, 196.566),
        ({"reduction": 8, "groups": 4, "tokens": 2, "audio_gate": False}, 186.336),
    ],
    ids=["ave", "avs", "avqa"],
)
def test_bottlenecks_as_copl_counts_them(settings: dict[str, Any], millions: float) -> None:
    """187.1, 196.6 and 186.3 M: the code of event localisation without batch norm, with each task's flags."""
    used, _ = bottlenecks(batch_norm=False, **settings)
    assert round(used / 1e6, 3) == millions


def test_the_code_of_segmentation_leaves_much_unused() -> None:
    """The maps over the token axis, LN_pre and the map of a temporal gate; it has no `gate_tk`."""
    used, unused = bottlenecks(batch_norm=False, audio_gate=False, order="avs", align="resize", latents="zeros")
    widths = [block.width for pair in PAIRS for block in (pair.visual, pair.audio) for _ in range(2)]
    assert unused == TOKEN_MAPS + sum(2 * width for width in widths) + sum(width + 1 for width in widths)
    reference, gate_tk = bottlenecks(batch_norm=False, audio_gate=False)
    assert used + unused == reference + gate_tk - 48 + sum(width + 1 for width in widths)


def test_a_temporal_gate_is_a_vector_and_a_number_in_each_bottleneck() -> None:
    widths = [block.width for pair in PAIRS for block in (pair.visual, pair.audio) for _ in range(2)]
    assert bottlenecks(temporal_gate=True)[0] - bottlenecks()[0] == sum(width + 1 for width in widths)


def test_the_model_of_event_localisation(make: Make) -> None:
    """Bottlenecks 188.539, head 12.072 + 0.550 M."""
    model = make(visual=None, audio=None, meta=True)
    unused = unused_in_reference(model)
    head = model.head
    assert count(model.parts["dgsct"]) == 188_538_816
    assert unused["dgsct"] == 48
    assert count(head.temporal) + head.temporal.unused_in_reference == 12_071_554
    assert count(head.localisation) + head.localisation.unused_in_reference == 550_229
    trained = sum(parameter.numel() for group in parameter_groups(model).values() for _, parameter in group)
    assert trained + sum(unused.values()) == 201_160_647


def test_the_head_of_segmentation() -> None:
    """The temporal module has 42.9 M, of which 17.6 M are decoders and 6.3 M layers to copy from: never used."""
    with torch.device("meta"):
        head = AVSHead(AVSHeadSettings(), {"visual": SWIN_LARGE, "audio": HTSAT}, AVSTask(AVSTaskConfig()))
    temporal = head.temporal
    unused = temporal.unused_in_reference
    assert count(temporal) + unused == 42_910_728
    assert unused == 17_635_328 + 6_318_080
    assert count(head.projections) == 738_304
    # The decoder without dilated convolutions, and the linear maps of taps and sound.
    assert count(head) - count(temporal) == 10_436_289 - 1_180_160 + 738_304 + 768 * 128 + 128
    assert head.unused_in_reference - unused == 1_180_160 + 9_441_280 + 1_094_656


def test_the_head_of_video_parsing() -> None:
    """MGN, and a temporal module of which pictures' half is thrown away."""
    task = AVVPTask(AVVPTaskConfig(features=("r2plus1d_18",)))
    with torch.device("meta"):
        head = AVVPHead(AVVPHeadSettings(), {"visual": SWIN_LARGE, "audio": HTSAT}, task)
    assert count(head.network) + count(head.embedding) == 4_382_449
    assert count(head.temporal) + head.temporal.unused_in_reference == 1_109_634
    assert head.unused_in_reference == head.temporal.unused_in_reference
