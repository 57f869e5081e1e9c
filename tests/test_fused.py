"""Operations with gradients written by hand: against torch's own of the plain formulas, and what they keep."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.batchnorm import Statistics
from avcore.fused import grouped_product, widen
from avcore.injection.standing import cast_together, standing
from avcore.modules import GroupedBottleneck, plain_attention, read_and_narrow, read_through

M, N, K, D, HIDDEN, LATENTS, GROUPS = 3, 5, 4, 8, 4, 2, 2


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def agree(made: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    """Equal values and gradients, and gradients that finite differences confirm."""
    found, expected = made(*inputs), plain(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(found)
    gradients = [torch.autograd.grad(out, inputs, cotangent) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(made, inputs)


def plain_product(x: Tensor, weight: Tensor) -> Tensor:
    pairs = zip(x.chunk(GROUPS, -1), weight.chunk(GROUPS), strict=True)
    return torch.cat([F.linear(part, rows) for part, rows in pairs], -1)


def plain_reading(x: Tensor, other: Tensor, latents: Tensor, gate: Tensor) -> Tensor:
    return x + gate * plain_attention(x, latents + plain_attention(latents, other))


def reading() -> tuple[Tensor, ...]:
    return drawn(M, N, D), drawn(M, K, D), drawn(LATENTS, D), drawn(1)


@pytest.mark.parametrize("lead", [(N,), (M, N)])
def test_a_grouped_product(lead: tuple[int, ...]) -> None:
    agree(grouped_product, plain_product, (drawn(*lead, D), drawn(HIDDEN, D // GROUPS)))


def test_reading_through_latent_tokens() -> None:
    agree(read_through, plain_reading, reading())


def test_tokens_in_any_memory_layout() -> None:
    _, *others = reading()
    agree(
        lambda x, *rest: read_through(x.mT, *rest),
        lambda x, *rest: plain_reading(x.mT, *rest),
        (drawn(M, D, N), *others),
    )


@pytest.mark.parametrize("normed", [False, True])
def test_reading_then_a_narrow_product(normed: bool) -> None:
    norm = nn.LayerNorm(D).double() if normed else nn.Identity()
    affine = tuple(nn.init.normal_(parameter) for parameter in norm.parameters())

    def made(x: Tensor, other: Tensor, latents: Tensor, gate: Tensor, weight: Tensor, *affine: Tensor) -> Tensor:
        return read_and_narrow(x, other, latents, gate, norm, weight)

    def plain(x: Tensor, other: Tensor, latents: Tensor, gate: Tensor, weight: Tensor, *affine: Tensor) -> Tensor:
        read = plain_reading(x, other, latents, gate)
        return plain_product(F.layer_norm(read, (D,), *affine) if affine else read, weight)

    agree(made, plain, (*reading(), drawn(HIDDEN, D // GROUPS), *affine))


@pytest.mark.parametrize(("batch", "layer", "training", "gated"), list(product([False, True], repeat=4)))
def test_widening(batch: bool, layer: bool, training: bool, gated: bool) -> None:
    mean, variance = torch.randn(D, dtype=torch.float64), torch.rand(D, dtype=torch.float64) + 0.5

    def statistics() -> Statistics:
        return Statistics(mean.clone(), variance.clone(), training, 0.1, 1e-5)

    def affines(given: tuple[Tensor, ...]) -> tuple[Any, Any]:
        return given[:2] if batch else None, given[-2:] if layer else None

    def made(x: Tensor, weight: Tensor, gate: Tensor, *given: Tensor) -> Tensor:
        of_batch, of_layer = affines(given)
        out = widen(x, weight, of_batch, statistics() if batch else None, of_layer, 1e-5, gate if gated else None)
        return out if gated else out * gate

    def plain(x: Tensor, weight: Tensor, gate: Tensor, *given: Tensor) -> Tensor:
        of_batch, of_layer = affines(given)
        out = plain_product(F.relu(x), weight)
        if batch:
            now = statistics()
            out = F.batch_norm(out.flatten(0, 1), *now[:2], *of_batch, *now[2:]).view_as(out)
        return gate * (F.layer_norm(out, (D,), *of_layer) if layer else out)

    given = [drawn(D) for _ in range(2 * (batch + layer))]
    agree(made, plain, (drawn(M, N, HIDDEN), drawn(D, HIDDEN // GROUPS), drawn(1), *given))


class Bottleneck(GroupedBottleneck):
    """Reads nothing."""

    def __init__(self, width: int, **given: Any) -> None:
        super().__init__()
        flags = {"batch_norm": True, "before_norm": True, "post_norm": True, "gated": True, "gate_first": False}
        self.add_bottleneck(width, reduction=4, groups=2, where="parts.toy", **{**flags, **given})

    def forward(self, x: Tensor) -> Tensor:
        return self.widened(self.down(self.norm_before(x)))


def test_running_statistics_move_once_for_forward_and_backward() -> None:
    bottleneck = Bottleneck(8)
    made = bottleneck(torch.randn(2, 3, 8))
    after = [norm.running_var.clone() for norm in (bottleneck.norm_down, bottleneck.norm_up)]
    made.sum().backward()
    for norm, expected in zip((bottleneck.norm_down, bottleneck.norm_up), after, strict=True):
        assert torch.equal(norm.running_var, expected)
        assert not torch.equal(expected, torch.ones_like(expected))


def test_with_no_momentum_statistics_stay() -> None:
    bottleneck = Bottleneck(8)
    bottleneck.norm_down.momentum = bottleneck.norm_up.momentum = 0.0
    bottleneck(torch.randn(2, 3, 8))
    assert torch.equal(bottleneck.norm_up.running_var, torch.ones(8))
    assert torch.equal(bottleneck.norm_down.running_var, torch.ones(2))


@pytest.mark.parametrize(("post_norm", "batch_norm", "gate_first"), list(product([False, True], repeat=3)))
def test_the_gate_multiplies_where_it_should(post_norm: bool, batch_norm: bool, gate_first: bool) -> None:
    bottleneck = Bottleneck(8, post_norm=post_norm, batch_norm=batch_norm, gate_first=gate_first).double()
    for parameter in bottleneck.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    made = bottleneck(x)
    out = bottleneck.norm_up(bottleneck.up(F.relu(bottleneck.norm_down(bottleneck.down(bottleneck.norm_before(x))))))
    assert bottleneck.gate is not None
    first = bottleneck.norm_post(bottleneck.gate * out)
    torch.testing.assert_close(made, first if gate_first else bottleneck.gate * bottleneck.norm_post(out))


def kept_bytes(function: Callable[[], Tensor]) -> int:
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(found.values())


def test_nothing_as_wide_as_the_tokens_is_kept_but_the_tokens() -> None:
    width, tokens = 64, 100
    bottleneck = Bottleneck(width)
    x = torch.randn(2, tokens, width, requires_grad=True)
    other = torch.randn(2, tokens, width, requires_grad=True)
    latents, gate = torch.rand(2, width, requires_grad=True), torch.zeros(1, requires_grad=True)

    def run() -> Tensor:
        narrow = read_and_narrow(x, other, latents, gate, bottleneck.norm_before, bottleneck.down.weight)
        return bottleneck.widened(narrow)

    wide = x.untyped_storage().nbytes()
    assert kept_bytes(run) < 3 * wide  # x, y, and what is a quarter as wide


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_near_single(autocast: bool) -> None:
    """Tokens of bfloat16, with parameters as the core casts them, or tokens in float32 under autocast."""
    bottleneck = Bottleneck(32)
    nn.init.ones_(bottleneck.gate)
    latents, gate = torch.rand(2, 32, requires_grad=True), torch.full((1,), 0.1, requires_grad=True)
    exact, (x, other, cotangent) = [], (torch.randn(3, 4, 16, 32) * 0.3).unbind()
    trained = (latents, gate, *bottleneck.parameters())
    for half in (False, True):
        given = [one.clone().requires_grad_() for one in (x, other)]
        cast = half and not autocast
        casts = cast_together(bottleneck.modules(), torch.bfloat16) if cast else []
        with torch.autocast("cpu", torch.bfloat16, enabled=half and autocast), standing(casts):
            tokens = [one.bfloat16() for one in given] if cast else given
            read = read_through(*tokens, latents, gate)
            narrow = read_and_narrow(read, tokens[1], latents, gate, bottleneck.norm_before, bottleneck.down.weight)
            made = bottleneck.widened(narrow)
        assert read.dtype == made.dtype == (torch.bfloat16 if half else torch.float32)
        gradients = torch.autograd.grad((made.float() * cotangent).sum(), (*given, *trained))
        exact.append((made.float(), *gradients))
    assert all(gradient.dtype == torch.float32 for gradient in exact[1])
    for expected, found in zip(*exact, strict=True):
        # The shift before batch normalisation has no effect, so that its exact gradient is zero.
        assert (found - expected).norm() < 0.1 * max(expected.norm(), 2)
