"""CoPL: the integers of reading C, the equations, every knob."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from small import assemble_small
from torch import Tensor

import avcore_avs
import avcore_copl
import avcore_timm
from avcore import Edit
from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.injection import PairLayout
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BlockLayout, StageLayout, StreamLayout
from avcore.states import parameter_groups
from avcore.tasks import Batch, Features, StreamFeatures
from avcore_copl.fusion import Coupling, CouplingLayer, drawn, summarised
from avcore_copl.prompts import Rows
from avcore_copl.settings import CouplingSettings, RowsSettings


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.from_modules({"avcore-timm": avcore_timm, "avcore-copl": avcore_copl, "avcore-avs": avcore_avs})


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A named root, because these tests have no data set of their own: nothing is read from it."""
    return str(tmp_path_factory.mktemp("avsbench"))


def make(registry: Registry, root: str, visual: str, *sets: str, meta: bool = True, method: str = "copl") -> AVModel:
    resolved = resolve_config(registry, method=method, task="avs", visual=visual, data=root, sets=sets)
    return assemble(resolved.config, registry, meta=True) if meta else assemble_small(resolved.config, registry)


def sizes(model: AVModel) -> dict[str, int]:
    """Parameters of CoPL, piece by piece."""
    marks = {"global_rows": "M^g", "frame_rows": "M^f", "latent_": "latents", "bank.": "bank", "_to_": "F"}
    found = dict.fromkeys(marks.values(), 0)
    for name, parameter in parameter_groups(model)["parts"]:
        (kind,) = [kind for mark, kind in marks.items() if mark in name]
        found[kind] += parameter.numel()
    return found


VIT_L = "vit_large_patch16_224.augreg_in21k"
# Reading C of the published counts (docs/methods/copl.md), ViT-L/16.
AVE = {"M^g": 40_960, "M^f": 491_520, "latents": 163_840, "bank": 81_920, "F": 4_204_544}


def lengths(length: int, segments: int) -> tuple[str, ...]:
    return (
        f"parts.copl.rows.length={length}",
        f"parts.copl.coupling.length={length}",
        f"data.segments={segments}",
        f"data.clip_seconds={segments}",
    )


def test_integers_of_reading_c_for_vit_large_with_ave_lengths(registry: Registry, data_root: str) -> None:
    found = sizes(make(registry, data_root, VIT_L, *lengths(20, 10)))
    assert found == AVE
    assert sum(found.values()) == 4_982_784  # 4.98 M


def test_integers_of_reading_c_for_vit_large_with_avqa_lengths(registry: Registry, data_root: str) -> None:
    found = sizes(make(registry, data_root, VIT_L, *lengths(30, 10)))
    assert found == {**AVE, "M^g": 61_440, "latents": 245_760}
    assert sum(found.values()) == 5_085_184  # 5.09 M


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        # "C, bank shared by modalities when widths agree": 4.94
        (("coupling.bank_sharing=common",), {"bank": 40_960}),
        (("coupling.bank_scope=all",), {"bank": 20_480}),
        # "C with one bank per modality used by all interaction layers": 4.92
        (("coupling.latents=2",), {"latents": 16_384}),
        (("coupling.bank_length=0",), {"bank": 0}),
        (("coupling.last=2",), {"latents": 81_920, "bank": 40_960, "F": 2_102_272}),
        (("coupling.unit=stages", "coupling.last=1"), {"latents": 983_040, "bank": 491_520, "F": 25_227_264}),
        (("coupling.reduction=8",), {"F": 2_106_368}),
        (("rows.frame_scope=stage",), {"M^f": 20_480}),
        (("rows.frame_scope=block",), {}),
        (("rows.frame_rows=none",), {"M^f": 0}),
        (("rows.frame_rows=all",), {}),
        (("rows.global_scope=stage",), {}),
        (("rows.global_scope=block",), {"M^g": 983_040}),
        (("rows.global_flow=carry",), {}),
        (("rows.length=0",), {"M^g": 0}),
    ],
)
def test_every_knob_has_the_count_it_should(
    registry: Registry, data_root: str, knobs: tuple[str, ...], expected: dict[str, int]
) -> None:
    model = make(registry, data_root, VIT_L, *lengths(20, 10), *(f"parts.copl.{knob}" for knob in knobs))
    found = sizes(model)
    assert found == {**AVE, **expected}


