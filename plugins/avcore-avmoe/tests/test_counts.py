"""Parameters at the published sizes, as the released scripts allocate them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from avcore.injection import PairLayout
from avcore.model import AVModel
from avcore.specs import StageLayout, StreamLayout
from avcore.states import parameter_groups, unused_in_reference
from avcore_ave.temporal import count
from avcore_avmoe.fusion import AVMoE
from avcore_avmoe.settings import AVMoESettings

Published = Callable[[str], AVModel]


def stream(widths: tuple[int, ...], sides: tuple[int, ...]) -> StreamLayout:
    """One stage for each of the 12 pairs: stages of 2, 2, 6 and 2 blocks."""
    stages = tuple(
        StageLayout(width=width, heads=1, depth=depth, grid=(side, side))
        for width, side, depth in zip(widths, sides, (2, 2, 6, 2), strict=True)
    )
    return StreamLayout(stages=stages, segments=10)


SWIN_LARGE = stream((192, 384, 768, 1536), (48, 24, 12, 6))
HTSAT = stream((96, 192, 384, 768), (64, 32, 16, 8))
AVS = {"batch_norm": False, "audio_gate": False}


def mixtures(**settings: Any) -> int:
    """Parameters of the mixtures of all pairs."""
    with torch.device("meta"):
        part = AVMoE(AVMoESettings(**settings), SWIN_LARGE, HTSAT)
        layers = [
            part.layer(PairLayout(visual=visual, audio=audio, index=index, pairs=12))
            for index, (visual, audio) in enumerate(zip(SWIN_LARGE.blocks, HTSAT.blocks, strict=True))
        ]
    return sum(count(layer) for layer in layers if layer is not None)


@pytest.mark.parametrize(
    ("settings", "count_in_script"),
    [
        ({"skip": 2}, 90_549_536),
        ({}, 111_996_288),
        ({"cross_experts": 2, "unimodal_experts": 2}, 118_570_032),
        ({"batch_norm": False, "self_attention": "tokens"}, 111_877_104),
        ({**AVS, "unimodal_experts": 2, "groups": 4, "tokens": 2}, 109_841_880),
        ({**AVS, "self_attention": "heads"}, 198_244_752),
        ({**AVS, "groups": 4, "tokens": 2}, 108_386_448),
        (
            {
                **AVS,
                "cross_experts": 2,
                "unimodal_experts": 2,
                "skip": 2,
                "reduction": 2,
                "self_attention": "latents",
            },
            107_847_296,
        ),
        (
            {
                **AVS,
                "cross_experts": 2,
                "unimodal_experts": 2,
                "groups": 4,
                "tokens": 2,
                "self_attention": "latents",
            },
            111_456_432,
        ),
    ],
    ids=["ave", "no skip", "2 + 2", "avvp", "avqa", "s4", "s4 of the paper", "ms3", "ms3 of the paper"],
)
def test_mixtures(settings: dict[str, Any], count_in_script: int) -> None:
    assert mixtures(**settings) == count_in_script


def test_parts_of_the_mixtures() -> None:
    """Maps over the token axis are most of it; routers 6.99 M, maps between the widths 17.28 M."""
    with torch.device("meta"):
        part = AVMoE(AVMoESettings(), SWIN_LARGE, HTSAT)
        layers: Any = [
            part.layer(PairLayout(visual=visual, audio=audio, index=index, pairs=12))
            for index, (visual, audio) in enumerate(zip(SWIN_LARGE.blocks, HTSAT.blocks, strict=True))
        ]
    made: Any = [one for layer in layers if layer for pair in (layer.p1, layer.p2) for one in (pair.visual, pair.audio)]
    assert sum(count(one.align.tokens) for one in made) == 81_156_432
    assert round(sum(count(one.router) for one in made) / 1e6, 2) == 6.99
    assert round(sum(count(one.align.width) for one in made) / 1e6, 2) == 17.28


@pytest.mark.parametrize(
    ("task", "parts", "head"),
    [
        ("ave", 90_549_536, 12_071_554 + 21_845),
        ("avvp", 111_877_104, 4_382_449),
    ],
)
def test_recipes(published: Published, task: str, parts: int, head: int) -> None:
    """What the published code allocates for a task, with what it never uses."""
    model = published(task)
    groups = parameter_groups(model)
    counted = {name: sum(one.numel() for _, one in group) for name, group in groups.items()}
    unused = unused_in_reference(model)
    assert counted["parts"] == parts
    assert counted["head"] + sum(unused.values()) == head
