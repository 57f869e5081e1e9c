"""DTL: the residual, the convolution, what streams hear of each other, counts, every setting."""

from typing import Any

import pytest
import torch
from side_networks import beside, walked

import avcore_ave
import avcore_ladder
import avcore_timm
from avcore import AVCoreError
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.states import parameter_groups
from avcore.testing import make_batch

SIDE, ALONE = "dtl.side", "dtl.alone"


def dtl(*listed: str, toy: str = "toy_plain", **options: Any) -> AVModel:
    """DTL on a toy, of which nothing is zero any longer."""
    made: AVModel = beside(toy, listed or (SIDE,), {"avcore-ladder": avcore_ladder}, **options)
    return made


def swish(h: torch.Tensor, beta: float) -> torch.Tensor:
    return h / (1 + torch.exp(-beta * h))


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_on_one_stage_it_is_the_residual_of_the_paper(beta: float) -> None:
    model = dtl(ALONE, sets=(f"parts.dtl.alone.beta={beta}", "parts.dtl.alone.rank=2"))
    batch = make_batch(model, 2)
    part: Any = model.parts[f"{ALONE}.visual"]
    with torch.no_grad():
        features, plain = model.features(batch).stream("visual"), model.plain("visual", batch)
        h, residuals = torch.tensor(0.0), []
        for index, tokens in enumerate(walked(model, "visual", batch)):
            layer = part.layers[str(index)].maps
            h = h + tokens @ layer.down.weight.T @ layer.up.weight.T
            residuals.append(h)
    torch.testing.assert_close(features.tokens - plain.tokens, swish(h, beta), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        features.pooled - plain.pooled, swish(h, beta)[:, 0].unflatten(0, (2, 2)), rtol=1e-3, atol=1e-5
    )
    # A map takes the residual as it is there.
    layout = model.streams["visual"].layout
    assert len(layout.taps) == 4
    for tap, before, after in zip(layout.taps, plain.maps, features.maps, strict=True):
        added = (after - before).flatten(2).mT
        torch.testing.assert_close(
            added, swish(residuals[tap], beta)[:, layout.stages[0].prefix :], rtol=1e-3, atol=1e-5
        )


