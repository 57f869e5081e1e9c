"""One bottleneck: the formulas by hand, the order of its maps, both ways to align, the swap of the streams."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore import StageLayout, StreamLayout
from avcore.injection import PairLayout
from avcore.specs import BlockLayout
from avcore_dgsct.align import Resize, TokensThenWidth
from avcore_dgsct.bottleneck import Bottleneck, BottleneckPair
from avcore_dgsct.settings import DGSCTSettings

Moved = Callable[[nn.Module], nn.Module]


def block(width: int, grid: tuple[int, int], prefix: int = 0) -> BlockLayout:
    stage = StageLayout(width=width, heads=1, depth=1, grid=grid, prefix=prefix)
    return StreamLayout(stages=(stage,), segments=2, taps=(0,)).blocks[0]


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean, deviation = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True).add(1e-5).sqrt()
    return (x - mean) / deviation * norm.weight + norm.bias


def batch_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias


def in_groups(x: Tensor, weight: Tensor) -> Tensor:
    """Two groups."""
    wide, narrow = x.shape[-1] // 2, len(weight) // 2
    return torch.cat([x[:, :wide] @ weight[:narrow].T, x[:, wide:] @ weight[narrow:].T], -1)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


@pytest.mark.parametrize("order", ["ave", "avs"])
@pytest.mark.parametrize("residual", ["one_minus_alpha", "one"])
@pytest.mark.parametrize("temporal_gate", [False, True])
def test_a_bottleneck_is_the_steps_by_hand(order: Any, residual: Any, temporal_gate: bool, moved: Moved) -> None:
    """Segment by segment, as the steps are written down."""
    torch.manual_seed(0)
    settings = DGSCTSettings(
        reduction=2,
        tokens=3,
        order=order,
        residual=residual,
        temporal_gate=temporal_gate,
        alpha=0.4,
        beta=0.3,
        gamma=0.2,
    )
    bottleneck = moved(Bottleneck(settings, block(8, (2, 3)), block(12, (2, 2)), gated=True)).eval()
    guide = bottleneck.guidance
    x, other = torch.randn(2, 6, 8).double(), torch.randn(2, 4, 12).double()
    made = bottleneck(x, other)
    for segment in range(2):
        y = linear(
            bottleneck.align.tokens.weight @ other[segment] + bottleneck.align.tokens.bias[:, None],
            bottleneck.align.width,
        )
        summary = bottleneck.latents + torch.softmax(bottleneck.latents @ y.T, -1) @ y
        tokens = x[segment] + bottleneck.latent_gate * torch.softmax(x[segment] @ summary.T, -1) @ summary
        mean = y.mean(0, keepdim=True)
        r = (linear(mean, guide.channel_other).relu() * linear(tokens, guide.channel_own).relu()).mean(0, keepdim=True)
        channels = linear(linear(r, guide.channel_squeeze).relu(), guide.channel_gate).sigmoid()
        picked = tokens * (1 + channels)
        scores = linear(
            linear(picked, guide.token_own).relu() * linear(mean, guide.token_other).relu(), guide.token_score
        )
        weights = 0.4 * channels + 0.3 * scores.sigmoid() + (1 if residual == "one" else 0.6)
        if temporal_gate:
            weights = weights + 0.2 * linear(mean, guide.segment_gate).sigmoid()
        tokens = tokens * weights
        if order == "ave":
            tokens = layer_norm(tokens, bottleneck.norm_before)
        hidden = batch_norm(in_groups(tokens, bottleneck.down.weight), bottleneck.norm_down).relu()
        out = batch_norm(in_groups(hidden, bottleneck.up.weight), bottleneck.norm_up)
        if order == "ave":
            expected = bottleneck.gate * layer_norm(out, bottleneck.norm_post)
        else:
            expected = layer_norm(bottleneck.gate * out, bottleneck.norm_post)
        torch.testing.assert_close(made.add[segment], expected)
        torch.testing.assert_close(made.map[segment], torch.softmax(scores.tanh(), 0).T)


@pytest.mark.parametrize(("own", "other"), [((8, 6), (24, 20)), ((24, 20), (8, 6)), ((24, 6), (8, 20))])
def test_the_cheaper_order_of_the_two_maps_gives_the_same(own: tuple[int, int], other: tuple[int, int]) -> None:
    """Width and tokens of both streams; the two orders have different costs."""
    torch.manual_seed(0)
    align = TokensThenWidth(block(own[0], (1, own[1])), block(other[0], (1, other[1]))).double()
    x = torch.randn(3, other[1], other[0]).double()
    assert align(x).shape == (3, own[1], own[0])
    found = []
    for align.width_first in (False, True):
        align.zero_grad()
        out = align(x)
        out.square().sum().backward()
        found.append((out, *(parameter.grad for parameter in align.parameters())))
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one, another)


def test_where_the_other_stream_is_wider_its_width_shrinks_first() -> None:
    visual, audio = block(192, (48, 48)), block(96, (64, 64))
    with torch.device("meta"):
        assert TokensThenWidth(audio, visual).width_first
        assert not TokensThenWidth(visual, audio).width_first


def test_resizing_keeps_rows_and_columns_apart() -> None:
    """A picture that varies along its columns alone still does after its grid was resized."""
    align = Resize(block(5, (4, 2)), block(3, (2, 6)))
    columns = torch.randn(1, 1, 6, 3).expand(2, 2, 6, 3).flatten(1, 2)
    made = align(columns).unflatten(1, (4, 2))
    torch.testing.assert_close(made, made[:, :1].expand(2, 4, 2, 5))
    assert align.unused_in_reference == 8 * 12 + 8


def test_swapping_streams_and_bottlenecks_swaps_the_increments(moved: Moved) -> None:
    torch.manual_seed(0)
    settings = DGSCTSettings(reduction=2, tokens=3)
    one, other = block(8, (2, 3)), block(12, (2, 2))
    pair = moved(BottleneckPair(settings, PairLayout(visual=one, audio=other, index=0, pairs=1))).eval()
    swapped = BottleneckPair(settings, PairLayout(visual=other, audio=one, index=0, pairs=1))
    swapped.visual, swapped.audio = pair.audio, pair.visual
    x_one, x_other = torch.randn(2, 6, 8).double(), torch.randn(2, 4, 12).double()
    for made, expected in zip(swapped(x_other, x_one), reversed(pair(x_one, x_other)), strict=True):
        assert torch.equal(made.add, expected.add)
        assert torch.equal(made.map, expected.map)


def test_bottlenecks_start_at_zero_where_they_have_a_gate() -> None:
    pair = PairLayout(visual=block(8, (2, 2)), audio=block(8, (2, 2)), index=0, pairs=1)
    x = torch.randn(2, 4, 8)
    for audio_gate in (True, False):
        visual, audio = BottleneckPair(DGSCTSettings(reduction=2, audio_gate=audio_gate), pair)(x, x)
        assert not visual.add.any()
        assert audio.add.any() == (not audio_gate)
