import itertools
import math

import pytest
import torch
from torch import nn

from avcore.config import OptimConfig
from avcore.engine.optim import Schedule, build_optimizer, learning_rates, set_learning_rates
from avcore.errors import AVCoreError


def schedule(**settings):
    return Schedule.from_config(OptimConfig(**settings), steps_per_epoch=10, epochs=6)


def test_constant_rate_is_the_base_rate():
    assert {schedule().rate(0.3, step) for step in range(60)} == {0.3}


def test_step_schedule_drops_after_whole_epochs():
    rates = [schedule(schedule="step", step_epochs=2, step_factor=0.5).rate(1.0, step) for step in range(60)]
    assert rates[:20] == [1.0] * 20
    assert rates[20:40] == [0.5] * 20
    assert rates[40:] == [0.25] * 20


def test_cosine_goes_from_the_base_rate_to_min_lr():
    course = schedule(schedule="cosine", min_lr=0.2)
    rates = [course.rate(1.0, step) for step in range(61)]
    assert rates[0] == 1.0
    assert rates[30] == pytest.approx(0.6)
    assert rates[60] == pytest.approx(0.2)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


def test_cosine_never_raises_a_rate_that_is_below_min_lr():
    assert schedule(schedule="cosine", min_lr=0.2).rate(0.1, 59) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["constant", "step", "cosine"])
def test_warmup_rises_linearly_and_reaches_the_base_rate(kind):
    course = schedule(schedule=kind, warmup_epochs=0.5, step_epochs=3)
    assert [course.rate(1.0, step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_begins_after_the_warmup():
    course = schedule(schedule="cosine", warmup_epochs=2.0)
    assert course.rate(1.0, 40) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))


def groups():
    part, head = nn.Linear(2, 2), nn.Linear(2, 1)
    return {"parts": [("p.weight", part.weight)], "head": [("h.weight", head.weight), ("h.bias", head.bias)]}


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_one_group_for_each_kind_with_its_own_rate(name, kind):
    optimizer = build_optimizer(groups(), OptimConfig(optimizer=name, lr=0.01, head_lr=0.002, weight_decay=0.1))
    assert type(optimizer) is kind
    assert [group["kind"] for group in optimizer.param_groups] == ["parts", "head"]
    assert learning_rates(optimizer) == {"parts": 0.01, "head": 0.002}
    assert [group["names"] for group in optimizer.param_groups] == [["p.weight"], ["h.weight", "h.bias"]]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


def test_rates_follow_the_step_and_not_the_history():
    optimizer = build_optimizer(groups(), OptimConfig(lr=0.01, head_lr=0.002))
    course = schedule(schedule="step", step_epochs=1, step_factor=0.5)
    for step in (50, 10):
        set_learning_rates(optimizer, course, step)
    assert learning_rates(optimizer) == {"parts": 0.005, "head": 0.001}


def test_a_model_without_parts_has_no_group_for_them():
    optimizer = build_optimizer({**groups(), "parts": []}, OptimConfig())
    assert list(learning_rates(optimizer)) == ["head"]


def test_nothing_to_train_is_said():
    with pytest.raises(AVCoreError, match="nothing to train"):
        build_optimizer({"parts": [], "head": []}, OptimConfig())


def test_sgd_steps_by_its_own_rule_with_the_momentum_of_the_first_beta():
    weight = nn.Parameter(torch.tensor([2.0, -1.0]))
    config = OptimConfig(optimizer="sgd", lr=0.1, betas=(0.5, 0.9), weight_decay=0.2)
    optimizer = build_optimizer({"parts": [("w", weight)], "head": []}, config)
    assert type(optimizer) is torch.optim.SGD
    expected, velocity = weight.detach().clone(), torch.zeros(2)
    for gradient in (torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.5])):
        weight.grad = gradient.clone()
        optimizer.step()
        velocity = 0.5 * velocity + gradient + 0.2 * expected
        expected -= 0.1 * velocity
        assert torch.allclose(weight.detach(), expected)
