"""``align``, offered by avcore itself: what it makes, who may read it, what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avcore_timm
from avcore.errors import AVCoreError
from avcore.injection import Edit, Edits, FusionLayer, PairLayout, PairView
from avcore.model import AVModel
from avcore.report.parameters import count_parameters
from avcore.specs import Need
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
    assert not listed.parts["align"].layers
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
        make(*UNEQUAL, need=Need.EQUAL_WIDTHS)


def test_maps_that_nothing_reads_are_refused_by_name() -> None:
    with pytest.raises(
        AVCoreError, match=r"24 trainable parameters .* align\.layers\.0\.audio_to_visual\.weight.* Leave that part out"
    ):
        make_model(avcore_timm, "test_vit", listed=["align"], sets=UNEQUAL)


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
