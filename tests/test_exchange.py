"""Two bottlenecks that read each other's tokens, as one call, beside one call for each direction."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore.exchange import joined
from avcore.injection.standing import cast_together, standing
from avcore.modules import GroupedBottleneck, exchanged, read_and_narrow

M, N, D, LATENTS = 2, 5, 16, 3
Pair = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def _on_a_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.modules.ONE_BY_ONE", ())


class Reading(GroupedBottleneck):
    """A bottleneck with latent tokens."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.latents, self.latent_gate = nn.Parameter(torch.rand(LATENTS, D)), nn.Parameter(torch.zeros(1))
        flags = {"batch_norm": True, "before_norm": True, "post_norm": True, "gated": True, "gate_first": False}
        self.add_bottleneck(D, reduction=4, groups=2, where="parts.toy", **{**flags, **given})


def one_by_one(first: Reading, second: Reading, tokens: Pair) -> Pair:
    x, y = tokens

    def made(own: Reading, x: Tensor, y: Tensor) -> Tensor:
        narrow = read_and_narrow(x, y, own.latents, own.latent_gate, own.norm_before, own.down.weight)
        return own.widened(narrow)

    return made(first, x, y), made(second, y, x)


def at_once(first: Reading, second: Reading, tokens: Pair) -> Pair:
    made = exchanged((first, second), (first.latents, second.latents), (first.latent_gate, second.latent_gate), tokens)
    assert made is not None
    return made


def pair_of(training: bool, gated: tuple[bool, bool] = (True, True), **given: Any) -> tuple[Reading, Reading]:
    torch.manual_seed(0)
    pair = [Reading(gated=one, **given).double().train(training) for one in gated]
    for one in pair:
        for parameter in one.parameters():
            nn.init.normal_(parameter)
        for norm in (one.norm_down, one.norm_up):
            if isinstance(norm, nn.BatchNorm1d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 1.5)
    return pair[0], pair[1]


def found(way: Callable[..., Pair], pair: tuple[Reading, Reading], tokens: Pair) -> dict[str, Tensor]:
    """Results, gradients, and buffers afterwards."""
    given = tokens[0].clone().requires_grad_(), tokens[1].clone().requires_grad_()
    out = way(*pair, given)
    cotangents = torch.randn(2, M, N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.stack([(one * other).sum() for one, other in zip(out, cotangents, strict=True)]).sum().backward()
    both = nn.ModuleList(pair)
    gradients = {name: one.grad for name, one in both.named_parameters() if one.grad is not None}
    tensors = {"first": out[0], "second": out[1], "to first": given[0].grad, "to second": given[1].grad}
    return {name: one for name, one in (tensors | gradients | dict(both.named_buffers())).items() if one is not None}


FLAGS = ("training", "batch_norm", "before_norm", "post_norm", "gate_first")


@pytest.mark.parametrize("gated", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("flags", list(product([False, True], repeat=len(FLAGS))))
def test_both_at_once_are_one_by_one(flags: tuple[bool, ...], gated: tuple[bool, bool]) -> None:
    given: Any = dict(zip(FLAGS, flags, strict=True))
    behind = torch.randn(2, M, N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = found(one_by_one, pair_of(gated=gated, **given), (behind[0], behind[1]))
    made = found(at_once, pair_of(gated=gated, **given), (behind[0], behind[1]))
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_half_precision_is_near_single(batch_norm: bool) -> None:
    pair = pair_of(training=True, batch_norm=batch_norm)
    tokens = torch.randn(2, M, N, D).unbind()
    for one in pair:
        one.float()
    modules = nn.ModuleList(pair)
    exact = at_once(*pair, (tokens[0], tokens[1]))
    with standing(cast_together(modules.modules(), torch.bfloat16)):
        made = at_once(*pair, (tokens[0].bfloat16(), tokens[1].bfloat16()))
    sum(one.float().square().sum() for one in made).backward()  # type: ignore[union-attr]
    for one, other in zip(made, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - other).norm() < 0.05 * other.norm()
    for name, parameter in modules.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


def test_other_shapes_are_left_to_each_direction() -> None:
    first, second = Reading(), Reading()
    tokens = torch.randn(M, N, D), torch.randn(M, N + 1, D)
    gates = first.latent_gate, second.latent_gate
    assert exchanged((first, second), (first.latents, second.latents), gates, tokens) is None


def test_pieces_of_each_type_share_a_buffer() -> None:
    halves = torch.randn(2, 5).bfloat16().unbind()
    pieces: dict[str, tuple[Tensor, ...]] = {"a": torch.randn(2, 3, 4).unbind(), "b": halves, "c": (torch.ones(1),)}
    made = joined(pieces)
    assert all(torch.equal(made[name], torch.stack(piece)) for name, piece in pieces.items())
    assert made["a"].untyped_storage().data_ptr() == made["c"].untyped_storage().data_ptr()
