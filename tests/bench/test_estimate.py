"""The estimator: what counts as an operator, which bytes live, and where a CUDA device differs from meta."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from avcore.bench import Estimate, estimate, shapes_of
from avcore.bench.counting import Counting, CudaRules
from avcore.config import resolve_config
from avcore.registry import load_registry
from avcore.states import parameter_groups

TINY = "vit_tiny_patch16_224"


@pytest.fixture
def counting() -> Iterator[Counting]:
    with torch.device("meta"), CudaRules(), Counting() as made:
        yield made


def cost(method: str, clips: int, *sets: str, visual: str = TINY, training: bool = True, **given: Any) -> Estimate:
    registry = load_registry()
    sets = ("visual.weights=random", "data.segments=2", *sets)
    resolved = resolve_config(registry, method=method, task="ave", visual=visual, sets=sets, need_data=False, **given)
    return estimate(shapes_of(resolved.config, registry), clips, training=training)


def test_bytes_live_as_long_as_something_holds_them(counting: Counting) -> None:
    first = torch.zeros(1024)
    view = first.view(2, 512)
    second = first + 1
    assert counting.live == counting.peak == 2 * 4096
    del first
    assert counting.live == 2 * 4096
    del view, second
    assert (counting.live, counting.peak) == (0, 2 * 4096)


def test_what_was_there_before_is_fixed() -> None:
    weight = torch.zeros(1024, device="meta")
    with Counting() as counting:
        counting.hold(weight)
        assert (weight.view(-1) * 2).is_meta
    assert (counting.fixed, counting.peak) == (4096, 4096)


def test_views_are_no_kernels(counting: Counting) -> None:
    x = torch.zeros(4, 6)
    counting.phase = "here"
    made = x.reshape(6, 4).transpose(0, 1)[:, :2].unsqueeze(0) @ torch.empty(2, 3)
    made.detach().add_(1)
    # One copy in front of the product, the product, the sum in place.
    assert counting.kernels["here"].total() <= 3
    assert counting.kernels["here"]["add_"] == 1
    assert counting.flop["here"] == 2 * 4 * 2 * 3


def test_attention_is_one_kernel_that_keeps_no_map(counting: Counting) -> None:
    q, k, v = (torch.zeros(2, 3, 512, 16).requires_grad_() for _ in range(3))
    counting.phase, before = "here", counting.live
    out = F.scaled_dot_product_attention(q, k, v)
    assert counting.kernels["here"].total() == 1
    # The outcome, a number for each query, the seeds of the dropout.
    assert counting.live - before <= out.nbytes + 4 * 2 * 3 * 512 + 1024
    counting.phase = "backward"
    out.backward(torch.empty_like(out))
    assert counting.flop["backward"] > 2 * counting.flop["here"] > 0
    assert q.grad is not None


def test_autocast_is_that_of_cuda(counting: Counting) -> None:
    x, weight = torch.zeros(2, 8), torch.zeros(8, 8, requires_grad=True)
    assert F.linear(x, weight).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        product = F.linear(x, weight)
        assert product.dtype == torch.bfloat16
        assert F.layer_norm(product, (8,)).dtype == F.softmax(product, -1).dtype == torch.float32
        assert F.gelu(product).dtype == torch.bfloat16
        counting.phase = "again"
        F.linear(product, weight)  # whose cast is kept
    assert counting.kernels["again"].total() == 1


def test_a_step_grows_with_the_batch_and_its_fixed_part_does_not() -> None:
    small, large = cost("copl", 2), cost("copl", 4)
    assert large.kept == pytest.approx(2 * small.kept, rel=0.1)
    assert large.flop["backward"] == pytest.approx(2 * small.flop["backward"], rel=0.05)
    assert large.kernels == small.kernels
    assert large.peak - large.fixed > 1.8 * (small.peak - small.fixed)
    assert small.peak > small.fixed + small.kept


def test_the_fixed_part_is_weights_and_the_state_of_the_optimiser() -> None:
    registry = load_registry()
    resolved = resolve_config(
        registry, method="copl", task="ave", visual=TINY, sets=("train.precision=fp32",), need_data=False
    )
    model = shapes_of(resolved.config, registry)
    weights = sum(one.nbytes for one in model.parameters())
    trained = sum(one.nbytes for group in parameter_groups(model).values() for _, one in group)
    found = estimate(model, 1)
    batch = 10 * 3 * 224 * 224 + 10 * 16_000 * 2
    assert found.fixed == pytest.approx(weights + 2 * trained + batch, rel=0.02)
    assert all(one.grad is None for one in model.parameters())


def test_bf16_needs_less_than_fp32() -> None:
    assert cost("copl", 2, "train.precision=bf16").peak < 0.8 * cost("copl", 2, "train.precision=fp32").peak


def test_a_forward_for_evaluation_keeps_nothing() -> None:
    found, step = cost("copl", 2, training=False), cost("copl", 2)
    assert found.kept == found.kept_tensors == 0
    assert set(found.kernels) == set(found.flop) == {"forward"}
    assert found.peak < step.peak


@pytest.mark.parametrize(
    ("visual", "step", "evaluation"), [(TINY, 3026, 1054), ("swinv2_tiny_window8_256", 2918, 1150)]
)
def test_lavish_starts_few_kernels(visual: str, step: int, evaluation: int) -> None:
    """Streams of unequal length on a ViT, each direction for itself, and of equal length on a Swin-V2, both at once."""
    counts = [
        sum(cost("lavish", 1, "train.precision=bf16", visual=visual, training=training).kernels.values())
        for training in (True, False)
    ]
    assert counts[0] <= step
    assert counts[1] <= evaluation
