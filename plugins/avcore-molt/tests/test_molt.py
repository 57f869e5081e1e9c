"""Our reading of MoLT: the formulas, every switch, counts, and that nothing enters a backbone."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from side_networks import beside, counted_bytes, walked
from torch import Tensor

import avcore_molt
from avcore import AVCoreError
from avcore.specs import STREAMS
from avcore.states import parameter_groups
from avcore.testing import make_batch
from avcore_molt.fusion import Distilled, TokenFusion, orthogonality
from avcore_molt.settings import MoLTSettings

OTHER = {"visual": "audio", "audio": "visual"}


def molt(*sets: str, toy: str = "toy_windowed") -> Any:
    """A model of which nothing is zero any longer."""
    sets = tuple(f"parts.molt.{one}" for one in sets)
    return beside(toy, ("molt",), {"avcore-molt": avcore_molt}, sets=sets)


def by_hand(side: Any, x: Tensor, y: Tensor, *, scaled: bool, routed: bool) -> Any:
    y2 = y @ side.map.weight.T + side.map.bias
    made = []
    for latents, read, adapter in ((side.own, x, side.own_adapter), (side.cross, y2, side.cross_adapter)):
        scores = latents @ read.mT / (math.sqrt(x.shape[-1]) if scaled else 1)
        u = latents + scores.softmax(-1) @ read
        made.append(u + adapter.up(torch.nn.functional.gelu(adapter.down(adapter.norm(u)))))
    if not routed:
        return sum(made) / 2
    w = side.router(torch.cat([x.mean(1), y2.mean(1)], -1)).softmax(-1)
    return w[:, 0, None, None] * made[0] + w[:, 1, None, None] * made[1]


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"scale": "one", "initial": "uniform", "reduction": "1"},
        {"router": "equal", "last": "2"},
        {"fusion": "mean", "tokens": "5", "last": "1"},
    ],
    ids=str,
)
def test_every_switch_as_written(switches: dict[str, str]) -> None:
    given = {"tokens": "3", "reduction": "2", **switches}
    model = molt(*(f"{key}={value}" for key, value in given.items())).double().eval()
    batch, part = make_batch(model, 2), model.parts["molt"]
    with torch.no_grad():
        features = model.features(batch)
        assert len(part.layers) == int(switches.get("last", "4"))
        seen = {stream: walked(model, stream, batch) for stream in STREAMS}
        for stream in STREAMS:
            layers = []
            for index, layer in part.layers.items():
                x, y = seen[stream][int(index)], seen[OTHER[stream]][int(index)]
                routed, scaled = "router" not in switches, "scale" not in switches
                layers.append(by_hand(getattr(layer, stream), x, y, scaled=scaled, routed=routed))
            fused = part.fusions[stream]
            if fused.maps is not None:
                layers = [to(z) for to, z in zip(fused.maps, layers, strict=True)]
            if "fusion" in switches:
                alpha = [1 / len(layers)] * len(layers)
            else:
                scores = torch.stack([fused.score(z.mean(1)) for z in layers]).softmax(0)
                alpha = [one[..., None] for one in scores]
            z: Any = sum(weight * one for weight, one in zip(alpha, layers, strict=True))
            found = features.stream(stream).pooled.flatten(0, 1)
            torch.testing.assert_close(found, z.mean(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kept", ["tokens", "latents"])
def test_the_loss_keeps_latent_tokens_of_valid_clips_apart(kept: str) -> None:
    model = molt("tokens=3", "last=2", f"orthogonal={kept}", "orthogonality=0.5")
    batch, part = make_batch(model, 2), model.parts["molt"]
    features = replace(model.features(batch), valid=torch.tensor([True, False]))
    if kept == "tokens":
        read = [z[: features.segments] for stream in STREAMS for z in features.offers[f"molt.{stream}"]]
    else:
        sides = [getattr(layer, stream) for layer in part.layers.values() for stream in STREAMS]
        read = [one[None] for side in sides for one in (side.own, side.cross)]
    terms = []
    for z in read:
        z = z / z.norm(dim=-1, keepdim=True)
        terms.append(((z @ z.mT - torch.eye(3)) ** 2).sum((1, 2)).mean() / 6)
    torch.testing.assert_close(part.losses(features)["orthogonality"], 0.5 * torch.stack(terms).mean())


def test_orthogonal_tokens_cost_nothing_and_equal_ones_cost_one() -> None:
    assert orthogonality(3 * torch.eye(4)[None]).tolist() == pytest.approx([0], abs=1e-6)
    assert orthogonality(torch.ones(2, 4, 5)).tolist() == pytest.approx([1, 1])
    assert molt("orthogonality=0").parts["molt"].losses(None) == {}


@pytest.mark.parametrize("toy", ["toy_plain", "toy_windowed"])
def test_no_gradient_enters_a_backbone_and_blocks_keep_no_byte(toy: str) -> None:
    model = molt(toy=toy).train()
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
        seen = {stream: walked(model, stream, batch) for stream in STREAMS}
    part = model.parts["molt"]
    with counted_bytes() as alone:
        offered = [
            layer.read(seen["visual"][int(index)], seen["audio"][int(index)], None)
            for index, layer in part.layers.items()
        ]
        offers = {f"molt.{stream}": [one[stream] for one in offered] for stream in STREAMS}
        part.finish(replace(frozen, offers=offers))
    assert sum(kept) == sum(alone) > 0
    with torch.no_grad():
        for stream in STREAMS:
            assert torch.equal(features.stream(stream).tokens, model.plain(stream, batch).tokens)
    reached = sum(one.pooled.square().sum() for one in features.streams.values())
    (reached + part.losses(features)["orthogonality"]).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("n", "d", "other", "k"), [(2, 1536, 768, 192), (2, 768, 1536, 96), (4, 768, 768, 96)])
def test_counts(n: int, d: int, other: int, k: int) -> None:
    """2nd + d'd + d + 2 (2dk + k + d + 2d) + router, for each stream and layer."""
    with torch.device("meta"):
        side = Distilled(MoLTSettings(tokens=n), d, other)
        merged = TokenFusion(MoLTSettings(), [384, d], d)
    router = (2 * d * 128 + 128) + (128 * 32 + 32) + (32 * 2 + 2)
    assert numel(side) == 2 * n * d + other * d + d + 2 * (2 * d * k + k + d + 2 * d) + router
    assert numel(merged) == (384 * d + d) + (d * d + d) + d


def numel(module: Any) -> int:
    return sum(one.numel() for one in module.parameters())


def test_refusals() -> None:
    for key in ("tokens", "last", "reduction"):
        with pytest.raises(AVCoreError, match=rf"parts\.molt\.{key}"):
            molt(f"{key}=0")
    with pytest.raises(AVCoreError, match="2 or more, or orthogonality=0"):
        molt("tokens=1")
    assert molt("tokens=1", "orthogonality=0")