def test_prompts_are_drawn_from_the_bank_as_equations_5_to_7_say() -> None:
    torch.manual_seed(0)
    x, latent, bank = torch.randn(2, 5, 4), torch.randn(3, 4), torch.randn(6, 4)
    prompts = drawn(summarised(x, latent)[None], bank[None])[0]
    for frame in range(2):
        for row in range(3):
            attention = torch.softmax(torch.stack([latent[row] @ token for token in x[frame]]), 0)
            summary = latent[row] + sum(weight * token for weight, token in zip(attention, x[frame], strict=True))
            scores = torch.softmax(torch.stack([summary @ prompt for prompt in bank]), 0)
            expected = sum(score * prompt for score, prompt in zip(scores, bank, strict=True))
            torch.testing.assert_close(prompts[frame, row], expected)


def stream(
    width: int = 8, depth: int = 3, segments: int = 2, paired: frozenset[int] = frozenset({0, 1, 2})
) -> StreamLayout:
    stage = StageLayout(width=width, heads=2, depth=depth, grid=(2, 2), prefix=1)
    return StreamLayout(stages=(stage,), segments=segments, taps=(0,), paired=paired)


class At:
    """Stands for a view: two clips of two segments."""

    B, T = 2, 2
    carried: Tensor | None = None

    def __init__(self, part: Any) -> None:
        self.part = part

    def lift(self, rows: Tensor) -> Tensor:
        return rows


def rows_of(edit: Edit | None) -> Sequence[Tensor]:
    assert edit is not None
    assert not isinstance(edit.rows, Tensor | None)
    return edit.rows


def block(layout: StreamLayout, index: int = 0) -> BlockLayout:
    return layout.blocks[index]


def test_frame_t_sees_the_global_rows_and_its_own_frame_row() -> None:
    layout = stream()
    part = Rows(RowsSettings(length=3), layout)
    layer = part.layer(block(layout))
    assert layer is not None
    common, frames = rows_of(layer.attention(torch.zeros(4, 5, 8), At(part)))  # type: ignore[arg-type]
    assert torch.equal(common, part.global_rows["input"])
    assert layer.frame_rows is not None
    assert torch.equal(frames, layer.frame_rows[:, None])


def test_all_frame_rows_are_common_to_the_batch() -> None:
    layout = stream()
    part = Rows(RowsSettings(length=3, frame_rows="all", row_bias=1.5), layout)
    layer = part.layer(block(layout))
    assert layer is not None
    edit = layer.attention(torch.zeros(4, 5, 8), At(part))  # type: ignore[arg-type]
    assert [rows.shape for rows in rows_of(edit)] == [(3, 8), (2, 8)]
    assert edit.row_bias == 1.5


def test_carried_global_rows_start_once_and_flow_on() -> None:
    layout = stream()
    part = Rows(RowsSettings(length=3, global_flow="carry"), layout)
    layer = part.layer(block(layout))
    assert layer is not None
    at = At(part)
    first = layer.attention(torch.zeros(4, 5, 8), at)  # type: ignore[arg-type]
    assert torch.equal(first.carry, part.global_rows["input"])  # type: ignore[arg-type]
    assert [rows.shape for rows in rows_of(first)] == [(2, 1, 8)]
    at.carried = torch.randn(4, 3, 8)
    assert layer.attention(torch.zeros(4, 5, 8), at).carry is at.carried  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="global_scope must be 'input' when rows are carried"):
        RowsSettings(global_flow="carry", global_scope="block")


def test_unpaired_blocks_run_without_rows_unless_asked() -> None:
    layout = stream(paired=frozenset({1}))
    made = [Rows(RowsSettings(), layout).layer(each) is not None for each in layout.blocks]
    assert made == [False, True, False]
    asked = [Rows(RowsSettings(frame_scope="block"), layout).layer(each) is not None for each in layout.blocks]
    assert asked == [True, True, True]
    alone = stream(paired=frozenset())
    assert all(Rows(RowsSettings(), alone).layer(each) is not None for each in alone.blocks)


def pair(width: int = 6) -> PairLayout:
    return PairLayout(visual=stream(8).blocks[2], audio=stream(width).blocks[2], index=2, pairs=3)


@pytest.mark.parametrize("width", [6, 8])
def test_interaction_rows_are_own_prompts_then_those_mapped_from_the_other_stream(width: int) -> None:
    torch.manual_seed(0)
    part = Coupling(CouplingSettings(length=3, reduction=2), stream(8), stream(width))
    layer = CouplingLayer(part.config, pair(width))
    visual, audio = torch.randn(4, 5, 8), torch.randn(4, 7, width)
    edits = layer.attention(visual, audio, At(part))  # type: ignore[arg-type]
    assert layer.bank is not None
    own_v = drawn(summarised(visual, layer.latent_visual)[None], layer.bank.visual[None])[0]
    own_a = drawn(summarised(audio, layer.latent_audio)[None], layer.bank.audio[None])[0]
    wanted = ((own_v, layer.audio_to_visual(own_a)), (own_a, layer.visual_to_audio(own_v)))
    for edit, rows in zip((edits.visual, edits.audio), wanted, strict=True):
        for one, other in zip(rows_of(edit), rows, strict=True):
            torch.testing.assert_close(one, other)


