"""Ladders: the equations, what leaves the towers alone, counts, every setting."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from side_networks import beside
from torch import Tensor, nn

import avcore_ave
import avcore_ladder
import avcore_timm
from avcore import AVCoreError, BlockLayout
from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.injection import PairLayout
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.specs import StageLayout, StreamLayout
from avcore.states import parameter_groups
from avcore.testing import make_batch
from avcore_ladder.ladder import SideLayer
from avcore_ladder.settings import AloneSettings, SideSettings
from avcore_ladder.side import Exchange, Merge, Rung, SideBlock, cut, heads_of, joined, means, taken, width_of

SIDE, ALONE = "ladder.side", "ladder.alone"


def ladder(*listed: str, toy: str = "toy_windowed", **options: Any) -> AVModel:
    """Ladders on a toy, of which nothing is zero any longer."""
    made: AVModel = beside(toy, listed or (SIDE,), {"avcore-ladder": avcore_ladder}, **options)
    return made


def stages(*given: tuple[int, tuple[int, int]], prefix: int = 0, window: tuple[int, int] | None = None) -> StreamLayout:
    """Two blocks for each (width, grid)."""
    made = tuple(
        StageLayout(width=width, heads=4, depth=2, grid=grid, prefix=prefix, window=window) for width, grid in given
    )
    depth = 2 * len(made)
    return StreamLayout(stages=made, segments=2, taps=(depth - 1,), paired=frozenset(range(depth)), name="visual")


# ------------------------------------------------------------------------------------------------------ the equations


@pytest.mark.parametrize(("temperature", "alpha"), [(0.1, 0.0), (0.1, 0.05), (2.0, -1.0)])
def test_a_rung_is_the_equation_of_the_paper(temperature: float, alpha: float) -> None:
    first, second = stages((64, (3, 3)), prefix=1).blocks[:2]
    rung = Rung(AloneSettings(temperature=temperature), second, first)
    assert rung.alpha is not None
    rung.alpha.data.fill_(alpha)
    read, below = torch.randn(2, 10, 8), torch.randn(2, 10, 8)
    mu = 1 / (1 + torch.exp(torch.tensor(-alpha / temperature)))
    torch.testing.assert_close(rung.mix(read, below), mu * read + (1 - mu) * below)
    assert torch.equal(Rung(AloneSettings(), first, None).mix(read, None), read)
    assert Rung(AloneSettings(), first, None).alpha is None


def test_a_side_block_is_a_transformer_block_of_its_width() -> None:
    block = SideBlock(AloneSettings(), stages((128, (3, 3)), prefix=1).blocks[0])
    assert (block.heads, block.window) == (2, None)
    s = torch.randn(2, 10, 16)
    q, k, v = block.qkv(block.norm1(s)).chunk(3, -1)
    mixed = [torch.softmax(q[..., h : h + 8] @ k[..., h : h + 8].mT / 8**0.5, -1) @ v[..., h : h + 8] for h in (0, 8)]
    middle = s + block.proj(torch.cat(mixed, -1))
    expected = middle + block.fc2(F.gelu(block.fc1(block.norm2(middle))))
    torch.testing.assert_close(block(s), expected)


def test_within_windows_each_window_goes_its_own_way() -> None:
    (layout, *_) = stages((64, (4, 6)), window=(2, 3)).blocks
    block = SideBlock(AloneSettings(), layout)
    s = torch.randn(3, 24, 8)
    assert torch.equal(joined(cut(s, (4, 6), (2, 3)), (4, 6), (2, 3)), s)
    changed = s.clone()
    changed.unflatten(1, (4, 6))[:, :2, :3] += torch.randn(3, 2, 3, 8)
    apart = (block(changed) - block(s)).unflatten(1, (4, 6)).abs().amax((0, -1)) > 0
    assert apart[:2, :3].all()
    assert apart.sum() == 6


def test_windows_that_do_not_cut_the_grid_are_left_out() -> None:
    for given in ({"window": (4, 4)}, {"window": (3, 3), "prefix": 1}, {"window": (6, 6)}):
        assert SideBlock(AloneSettings(), stages((64, (6, 6)), **given).blocks[0]).window is None


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_merge_lays_neighbours_side_by_side(prefix: int) -> None:
    blocks = stages((64, (4, 6)), (128, (2, 3)), prefix=prefix).blocks
    merge = Merge(AloneSettings(), blocks[1], blocks[2])
    s = torch.randn(2, prefix + 24, 8)
    normed = merge.norm(s)
    grid = normed[:, prefix:].unflatten(1, (4, 6))
    cell = torch.cat([grid[:, 2, 4], grid[:, 2, 5], grid[:, 3, 4], grid[:, 3, 5]], -1)
    made = merge(s)
    assert made.shape == (2, prefix + 6, 16)
    torch.testing.assert_close(made[:, prefix + 5], merge.map(cell))
    if prefix:
        torch.testing.assert_close(made[:, 1], merge.map(normed[:, 1].repeat(1, 4)))


def test_grids_that_do_not_merge_are_refused() -> None:
    blocks = stages((64, (5, 6)), (128, (2, 3))).blocks
    with pytest.raises(AVCoreError, match=r"from block 1 to block 2: 0 and a grid of \(5, 6\) there.*--fusion none"):
        Merge(AloneSettings(), blocks[1], blocks[2])


def test_the_exchange_attends_to_means_of_cells_and_the_class_token() -> None:
    own, other = stages((64, (2, 2))).blocks[0], stages((128, (5, 4)), prefix=1).blocks[0]
    average = means(other, (2, 2))
    assert average.shape == (5, 21)
    torch.testing.assert_close(average.sum(1), torch.ones(5))
    patches = torch.arange(20.0).view(5, 4)
    expected = [patches[:2, :2].mean(), patches[:2, 2:].mean(), patches[2:, :2].mean(), patches[2:, 2:].mean()]
    tokens = torch.cat([torch.tensor([7.0]), patches.flatten()])
    torch.testing.assert_close(average @ tokens, torch.stack([torch.tensor(7.0), *expected]))
    exchange = Exchange(AloneSettings(), own, other, 2)
    s, read = torch.randn(3, 4, 8), torch.randn(3, 21, 16)
    seen = average @ exchange.norm_other(read)
    k, v = exchange.key_value(seen).chunk(2, -1)
    mixed = torch.softmax(exchange.query(exchange.norm(s)) @ k.mT / 8**0.5, -1) @ v
    torch.testing.assert_close(exchange(s, read), exchange.proj(mixed))


def test_both_streams_exchange_what_they_were_before() -> None:
    layout = stages((64, (2, 2)))
    pair = PairLayout(visual=layout.blocks[0], audio=layout.blocks[0], index=0, pairs=4)
    layer = SideLayer(SideSettings(), pair, {})
    swapped = SideLayer(SideSettings(), pair, {})
    for one, other in (("visual", "audio"), ("audio", "visual")):
        for kind in ("rungs", "exchange"):
            getattr(swapped, kind)[one].load_state_dict(getattr(layer, kind)[other].state_dict())
    v, a = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    torch.testing.assert_close(layer.climb(v, a, None, None), swapped.climb(a, v, None, None)[::-1])


def test_every_nth_block_is_counted_from_the_last() -> None:
    blocks = stages((64, (2, 2)), (64, (2, 2)), (64, (2, 2))).blocks
    assert [block.index for block in taken(blocks, 1)] == [0, 1, 2, 3, 4, 5]
    assert [block.index for block in taken(blocks, 4)] == [1, 5]
    model = ladder(sets=("parts.ladder.side.every=2",))
    assert list(model.parts[SIDE].layers) == ["0", "2", "4"]
    assert list(ladder(ALONE, sets=("parts.ladder.alone.every=3",)).parts[f"{ALONE}.audio"].layers) == ["1", "4"]


# ----------------------------------------------------------------------------------- no gradient enters the backbones


@pytest.mark.parametrize("listed", [SIDE, ALONE])
@pytest.mark.parametrize("toy", ["toy_plain", "toy_windowed"])
def test_blocks_keep_nothing_and_have_no_graph(listed: str, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ladder(listed, toy=toy).train()
    batch = make_batch(model, 2)
    within: list[str] = []
    kept: list[tuple[str, ...]] = []

    def watching(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            within.append(name)
            try:
                return function(*given, **named)
            finally:
                within.pop()

        return call

    called = 0
    for step in model.steps:
        for block in dict.fromkeys(step.blocks.values()):
            for name in ("attention", "mlp"):
                monkeypatch.setattr(block, name, watching(name, getattr(block, name)))
                called += 1
    graphs: list[Any] = []
    for step in model.steps:
        step.register_forward_hook(lambda _, given, made: graphs.extend(x.grad_fn for x in made[0].values()))

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(within))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = model.features(batch)
    assert called
    assert graphs
    assert set(graphs) == {None}
    assert kept
    assert not [place for place in kept if place]
    for stream in features.streams.values():
        assert not stream.raw_tokens.requires_grad
        assert stream.pooled.requires_grad


def test_every_parameter_trains_and_nothing_frozen_does() -> None:
    model = ladder(sets=("parts.ladder.side.maps=both",)).train()
    batch, before = make_batch(model, 2), digest(model.towers)
    features = model.features(batch)
    reached = [x for one in features.streams.values() for x in (one.pooled, one.tokens, *one.maps)]
    torch.stack([x.square().sum() for x in reached]).sum().backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert digest(model.towers) == before
    assert all(parameter.grad is None for parameter in model.towers.parameters())


def test_running_rungs_again_changes_no_gradient_and_keeps_less() -> None:
    found = []
    for recompute in ("true", "false"):
        model = ladder(sets=(f"parts.ladder.side.recompute={recompute}",)).train()
        kept: dict[int, int] = {}

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        batch = make_batch(model, 2)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model.loss(model(batch), batch)
        loss.backward()
        gradients = [parameter.grad for _, parameter in parameter_groups(model)["parts"]]
        found.append((loss, gradients, sum(kept.values())))
    (loss, gradients, less), (expected, others, more) = found
    assert torch.equal(loss, expected)
    torch.testing.assert_close(gradients, others)
    assert less < more / 2


# ----------------------------------------------------------------------------------------------- what comes of features


def test_what_a_ladder_adds_is_up_of_its_last_rung() -> None:
    for toy, pool in (("toy_plain", "class"), ("toy_windowed", "mean")):
        model = ladder(toy=toy)
        batch = make_batch(model, 2)
        with torch.no_grad():
            features, plain = model.features(batch), model.plain("audio", batch)
        audio = features.stream("audio")
        added = audio.tokens - plain.tokens
        layout = model.streams["audio"].layout
        assert layout.pool == pool
        prefix = layout.stages[-1].prefix
        vector = added[:, 0] if pool == "class" else added[:, prefix:].mean(1)
        torch.testing.assert_close((audio.pooled - plain.pooled).flatten(0, 1), vector, rtol=1e-4, atol=1e-5)
        in_map = (audio.maps[-1] - plain.maps[-1]).flatten(2).mT
        torch.testing.assert_close(in_map, added[:, prefix:], rtol=1e-4, atol=1e-5)
        assert added.abs().max() > 0.01
        assert torch.equal(audio.raw_tokens, plain.raw_tokens)


@pytest.mark.parametrize(("maps", "changed"), [("last", ()), ("visual", ("visual",)), ("both", ("visual", "audio"))])
def test_maps_before_the_last_one_change_where_they_are_wanted(maps: str, changed: tuple[str, ...]) -> None:
    model = ladder(sets=(f"parts.ladder.side.maps={maps}",))
    batch = make_batch(model, 2)
    with torch.no_grad():
        features = model.features(batch)
        for stream in ("visual", "audio"):
            plain, made = model.plain(stream, batch).maps, features.stream(stream).maps
            assert len(plain) == len(made) > 1
            for before, after in zip(plain[:-1], made[:-1], strict=True):
                assert torch.equal(before, after) != (stream in changed)
            assert not torch.equal(plain[-1], made[-1])


def test_a_map_is_changed_by_its_own_rung_and_by_none_of_another_stage() -> None:
    model = ladder(sets=("parts.ladder.side.every=4",))  # rungs at blocks 0 and 4 of stages of 2 and 3
    back: Any = model.parts[SIDE].back["visual"]  # type: ignore[index]
    layout = model.streams["visual"].layout
    stage_of = {tap: layout.blocks[tap].stage for tap in layout.taps}
    expected = {number: 0 for number, tap in enumerate(layout.taps[:-1]) if stage_of[tap] == 0}
    assert back.rungs == expected


@pytest.mark.parametrize(("cells", "heard"), [(4, True), (1, True), (0, False)])
def test_streams_hear_of_each_other_through_the_exchange_alone(cells: int, heard: bool) -> None:
    model = ladder(sets=(f"parts.ladder.side.cells={cells}",))
    batch = make_batch(model, 2)
    assert batch.waveform is not None
    with torch.no_grad():
        before = model.features(batch).stream("visual").tokens
        batch.waveform.copy_(batch.waveform.flip(0))
        after = model.features(batch).stream("visual").tokens
    assert torch.equal(before, after) != heard


@pytest.mark.parametrize("stream", ["visual", "audio"])
def test_one_stream_has_a_ladder_of_its_own(stream: str) -> None:
    model = ladder(ALONE, streams=stream)
    assert set(model.parts) == {f"{ALONE}.{stream}"}
    batch = make_batch(model, 2)
    with torch.no_grad():
        assert not torch.equal(model.features(batch).stream(stream).pooled, model.plain(stream, batch).pooled)


def test_one_stream_has_nobody_to_exchange_with() -> None:
    with pytest.raises(AVCoreError, match=r"'ladder\.side' needs both streams.*--fusion none"):
        ladder(SIDE, streams="visual")


def test_a_last_pair_before_the_last_stage_is_refused() -> None:
    with pytest.raises(AVCoreError, match=r"number 1, in stage 0, but its features leave stage 1: pair later blocks"):
        ladder(sets=("plan.pairing=[[0,0],[1,1]]",))


# -------------------------------------------------------------------------------------------------- counts and settings


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def side_block(w: int) -> int:
    return 4 * w + linear(w, 3 * w) + linear(w, w) + linear(w, 4 * w) + linear(4 * w, w)


def exchange(own: int, other: int) -> int:
    return 2 * own + 2 * other + own * own + other * 2 * own + linear(own, own)


def expected_count(widths: list[int], depths: list[int], reduction: int, maps: int) -> int:
    """Of both streams on one backbone; ``maps`` is how many maps before the last change, of which widths the first."""
    total = 0
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        w = width // reduction
        total += depth * 2 * (linear(width, w) + side_block(w) + exchange(w, w))
        total += 2 * (depth - (stage == 0))  # gates
        if stage:
            narrow = widths[stage - 1] // reduction
            total += 2 * (2 * narrow + 4 * narrow * w)
    ups = [2 * (w := width // reduction) + linear(w, width) for width in widths]
    return total + 2 * ups[-1] + sum(ups[:maps] if len(widths) > 1 else ups * maps)


@pytest.mark.parametrize(
    ("recipe", "maps", "widths", "depths", "exact"),
    [
        ("vit", "last", [768], [12], 5_501_590),
        ("vit", "visual", [768], [12], 5_725_654),
        ("swin", "last", [192, 384, 768, 1536], [2, 2, 18, 2], 12_651_694),
        ("swin", "visual", [192, 384, 768, 1536], [2, 2, 18, 2], 12_750_142),
    ],
)
def test_parameters_to_the_digit(recipe: str, maps: str, widths: list[int], depths: list[int], exact: int) -> None:
    registry = Registry.from_modules(
        {"avcore-timm": avcore_timm, "avcore-ladder": avcore_ladder, "avcore-ave": avcore_ave}
    )
    sets = (f"parts.ladder.side.maps={maps}",)
    config = resolve_config(registry, method="ladder", task="ave", recipe=recipe, sets=sets, need_data=False).config
    count = count_parameters(assemble(config, registry, meta=True)).parts[SIDE].parameters
    assert count == expected_count(widths, depths, 8, 3 if maps == "visual" else 0)
    assert count == exact


def test_widths_and_heads_follow_from_the_block() -> None:
    def at(width: int, heads: int) -> BlockLayout:
        stage = StageLayout(width=width, heads=heads, depth=1, grid=(2, 2))
        return StreamLayout(stages=(stage,), segments=1).blocks[0]

    assert [width_of(at(width, 4), 8) for width in (1024, 768, 40)] == [128, 96, 8]
    # ViT-B: 12 of 8 numbers. Swin-L: 6 of 4 would be too narrow.
    assert [heads_of(at(768, 12), 96), heads_of(at(192, 6), 24), heads_of(at(16, 2), 8)] == [12, 3, 1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reduction=0", "reduction must be 1 or more"),
        ("temperature=0", "temperature must be above 0"),
        ("dropout=1", "dropout must be from 0 to below 1"),
        ("every=0", "every must be 1 or more"),
        ("cells=-1", "cells must be 0 or more"),
        ("maps=first", "maps"),
    ],
)
def test_settings_out_of_range_are_named(setting: str, message: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.ladder\.side\.{message}"):
        ladder(sets=(f"parts.ladder.side.{setting}",))


def test_dropout_draws_in_training_alone() -> None:
    model = ladder(sets=("parts.ladder.side.dropout=0.5",))
    batch = make_batch(model, 2)
    dropped = [module for module in model.parts[SIDE].modules() if isinstance(module, nn.Dropout)]
    assert {module.p for module in dropped} == {0.5}
    with torch.no_grad():
        assert torch.equal(model.features(batch).visual.tokens, model.features(batch).visual.tokens)  # type: ignore[union-attr]
        model.train()
        assert not torch.equal(model.features(batch).visual.tokens, model.features(batch).visual.tokens)  # type: ignore[union-attr]
