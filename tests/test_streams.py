"""What a part learns of its streams, and what a fusion adds to both after the embedding."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avcore_timm
from avcore.injection import Fusion, Prompt, StreamView
from avcore.specs import StageLayout, StreamLayout
from avcore.testing.toys import make_batch, make_model

SETS = ("audio.frames=48", "audio.mel_bins=32")


class Named(Prompt):
    def __init__(self, config: Any, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.named = (stream.name, stream.trunk)

    def layer(self, block: Any) -> None:
        return None


class OneVector(Fusion):
    def __init__(self, config: Any, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.vector = nn.Parameter(torch.ones(visual.width))

    def after_embedding(self, visual_MND: Tensor, audio_MND: Tensor, at: StreamView) -> tuple[Tensor, Tensor]:
        return self.vector, -self.vector


def test_a_layout_names_its_stream_and_whose_trunk_it_runs_through() -> None:
    def named(*sets: str, **options: str) -> dict[str, Any]:
        model = make_model(avcore_timm, "test_vit", prompts={"named": Named}, sets=(*SETS, *sets), **options)  # type: ignore[arg-type]
        return {key: part.named for key, part in model.parts.items()}

    assert named() == {"named.visual": ("visual", "visual"), "named.audio": ("audio", "visual")}
    assert named("audio.backbone=test_vit", "audio.weights=random")["named.audio"] == ("audio", "audio")
    assert named(streams="audio") == {"named.audio": ("audio", "visual")}


def test_a_fusion_adds_to_the_embedding_of_both_streams() -> None:
    model = make_model(avcore_timm, "test_vit", fusions={"vector": OneVector}, sets=SETS)
    entered: dict[str, Tensor] = {}
    for stream, tower in model.towers.items():
        tower.enter = lambda x, stream=stream: entered.setdefault(stream, x)  # type: ignore[method-assign]
    data = make_batch(model)
    model.features(data)
    for stream, image in model.front_ends(data).items():
        added = entered[stream] - model.towers[stream].embed(image)  # type: ignore[operator]
        expected = torch.full_like(added, 1.0 if stream == "visual" else -1.0)
        torch.testing.assert_close(added, expected, rtol=0, atol=1e-5)


class Doubles(Prompt):
    def __init__(self, config: Any, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.gain = nn.Parameter(torch.ones(()))

    def after_embedding(self, x_MND: Tensor, at: StreamView) -> Tensor:
        return self.gain * x_MND


def test_all_parts_see_the_embedding_as_it_was() -> None:
    model = make_model(avcore_timm, "test_vit", prompts={"one": Doubles, "two": Doubles}, sets=SETS)
    entered: dict[str, Tensor] = {}
    for stream, tower in model.towers.items():
        tower.enter = lambda x, stream=stream: entered.setdefault(stream, x)  # type: ignore[method-assign]
    data = make_batch(model)
    model.features(data)
    for stream, image in model.front_ends(data).items():
        torch.testing.assert_close(entered[stream], 3 * model.towers[stream].embed(image))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("depths", "taps"),
    [
        ((1,), (0,)),
        ((2,), (0, 1)),
        ((3,), (0, 1, 2)),
        ((6,), (1, 2, 4, 5)),
        ((12,), (2, 5, 8, 11)),
        ((1, 3), (0, 1, 2, 3)),
    ],
)
def test_maps_are_kept_at_the_quarters_where_a_layout_says_nothing(
    depths: tuple[int, ...], taps: tuple[int, ...]
) -> None:
    stages = tuple(StageLayout(width=4, heads=1, depth=depth, grid=(1, 2)) for depth in depths)
    assert StreamLayout(stages=stages, segments=1).taps == taps
    assert StreamLayout(stages=stages, segments=1, taps=(0,)).taps == (0,)
