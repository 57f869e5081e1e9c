"""One bottleneck: the formulas by hand, the initial values."""

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore import StageLayout, StreamLayout
from avcore.injection import PairLayout
from avcore_lavish.fusion import Bottleneck, BottleneckPair, LavishLayer
from avcore_lavish.settings import LavishSettings

Moved = Callable[[nn.Module], nn.Module]
EQUAL_WIDTHS: Any = SimpleNamespace(
    visual=SimpleNamespace(as_own=lambda tokens: tokens), audio=SimpleNamespace(as_own=lambda tokens: tokens)
)
"""Stands for a view of streams that are alike."""


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean, deviation = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True).add(1e-5).sqrt()
    return (x - mean) / deviation * norm.weight + norm.bias


def batch_norm(x_ND: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    return (x_ND - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias


def by_groups(x_ND: Tensor, weight: Tensor, groups: int) -> Tensor:
    wide, narrow = x_ND.shape[-1] // groups, weight.shape[0] // groups
    pieces = []
    for group in range(groups):
        pieces.append(x_ND[:, group * wide : (group + 1) * wide] @ weight[group * narrow : (group + 1) * narrow].T)
    return torch.cat(pieces, -1)


@pytest.mark.parametrize("order", ["ave", "avs"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_bottleneck_is_the_five_steps(order: Any, groups: int, moved: Moved) -> None:
    """Segment by segment and group by group, as the steps are written down."""
    torch.manual_seed(0)
    settings = LavishSettings(reduction=2, groups=groups, tokens=3, order=order)
    bottleneck = moved(Bottleneck(settings, 8, gated=True)).eval()
    x, other = torch.randn(2, 5, 8).double(), torch.randn(2, 4, 8).double()
    made = bottleneck(x, other)
    for segment in range(2):
        summary = bottleneck.latents + torch.softmax(bottleneck.latents @ other[segment].T, -1) @ other[segment]
        tokens = x[segment] + bottleneck.latent_gate * torch.softmax(x[segment] @ summary.T, -1) @ summary
        if order == "ave":
            tokens = layer_norm(tokens, bottleneck.norm_before)
        hidden = by_groups(tokens, bottleneck.down.weight, groups)
        hidden = torch.relu(batch_norm(hidden, bottleneck.norm_down))
        out = by_groups(hidden, bottleneck.up.weight, groups)
        out = batch_norm(out, bottleneck.norm_up)
        if order == "ave":
            expected = bottleneck.gate * layer_norm(out, bottleneck.norm_post)
        else:
            expected = layer_norm(bottleneck.gate * out, bottleneck.norm_post)
        torch.testing.assert_close(made[segment], expected)


def test_swapping_streams_and_bottlenecks_swaps_the_increments(moved: Moved) -> None:
    torch.manual_seed(0)
    settings = LavishSettings(reduction=2)
    pair, swapped = moved(BottleneckPair(settings, 8, 8)).eval(), BottleneckPair(settings, 8, 8)
    swapped.visual, swapped.audio = pair.audio, pair.visual
    visual, audio = torch.randn(2, 5, 8).double(), torch.randn(2, 3, 8).double()
    one, other = pair(visual, audio, EQUAL_WIDTHS), swapped(audio, visual, EQUAL_WIDTHS)
    assert torch.equal(one.visual.add, other.audio.add)
    assert torch.equal(one.audio.add, other.visual.add)


def test_with_the_settings_of_segmentation_visual_bottlenecks_start_at_zero_and_audio_ones_do_not() -> None:
    settings = LavishSettings(reduction=4, tokens=16, latents="zeros", batch_norm=False, audio_gate=False, order="avs")
    pair = BottleneckPair(settings, 32, 32)
    edits = pair(torch.randn(2, 5, 32), torch.randn(2, 5, 32), EQUAL_WIDTHS)
    assert not edits.visual.add.any()
    assert edits.audio.add.any()
    assert pair.audio.gate is None
    assert not pair.visual.latents.any()


@pytest.mark.parametrize("flags", list(product([False, True], repeat=4)))
@pytest.mark.parametrize("order", ["ave", "avs"])
@pytest.mark.parametrize("widths", [(16, 16), (32, 16)])
def test_every_flag_has_the_parameters_it_should(flags: tuple[bool, ...], widths: tuple[int, int], order: Any) -> None:
    given = dict(zip(("batch_norm", "audio_gate", "before_norm", "post_norm"), flags, strict=True))
    settings = LavishSettings(reduction=4, groups=2, tokens=3, order=order, **given)
    stages = (StageLayout(width=width, heads=2, depth=1, grid=(2, 2), prefix=1) for width in widths)
    visual, audio = (StreamLayout(stages=(stage,), segments=2, taps=(0,)).blocks[0] for stage in stages)
    layer = LavishLayer(settings, PairLayout(visual=visual, audio=audio, index=0, pairs=1))
    g, n = 2, 3
    expected = 2 + 2 * given["audio_gate"]
    for d in widths:
        k = d // 4
        each = n * d + 2 * d * k // g + 1
        each += (2 * k + 2 * d) * given["batch_norm"] + 2 * d * (given["before_norm"] + given["post_norm"])
        expected += 2 * each
    count = sum(parameter.numel() for parameter in layer.parameters())
    assert count + layer.unused_in_reference == expected
    unused = 2 * 2 * sum(widths) if order == "avs" and given["before_norm"] else 0
    assert layer.unused_in_reference == unused