def test_codes_of_earlier_stages_reach_the_features_by_the_means_of_their_cells() -> None:
    model = dtl(ALONE, toy="toy_windowed", sets=("parts.dtl.alone.beta=2",))
    batch = make_batch(model, 2)
    part: Any = model.parts[f"{ALONE}.visual"]
    layout = model.streams["visual"].layout
    (rows, columns), last = layout.stages[0].grid, layout.stages[1].grid
    h, first = torch.tensor(0.0), torch.tensor(0.0)
    with torch.no_grad():
        features, plain = model.features(batch).stream("visual"), model.plain("visual", batch)
        for block, tokens in zip(layout.blocks, walked(model, "visual", batch), strict=True):
            maps = part.layers[str(block.index)].maps
            code = tokens @ maps.down.weight.T
            if block.stage == 0:
                first = first + code @ maps.own.weight.T
                cells = code.unflatten(1, (last[0], rows // last[0], last[1], columns // last[1]))
                code = cells.mean((2, 4)).flatten(1, 2)
            h = h + code @ maps.up.weight.T
    torch.testing.assert_close(features.tokens - plain.tokens, swish(h, 2.0), rtol=1e-3, atol=1e-5)
    in_map = (features.maps[0] - plain.maps[0]).flatten(2).mT
    torch.testing.assert_close(in_map, swish(first, 2.0), rtol=1e-3, atol=1e-5)


def test_the_convolution_goes_over_the_patches_of_each_component() -> None:
    model = dtl(ALONE, sets=("parts.dtl.alone.conv=3", "parts.dtl.alone.maps=last"))
    part: Any = model.parts[f"{ALONE}.audio"]
    batch = make_batch(model, 2)
    with torch.no_grad():
        plain = model.plain("audio", batch).tokens
        made = model.features(batch).stream("audio").tokens - plain
        conv, part.residual.conv = part.residual.conv, None
        bare = model.features(batch).stream("audio").tokens - plain
    assert conv.weight.shape == (16, 1, 3, 3)
    prefix = model.streams["audio"].layout.stages[0].prefix
    assert prefix
    torch.testing.assert_close(made[:, :prefix], bare[:, :prefix])
    grid = bare[:, prefix:].mT.unflatten(2, model.streams["audio"].layout.stages[0].grid)
    middle = (grid[:, :, :3, :3] * conv.weight[:, 0]).sum((2, 3))
    found = made[:, prefix:].mT.unflatten(2, grid.shape[2:])[:, :, 1, 1]
    torch.testing.assert_close(found, middle, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("exchange", [True, False])
def test_codes_hear_the_mean_code_of_the_other_stream(exchange: bool) -> None:
    model = dtl(sets=(f"parts.dtl.side.exchange={str(exchange).lower()}",))
    batch = make_batch(model, 2)
    assert batch.waveform is not None
    part: Any = model.parts[SIDE]
    with torch.no_grad():
        features = model.features(batch)
        layer = part.layers["1"]
        v, a = (walked(model, name, batch)[1] @ layer.maps[name].down.weight.T for name in ("visual", "audio"))
        heard = a.mean(1, keepdim=True) @ layer.hear["visual"].weight.T if exchange else torch.zeros(1)
        torch.testing.assert_close(features.offers[f"{SIDE}.visual"][1], v + heard, rtol=1e-4, atol=1e-5)
        before = features.stream("visual").tokens
        batch.waveform.copy_(batch.waveform.flip(0))
        assert torch.equal(before, model.features(batch).stream("visual").tokens) != exchange


@pytest.mark.parametrize("toy", ["toy_plain", "toy_windowed"])
def test_no_gradient_enters_a_backbone(toy: str) -> None:
    model = dtl(toy=toy, sets=("parts.dtl.side.conv=3", "parts.dtl.side.maps=both")).train()
    batch = make_batch(model, 2)
    graphs: list[Any] = []
    for step in model.steps:
        step.register_forward_hook(lambda _, given, made: graphs.extend(x.grad_fn for x in made[0].values()))
    features = model.features(batch)
    assert set(graphs) == {None}
    reached = [x for one in features.streams.values() for x in (one.pooled, one.tokens, *one.maps)]
    torch.stack([x.square().sum() for x in reached]).sum().backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("recipe", "sets", "exact"),
    [
        # The paper's 36,864 of ViT-B at rank 2 for each stream, and what the streams hear: 2 * 12 * 2 * 2.
        ("vit", (), 2 * 36_864 + 96),
        ("vit", ("exchange=false",), 2 * 36_864),
        ("vit", ("exchange=false", "conv=5"), 2 * (36_864 + 25 * 768)),
        # Down from 192, 384, 768 and 1536, up to 1536, 24 blocks; then what maps of the first three stages take.
        ("swin", ("exchange=false",), 2 * 4 * (2 * 192 + 2 * 384 + 18 * 768 + 2 * 1536 + 24 * 1536)),
        ("swin", (), 2 * 4 * (2 * 192 + 2 * 384 + 18 * 768 + 2 * 1536 + 24 * 1536) + 2 * 24 * 16),
        (
            "swin",
            ("exchange=false", "maps=visual"),
            2 * 4 * (2 * 192 + 2 * 384 + 18 * 768 + 2 * 1536 + 24 * 1536) + 4 * (2 * 192 + 2 * 384 + 18 * 768),
        ),
    ],
)
def test_parameters_to_the_digit(recipe: str, sets: tuple[str, ...], exact: int) -> None:
    registry = Registry.from_modules(
        {"avcore-timm": avcore_timm, "avcore-ladder": avcore_ladder, "avcore-ave": avcore_ave}
    )
    given = tuple(f"parts.dtl.side.{one}" for one in sets)
    config = resolve_config(registry, method="dtl", task="ave", recipe=recipe, sets=given, need_data=False).config
    assert count_parameters(assemble(config, registry, meta=True)).parts[SIDE].parameters == exact


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rank=0", "rank must be 1 or more"),
        ("beta=0", "beta must be above 0"),
        ("conv=4", "conv must be 0 or an odd number"),
        ("every=0", "every must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_named(setting: str, message: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.dtl\.side\.{message}"):
        dtl(sets=(f"parts.dtl.side.{setting}",))


def test_a_last_pair_before_the_last_stage_is_refused() -> None:
    with pytest.raises(AVCoreError, match="number 1, in stage 0, but its features leave stage 1: pair later blocks"):
        dtl(toy="toy_windowed", sets=("plan.pairing=[[0,0],[1,1]]",))
