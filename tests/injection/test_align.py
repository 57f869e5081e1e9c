"""Reading the other stream as one's own: where the plan makes maps, who reads through them, what is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avcore_timm
from avcore.backbones import digest
from avcore.discovery.declarations import declarations
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.injection import Edit, Edits, FusionLayer, PairLayout, PairView, SideView
from avcore.injection.align import AlignLayer, on_grid_of
from avcore.model import AVModel
from avcore.report.parameters import count_parameters
from avcore.specs import FusionSpec, Need, StageLayout, StreamLayout
from avcore.states import parameter_groups, trainable_state
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
            visual=Edit(add=self.gain * at.visual.as_own(audio_MND).mean(1, keepdim=True)),
            audio=Edit(add=self.gain * at.audio.as_own(visual_MND).mean(1, keepdim=True)),
        )


class Silent(FusionLayer):
    """Reads nothing."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        return Edits(visual=Edit(add=self.gain * visual_MND))


class Places(FusionLayer):
    """Adds the other stream's tokens place by place, and window by window to what it adds."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        heard = at.visual.as_own(audio_MND, "width", "grid")
        seen = at.audio.unwindows(at.audio.as_own(visual_MND, "width", "windows"))
        return Edits(visual=Edit(add=self.gain * heard), audio=Edit(add=self.gain * seen.mean(1, keepdim=True)))


def make(*sets: str, as_own: tuple[str, ...] = ("width",), part: Any = Reads, more: Any = None) -> AVModel:
    fusions = {"reads": part, **(more or {})}
    fields = {name: {"as_own": as_own} for name in fusions}
    return make_model(avcore_timm, "test_vit", fusions=fusions, sets=sets, fields=fields)


def test_each_pair_of_unequal_widths_has_a_map_in_each_direction() -> None:
    model = make(*UNEQUAL)
    layers = model.parts["align"].layers
    assert len(layers) == 6
    for layer in layers.values():
        assert layer(torch.zeros(2, 5, 96), "visual", ("width",)).shape == (2, 5, 64)
        assert layer(torch.zeros(2, 5, 64), "audio", ("width",)).shape == (2, 5, 96)
    assert count_parameters(model).parts["align"].trainable == 6 * (2 * 64 * 96 + 64 + 96)
    assert count_parameters(make(*UNEQUAL, "plan.align_bias=false")).parts["align"].trainable == 6 * 2 * 64 * 96


def test_parts_of_one_run_share_the_maps() -> None:
    two = make(*UNEQUAL, more={"again": Reads})
    assert count_parameters(two).parts["align"] == count_parameters(make(*UNEQUAL)).parts["align"]
    names = [name for name, _ in parameter_groups(two)["parts"] if name.startswith("align.")]
    assert len(names) == 6 * 4
    assert set(names) < set(trainable_state(two))
    assert digest(two.towers) == digest(make(*UNEQUAL, part=Silent, as_own=()).towers)


def test_equal_streams_have_no_maps() -> None:
    assert set(make(*SETS).parts) == {"reads"}
    assert set(make(*UNEQUAL, part=Silent, as_own=()).parts) == {"reads"}


def test_a_pairing_is_a_setting_and_unpaired_blocks_run_alone() -> None:
    paired = {"odd": ["2", "3"], "last": ["0", "1", "2", "3", "4", "5"], "[[0,2],[5,8]]": ["0", "5"]}
    for pairing, blocks in paired.items():
        model = make(*UNEQUAL, f"plan.pairing={pairing}").train()
        assert list(model.parts["reads"].layers) == list(model.parts["align"].layers) == blocks
        assert len(model.steps) == 6 + 9 - len(blocks)
        batch = make_batch(model)
        model.loss(model(batch), batch).backward()
        assert all(parameter.grad is not None for _, parameter in parameter_groups(model)["parts"])
    with pytest.raises(AVCoreError, match=r"plan\.pairing.*must be one of 'even', 'last', 'odd' or a list"):
        make(*UNEQUAL, "plan.pairing=first")


def test_grids_are_brought_together_without_parameters() -> None:
    sets = ("audio.frames=48", "audio.mel_bins=64")
    assert set(make(*sets).parts) == {"reads"}
    model = make(*sets, part=Places, as_own=("width", "grid", "windows"))
    assert count_parameters(model).parts["align"].trainable == 0
    assert model.features(make_batch(model)).stream("visual").tokens.isfinite().all()


def test_a_block_without_windows_gets_all_tokens_of_the_other_stream() -> None:
    stages = [StageLayout(width=1, heads=1, depth=1, grid=(side, side), prefix=0) for side in (3, 2)]
    one, other = (StreamLayout(stages=(stage,), segments=1, taps=(0,)).blocks[0] for stage in stages)
    maps = AlignLayer(PairLayout(visual=one, audio=other, index=0, pairs=1), width=False, bias=True)
    given: dict[str, Any] = {"B": 1, "T": 1, "part": None, "block": None, "project": None, "tokens": torch.empty(0)}
    view = SideView(**given, stream="audio", owner="mine", declared=("windows",), maps=maps)
    assert torch.equal(view.as_own(torch.ones(1, 9, 1)), torch.ones(1, 9, 1))


def test_parts_read_what_the_maps_of_their_pair_make() -> None:
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
    model = make(*UNEQUAL, part=Places, as_own=("width", "grid", "windows")).train()
    batch = make_batch(model)
    model.loss(model(batch), batch).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("sets", [SETS, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(
    ("part", "as_own", "wanted"), [(Reads, (), "('width',)"), (Places, ("width",), "('width', 'grid')")]
)
def test_a_part_that_does_not_declare_what_it_reads_is_refused(
    part: Any, as_own: tuple[str, ...], wanted: str, sets: tuple[str, ...]
) -> None:
    with pytest.raises(AVCoreError) as refused:
        make(*sets, part=part, as_own=as_own)
    assert "Part 'reads' reads the other stream as its own, but its spec does not declare that" in str(refused.value)
    assert f"FusionSpec(as_own={wanted})" in str(refused.value)


def test_maps_that_nobody_reads_through_are_refused() -> None:
    with pytest.raises(AVCoreError, match=r"no gradient: align\.layers\.0\.audio_to_visual\.weight"):
        make(*UNEQUAL, part=Silent)


def test_a_part_that_needs_equal_widths_itself_is_refused() -> None:
    equal = {"requires": lambda config: frozenset({Need.BOTH_STREAMS, Need.EQUAL_WIDTHS})}
    with pytest.raises(AVCoreError, match="'reads' needs equal widths, but this run has visual: 6 blocks of width 64"):
        make_model(avcore_timm, "test_vit", fusions={"reads": Reads}, sets=UNEQUAL, fields={"reads": equal})


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"as_own": ("widths",)}, r"as_own is \('widths',\); it may list width, grid, windows"),
        ({"name": "align"}, "no part may be called 'align': that is a component of every model"),
    ],
)
def test_a_wrong_declaration_is_refused(field: dict[str, Any], message: str) -> None:
    spec = FusionSpec(**{"name": "mine", "build": "mine:Mine", **field})
    with pytest.raises(AVCoreError, match=message):
        declarations(SimpleNamespace(avcore_fusions=hookimpl(lambda: [spec], specname="avcore_fusions")))


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
