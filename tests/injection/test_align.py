"""``align``, offered by avcore itself: what it makes, who may read it, what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avcore_timm
from avcore.errors import AVCoreError
from avcore.injection import Edit, Edits, FusionLayer, PairLayout, PairView
from avcore.injection.align import on_grid_of
from avcore.model import AVModel
from avcore.report.parameters import count_parameters
from avcore.specs import Need, StageLayout, StreamLayout
from avcore.testing.toys import make_batch, make_model

SETS = ("audio.frames=48", "audio.mel_bins=32")
# Streams of 6 blocks of width 64 and 9 blocks of width 96: 6 pairs.
UNEQUAL = (*SETS, "audio.backbone=test_vit3", "audio.weights=random")


class Reads(FusionLayer):
    """Adds the other stream's mean token, in its own width, to each stream."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        return Edits(
            visual=Edit(add=self.gain * at.to_visual(audio_MND).mean(1, keepdim=True)),
            audio=Edit(add=self.gain * at.to_audio(visual_MND).mean(1, keepdim=True)),
        )


class Other(FusionLayer):
    """A second aligner."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.map = nn.Linear(pair.audio.width, pair.visual.width)

    def align_to_visual(self, audio_MND: Tensor) -> Tensor:
        return self.map(audio_MND)


def make(*sets: str, need: Need = Need.COMPARABLE_WIDTHS, listed: tuple[str, ...] = ("align",)) -> AVModel:
    fields = {"reads": {"requires": lambda config: frozenset({Need.BOTH_STREAMS, need})}}
    return make_model(avcore_timm, "test_vit", fusions={"reads": Reads}, listed=listed, sets=sets, fields=fields)


def test_each_pair_of_unequal_widths_has_a_map_in_each_direction() -> None:
    model = make(*UNEQUAL)
    layers = model.parts["align"].layers
    assert len(layers) == 6
    for layer in layers.values():
        assert layer.align_to_visual(torch.zeros(2, 5, 96)).shape == (2, 5, 64)
        assert layer.align_to_audio(torch.zeros(2, 5, 64)).shape == (2, 5, 96)
    assert count_parameters(model).parts["align"].trainable == 6 * (2 * 64 * 96 + 64 + 96)
    assert count_parameters(make(*UNEQUAL, "parts.align.bias=false")).parts["align"].trainable == 6 * 2 * 64 * 96


def test_where_widths_are_equal_the_tokens_are_read_as_they_are() -> None:
    bare, listed = make(*SETS, listed=()), make(*SETS)
    assert [name for name, _ in listed.parts["align"].named_parameters()] == []
    data = make_batch(bare)
    plain = bare.features(data).stream("visual").tokens
    assert torch.equal(listed.features(data).stream("visual").tokens, plain)


def test_other_parts_read_what_the_maps_of_their_pair_make() -> None:
    model = make(*UNEQUAL)
    step, layer = model.steps[-1], model.parts["align"].layers["5"]
    draws = torch.Generator().manual_seed(0)
    x = {"visual": torch.randn(4, 5, 64, generator=draws), "audio": torch.randn(4, 7, 96, generator=draws)}
    made, _, _ = step(dict(x), {})
    after = {stream: x[stream] + block.attention(x[stream])[0] for stream, block in step.blocks.items()}
    other = {"visual": layer.audio_to_visual(after["audio"]), "audio": layer.visual_to_audio(after["visual"])}
    for stream, tokens in after.items():
        expected = tokens + step.blocks[stream].mlp(tokens) + other[stream].mean(1, keepdim=True)
        torch.testing.assert_close(made[stream], expected)


def test_every_map_is_trained_through_the_part_that_reads_it() -> None:
    model = make(*UNEQUAL).train()
    batch = make_batch(model)
    model.loss(model(batch), batch).backward()
    for name, parameter in model.parameter_groups()["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_part_that_compares_tokens_is_refused_on_unequal_widths_without_an_aligner() -> None:
    with pytest.raises(AVCoreError, match=r"'reads' needs equal widths, or a part that aligns them \(--fusion align\+"):
        make(*UNEQUAL, listed=())
    assert set(make(*SETS, listed=()).parts) == {"reads"}


def test_an_aligner_does_not_serve_a_part_that_needs_equal_widths_itself() -> None:
    with pytest.raises(AVCoreError, match="'reads' needs equal widths, but this run has visual: 6 blocks of width 64"):
        make(*UNEQUAL, need=Need.EQUAL_WIDTHS, listed=())


def test_an_aligner_that_nothing_reads_is_refused() -> None:
    with pytest.raises(AVCoreError, match=r"'align' aligns the streams for other fusions, and no part that reads"):
        make_model(avcore_timm, "test_vit", listed=["align"], sets=UNEQUAL)


@pytest.mark.parametrize(("source", "target"), [((4, 6), (2, 3)), ((2, 3), (4, 6)), ((4, 4), (4, 4))])
@pytest.mark.parametrize(("prefix", "wanted"), [(0, 0), (1, 1), (2, 0), (0, 2)])
def test_tokens_lie_where_those_of_the_other_stream_lie(
    source: tuple[int, int], target: tuple[int, int], prefix: int, wanted: int
) -> None:
    """A plane, which bilinear resampling keeps, at the centres of the other grid's cells."""

    def plane(grid: tuple[int, int]) -> Tensor:
        rows, columns = ((torch.arange(one) + 0.5) / one for one in grid)
        return (3 * rows[:, None] + 5 * columns).reshape(1, -1, 1)

    def block(grid: tuple[int, int], tokens: int) -> Any:
        stage = StageLayout(width=1, heads=1, depth=1, grid=grid, prefix=tokens)
        return StreamLayout(stages=(stage,), segments=1, taps=(0,)).blocks[0]

    own = torch.full((1, prefix, 1), 7.0)
    made = on_grid_of(torch.cat([own, plane(source)], 1), block(source, prefix), block(target, wanted))
    assert made.shape == (1, wanted + target[0] * target[1], 1)
    if target[0] <= source[0]:  # beyond the outermost centres nothing is extrapolated
        torch.testing.assert_close(made[:, wanted:], plane(target))
    if prefix >= wanted:
        assert torch.equal(made[:, :wanted], own[:, :wanted])
    else:
        torch.testing.assert_close(made[:, :wanted], made[:, wanted:].mean(1, keepdim=True).expand(-1, wanted, -1))


def test_two_aligners_are_refused() -> None:
    with pytest.raises(AVCoreError, match="Parts align and other both align the streams: leave out all but one"):
        make_model(
            avcore_timm,
            "test_vit",
            fusions={"other": Other},
            listed=["align"],
            sets=UNEQUAL,
            fields={"other": {"aligns": True}},
        )