def test_without_a_bank_the_prompts_are_the_same_for_all_samples() -> None:
    part = Coupling(CouplingSettings(length=3, bank_length=0, reduction=2, zero_mapping=True), stream(8), stream(6))
    layer = CouplingLayer(part.config, pair())
    edits = layer.attention(torch.randn(4, 5, 8), torch.randn(4, 7, 6), At(part))  # type: ignore[arg-type]
    own, mapped = rows_of(edits.visual)
    assert torch.equal(own, layer.latent_visual)
    assert mapped.shape == (3, 8)
    assert not mapped.any()


def test_a_bank_for_both_modalities_needs_equal_widths(registry: Registry, data_root: str) -> None:
    with pytest.raises(AVCoreError, match=r"'copl\.coupling' needs equal widths"):
        make(
            registry, data_root, VIT_L, "audio.backbone=vit_base_patch16_224", "parts.copl.coupling.bank_sharing=common"
        )


def features(tokens_v: int, tokens_a: int, width_a: int = 8) -> Features:
    torch.manual_seed(0)

    def one(tokens: int, width: int) -> StreamFeatures:
        x = torch.randn(4, tokens, width)
        return StreamFeatures(pooled=x[:, 0].unflatten(0, (2, 2)), tokens=x, raw_tokens=x, maps=())

    streams = {"visual": one(tokens_v, 8), "audio": one(tokens_a, width_a)}
    return Features(streams=streams, clips=2, segments=2, valid=torch.ones(2, dtype=torch.bool))


def test_consistency_compares_tokens_or_pooled_vectors() -> None:
    part = Coupling(CouplingSettings(), stream(), stream())
    same, other = features(5, 5), features(5, 3)
    visual, audio = same.stream("visual"), same.stream("audio")
    mse = (visual.tokens - audio.tokens).square().mean()
    torch.testing.assert_close(part.losses(same)["consistency"], 0.005 * mse)
    pooled = (other.stream("visual").pooled - other.stream("audio").pooled).square().mean()
    torch.testing.assert_close(part.losses(other)["consistency"], 0.005 * pooled)
    mean = Coupling(CouplingSettings(consistency="mean", consistency_weight=1.0), stream(), stream())
    means = (other.stream("visual").tokens.mean(1) - other.stream("audio").tokens.mean(1)).square().mean()
    torch.testing.assert_close(mean.losses(other)["consistency"], means)


def test_consistency_is_left_out_for_unequal_widths_and_weight_zero() -> None:
    part = Coupling(CouplingSettings(), stream(8), stream(6))
    assert part.losses(features(5, 5, 6)) == {}
    assert Coupling(CouplingSettings(consistency_weight=0.0), stream(), stream()).losses(features(5, 5)) == {}
    with pytest.raises(AVCoreError, match="use auto"):
        Coupling(CouplingSettings(consistency="pooled"), stream(8), stream(6)).losses(features(5, 5, 6))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rows.length=-3", "parts.copl.rows.length must be 0 or more"),
        ("coupling.reduction=0", "parts.copl.coupling.reduction must be 1 or more"),
        ("coupling.last=99", "last=99, but there are 24 blocks"),
        ("coupling.consistency=tokens", "compares 197 with 97 tokens: use auto, pooled or mean"),
    ],
)
def test_settings_out_of_range_are_named(registry: Registry, data_root: str, setting: str, message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        make(registry, data_root, VIT_L, f"parts.copl.{setting}")


def test_the_whole_model_trains_every_parameter_of_copl(registry: Registry, data_root: str) -> None:
    sets = (
        "visual.weights=random",
        "head.width=8",
        "head.size=32",
        "data.size=32",
        "parts.copl.rows.global_flow=carry",
    )
    model = make(registry, data_root, "test_vit", *sets, meta=False).train()
    torch.manual_seed(0)
    batch = Batch(
        frames=torch.randint(0, 256, (2, 5, 3, 160, 160), dtype=torch.uint8),
        waveform=torch.randint(-9999, 9999, (2, 80000), dtype=torch.int16),
        targets={"masks": torch.rand(2, 5, 32, 32).round(), "labelled": torch.ones(2, 5, dtype=torch.bool)},
        names=["a", "b"],
        samples=torch.arange(2),
        valid=torch.ones(2, dtype=torch.bool),
    )
    before = digest(model.towers)
    out = model(batch)
    terms = model.losses(out, batch)
    assert set(terms) == {"mask", "copl.coupling.consistency"}
    model.loss(out, batch).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert digest(model.towers) == before
