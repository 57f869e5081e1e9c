"""Our reading of Mettle: the formulas, every switch, counts, and that nothing enters a backbone."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from side_networks import beside, counted_bytes, walked

import avcore_mettle
from avcore import AVCoreError
from avcore.specs import StageLayout, StreamLayout
from avcore.states import parameter_groups
from avcore.testing import make_batch
from avcore_mettle.distill import Distill
from avcore_mettle.inject import Injection
from avcore_mettle.settings import DistillSettings, InjectSettings

DISTILL, INJECT = "mettle.distill", "mettle.inject"


def mettle(*sets: str, toy: str = "toy_windowed", listed: tuple[str, ...] = (DISTILL,), moved: bool = True) -> Any:
    """A model of which nothing is zero any longer."""
    sets = tuple(f"parts.mettle.{one}" for one in sets)
    return beside(toy, listed, {"avcore-mettle": avcore_mettle}, moved=moved, sets=sets)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"scale": "one", "reduction": "1"},
        {"preserve": "mean", "residual": "true"},
        {"preserve": "none", "residual": "true", "initial": "normal"},
        {"share": "stage", "layers": "ends"},
        {"layers": "last", "last": "2"},
    ],
    ids=str,
)
def test_every_switch_as_written(switches: dict[str, str]) -> None:
    given = {"tokens": "3", "reduction": "2", **switches}
    model = mettle(*(f"distill.{key}={value}" for key, value in given.items())).eval()
    batch = make_batch(model, 2)
    part = model.parts[f"{DISTILL}.visual"]
    blocks = model.towers["visual"].layout.blocks
    read = {
        "ends": [block for block in blocks if block.index in (1, 4)],
        "last": list(blocks[-2:]),
    }.get(switches.get("layers", ""), list(blocks))
    assert sorted(map(int, part.layers)) == [block.index for block in read]
    means = []
    with torch.no_grad():
        seen = walked(model, "visual", batch)
        for block in read:
            x, layer = seen[block.index], part.layers[str(block.index)]
            own = part.shared[str(block.stage)] if switches.get("share") == "stage" else layer.attention_in
            m, width = layer.tokens, block.width
            unscaled = switches.get("scale") == "one"
            inner = own.query.weight.shape[0]
            scores = (m @ own.query.weight.T) @ (x @ own.key.weight.T).mT / (1 if unscaled else math.sqrt(inner))
            z = scores.softmax(-1) @ (x @ own.value.weight.T) @ own.out.weight.T
            if switches.get("preserve", "att") == "att":
                z = z + (m @ x.mT / (1 if unscaled else math.sqrt(width))).softmax(-1) @ x
            elif switches["preserve"] == "mean":
                z = z + x.mean(1, keepdim=True)
            z = layer.norm(z + m if "residual" in switches else z)
            stages = {each.stage for each in read}
            means.append(part.maps[str(block.stage)](z.mean(1)) if len(stages) > 1 else z.mean(1))
        found = model.features(batch).stream("visual").pooled.flatten(0, 1)
    torch.testing.assert_close(found, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


def test_maps_are_guided_by_the_tokens_of_both_last_blocks() -> None:
    sets = ("distill.tokens=3", "distill.layers=last", "inject.reduction=2")
    model = mettle(*sets, listed=(DISTILL, INJECT)).eval()
    batch = make_batch(model, 2)
    with torch.no_grad():
        features, plain = model.features(batch), model.plain("visual", batch)
        v, a = (features.offers[f"{DISTILL}.{stream}.tokens"][-1] for stream in ("visual", "audio"))
        for one, before, after in zip(
            model.parts[INJECT].injections, plain.maps, features.stream("visual").maps, strict=True
        ):
            s = torch.cat([one.from_visual(v), one.from_audio(a)], 1)
            f = before.flatten(2).mT
            read = (f @ s.mT / math.sqrt(f.shape[-1])).softmax(-1) @ s
            f = f + one.gate * one.up(torch.nn.functional.gelu(one.down(read)))
            torch.testing.assert_close(after, f.mT.view_as(before), rtol=1e-4, atol=1e-5)


def test_maps_are_those_of_the_backbone_at_first() -> None:
    model = mettle("distill.layers=last", listed=(DISTILL, INJECT), moved=False).eval()
    batch = make_batch(model, 2)
    with torch.no_grad():
        pairs = zip(model.features(batch).stream("visual").maps, model.plain("visual", batch).maps, strict=True)
        assert all(torch.equal(after, before) for after, before in pairs)


@pytest.mark.parametrize("toy", ["toy_plain", "toy_windowed"])
def test_no_gradient_enters_a_backbone_and_blocks_keep_no_byte(toy: str) -> None:
    model = mettle(toy=toy, listed=(DISTILL, INJECT)).train()
    batch = make_batch(model, 2)
    graphs: list[Any] = []
    for step in model.steps:
        step.register_forward_hook(lambda _, given, made: graphs.extend(x.grad_fn for x in made[0].values()))
    with counted_bytes() as kept:
        features = model.features(batch)
    assert set(graphs) == {None}
    # All that is kept is what the part keeps on tokens that are there already.
    with torch.no_grad():
        frozen = model.features(batch)
        seen = {stream: walked(model, stream, batch) for stream in ("visual", "audio")}
    with counted_bytes() as alone:
        offers = {
            f"{DISTILL}.{stream}.tokens": [
                layer.read(tokens[int(index)], None)["tokens"]
                for index, layer in model.parts[f"{DISTILL}.{stream}"].layers.items()
            ]
            for stream, tokens in seen.items()
        }
        for name in (f"{DISTILL}.visual", f"{DISTILL}.audio", INJECT):
            model.parts[name].finish(replace(frozen, offers=offers))
    assert sum(kept) == sum(alone) > 0
    reached = [x for one in features.streams.values() for x in (one.pooled, *one.maps)]
    torch.stack([x.square().sum() for x in reached if x.requires_grad]).sum().backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def stream(widths: tuple[int, ...], depths: tuple[int, ...]) -> StreamLayout:
    stages = [
        StageLayout(width=width, heads=1, depth=depth, grid=(4, 4)) for width, depth in zip(widths, depths, strict=True)
    ]
    return StreamLayout(stages=tuple(stages), segments=10)


SWIN_LARGE = stream((192, 384, 768, 1536), (2, 2, 18, 2))
HTSAT = stream((96, 192, 384, 768), (2, 2, 6, 2))


def counted(layout: StreamLayout, **settings: Any) -> dict[str, int]:
    with torch.device("meta"):
        part = Distill(DistillSettings(**settings), layout)
        layers: list[Any] = [part.layer(block) for block in layout.blocks]
    size = {
        "maps": part.maps.parameters(),
        "tokens": [layer.tokens for layer in layers],
        "norms": [one for layer in layers for one in layer.norm.parameters()],
        "attention": [one for layer in layers for one in layer.attention_in.parameters()],
    }
    return {name: sum(one.numel() for one in made) for name, made in size.items()}


@pytest.mark.parametrize(("reduction", "visual", "audio"), [(1, 62.82, 8.63), (8, 7.852, 1.078), (16, 3.926, 0.539)])
def test_counts(reduction: int, visual: float, audio: float) -> None:
    """Our arithmetic, by which a printed figure can decide between readings, once one is at hand."""
    seen, heard = (counted(layout, reduction=reduction) for layout in (SWIN_LARGE, HTSAT))
    digits = 3 if reduction > 1 else 2
    assert (round(seen["attention"] / 1e6, digits), round(heard["attention"] / 1e6, digits)) == (visual, audio)
    assert seen["tokens"] + heard["tokens"] == 22_464 * 8
    assert seen["norms"] + heard["norms"] == 2 * 22_464
    assert (seen["maps"], heard["maps"]) == (4_429_824, 1_108_992)


def test_refusals() -> None:
    with pytest.raises(AVCoreError, match="preserve"):
        mettle("distill.preserve=none")
    with pytest.raises(AVCoreError, match="tokens"):
        mettle("distill.tokens=0")
    alone = mettle(listed=(INJECT,))
    with pytest.raises(AVCoreError, match=r"'mettle\.inject' reads the tokens of prompt 'mettle\.distill'"):
        alone.features(make_batch(alone, 2))


def test_an_injection_keeps_the_shape_of_its_map() -> None:
    made = Injection(InjectSettings(), 12, 16, 8)
    f = torch.randn(2, 12, 3, 4)
    assert torch.equal(made(f, torch.randn(2, 5, 16), torch.randn(2, 5, 8)), f)
