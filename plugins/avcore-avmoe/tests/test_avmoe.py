"""AVMoE: the equations, what the switches for the code's faults change, the balance loss, the head's losses."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import avcore_avmoe
from avcore import AVCoreError
from avcore.specs import BlockLayout, StageLayout, StreamLayout
from avcore.testing import ToyBackbones, make_batch, make_model
from avcore_avmoe.ave import AVEHead
from avcore_avmoe.experts import Mixture, Router, UnimodalExpert
from avcore_avmoe.fusion import balance_loss
from avcore_avmoe.settings import AVMoESettings
from avcore_lavish.fusion import Bottleneck
from avcore_lavish.settings import LavishSettings

WIDTH, OTHER = 16, 8


def block(width: int, side: int) -> BlockLayout:
    """The only block of a stream."""
    stages = (StageLayout(width=width, heads=2, depth=1, grid=(side, side)),)
    return StreamLayout(stages=stages, segments=2).blocks[0]


def shaken(module: nn.Module) -> Any:
    """In double precision, with every parameter moved, so that gates and norms matter."""
    module.double()
    draws = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += torch.rand(parameter.shape, generator=draws, dtype=torch.float64) * 0.4 - 0.1
    return module


def mixture(**settings: Any) -> Any:
    config = AVMoESettings(**{"reduction": 2, "tokens": 3, **settings})
    return shaken(Mixture(config, block(WIDTH, 3), block(OTHER, 2), gated=True))


def tokens(count: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(4, count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, OTHERS = tokens(9, WIDTH), tokens(4, OTHER, seed=2)


def maps(expert: Any, x_MND: Tensor, *, relu: bool) -> Any:
    """Norm, grouped map down, batch norm, ReLU, map up, batch norm, norm, gate, one by one."""

    def grouped(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv1d(x.mT, weight[..., None], groups=x.shape[-1] // weight.shape[1]).mT

    hidden = expert.norm_down(grouped(expert.norm_before(x_MND), expert.down.weight))
    out = grouped(F.relu(hidden) if relu else hidden, expert.up.weight)
    return expert.gate * expert.norm_post(expert.norm_up(out))


def aligned(made: Any) -> Any:
    return made.align.width(made.align.tokens.weight @ OTHERS + made.align.tokens.bias[:, None])


def test_a_mixture_is_the_sum_of_its_experts_by_the_router() -> None:
    made = mixture(cross_experts=2, unimodal_experts=1).eval()
    y = aligned(made)
    logits = made.router.layers(torch.cat([X.mean(1), y.mean(1)], dim=-1))
    weights = logits.softmax(-1)
    experts = []
    for expert in made.experts[:2]:
        latents = expert.latents + torch.softmax(expert.latents @ y.mT, -1) @ y
        read = X + expert.latent_gate * torch.softmax(X @ latents.mT, -1) @ latents
        experts.append(maps(expert, read, relu=True))
    experts.append(maps(made.experts[2], X, relu=False))
    expected = sum(weights[:, number, None, None] * one for number, one in enumerate(experts))
    found = made(X, OTHERS)
    torch.testing.assert_close(found.add, expected)
    torch.testing.assert_close(found.weights, weights)


def test_one_expert_and_no_router_is_lavish_s_bottleneck() -> None:
    made = mixture(cross_experts=1, unimodal_experts=0)
    assert made.router is None
    single: Any = Bottleneck(LavishSettings(reduction=2, tokens=3), WIDTH, gated=True).double()
    single.load_state_dict(made.experts[0].state_dict())
    torch.testing.assert_close(made(X, OTHERS).add, single(X, aligned(made)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", ["latents", "tokens", "columns", "heads", "frames"])
def test_what_a_unimodal_expert_reads(mode: str) -> None:
    chosen = {
        "columns": {"self_attention": "tokens", "self_weights": "columns"},
        "frames": {"self_attention": "heads", "self_axis": "frames"},
    }.get(mode, {"self_attention": mode})
    config: Any = AVMoESettings(reduction=2, tokens=3, batch_norm=False, **chosen)  # type: ignore[arg-type]
    expert = shaken(UnimodalExpert(config, WIDTH, gated=True)).eval()
    attention = torch.softmax(X @ X.mT, -1)
    if mode == "latents":
        latents = expert.latents + torch.softmax(expert.latents @ X.mT, -1) @ X
        expected = X + expert.self_gate * torch.softmax(X @ latents.mT, -1) @ latents
    elif mode in ("tokens", "columns"):
        expected = X + expert.self_gate * (attention.mT if mode == "columns" else attention) @ X
    else:
        own = expert.attention
        x = X.transpose(0, 1) if mode == "frames" else X
        q, k, v = (
            part.unflatten(-1, (4, -1)).transpose(1, 2)
            for part in F.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
        )
        mixed = torch.softmax(q @ k.mT / math.sqrt(WIDTH // 4), -1) @ v
        expected = own.out_proj(mixed.transpose(1, 2).flatten(2))
        expected = expected.transpose(0, 1) if mode == "frames" else expected
    torch.testing.assert_close(expert(X, X), maps(expert, expected, relu=False))
    # Another frame matters where attention is over frames, as in the published code, and nowhere else.
    other = X.clone()
    other[3] += 1
    same = torch.allclose(expert(other, other)[0], expert(X, X)[0])
    assert same == (mode != "frames")


def test_noise_is_for_training_alone() -> None:
    router = shaken(Router(AVMoESettings(noise=0.5), WIDTH, 2))
    y = tokens(9, WIDTH, seed=3)
    assert torch.equal(router.eval()(X, y), router(X, y))
    assert not torch.equal(router.train()(X, y), router(X, y))


def test_balance() -> None:
    """KL(uniform || mean pi): zero at its least; as the code has it, E ln E there and E times the gradient."""
    even = torch.full((5, 3), 1 / 3, dtype=torch.float64, requires_grad=True)
    assert balance_loss(even).item() == pytest.approx(0, abs=1e-12)
    assert balance_loss(even, per_expert=False).item() == pytest.approx(3 * math.log(3))
    uneven = torch.tensor([[0.2, 0.8], [0.4, 0.6]], dtype=torch.float64, requires_grad=True)
    assert balance_loss(uneven).item() == pytest.approx(0.5 * math.log(0.5 / 0.3) + 0.5 * math.log(0.5 / 0.7))
    (own,) = torch.autograd.grad(balance_loss(uneven), uneven)
    (coded,) = torch.autograd.grad(balance_loss(uneven, per_expert=False), uneven)
    torch.testing.assert_close(coded, 2 * own)


def toy(*sets: str) -> Any:
    sets = tuple(f"parts.avmoe.{one}" for one in ("reduction=2", "tokens=3", *sets))
    return make_model(
        ToyBackbones(),
        "toy_windowed",
        listed=("avmoe",),
        others={"avcore-avmoe": avcore_avmoe},
        sets=sets,
        on_meta_first=False,
    )


def test_the_balance_of_all_mixtures_is_a_loss_and_shares_are_told() -> None:
    model = toy("balance=0.5").train()
    batch = make_batch(model)
    features = model.features(batch)
    mixtures = [one for one in model.modules() if isinstance(one, Mixture)]
    assert len(mixtures) == 4 * len(model.parts["avmoe"].layers)
    found = model.parts["avmoe"].losses(features)["balance"]
    assert found.item() == pytest.approx(0.5 * features.sums["avmoe.balance"].item())
    assert found.requires_grad
    shares = [value for key, value in features.statistics.items() if "expert_" in key]
    assert len(shares) == 4
    assert torch.stack(shares).sum().item() == pytest.approx(2)
    quiet = toy()
    assert quiet.parts["avmoe"].losses(quiet.features(batch)) == {}


def test_skipped_stages_have_no_mixtures() -> None:
    model: Any = toy("skip=2")
    blocks = model.towers["visual"].layout.blocks
    assert {block.stage for block in blocks} == {0, 1}
    assert {blocks[int(index)].stage for index in model.parts["avmoe"].layers} == {0}


def test_sound_is_pooled_before_its_norm() -> None:
    model = toy()
    batch = make_batch(model)
    audio = model.features(batch).stream("audio")
    torch.testing.assert_close(audio.pooled.flatten(0, 1), audio.raw_tokens.mean(1))
    plain = toy("pool=none").features(batch).stream("audio")
    torch.testing.assert_close(plain.pooled.flatten(0, 1), plain.tokens.mean(1))
    assert not torch.allclose(plain.pooled, audio.pooled)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("cross_experts=0", "cross_experts"),
        ("groups=3", "groups=3 must divide"),
        ("reduction=0", "reduction"),
        ("self_dropout=1.0", "self_dropout"),
    ],
)
def test_refusals(setting: str, told: str) -> None:
    with pytest.raises(AVCoreError, match=told):
        toy(setting)


def test_the_head_has_no_loss_of_the_gates(published: Any) -> None:
    head: Any = published("ave").head
    assert isinstance(head, AVEHead)
    progress: Any = None
    output = {name: torch.randn(2, 10) for name in ("is_event", "gate")}
    output |= {name: torch.randn(2, 28) for name in ("event", "score")}
    batch: Any = SimpleNamespace(
        targets={"labels": torch.randint(0, 29, (2, 10))}, valid=torch.ones(2, dtype=torch.bool)
    )
    assert set(head.loss(output, batch, progress)) == {"is_event", "event", "score"}
