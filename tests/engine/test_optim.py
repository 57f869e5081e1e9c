import math

import pytest
import torch
from torch import nn

from avcore.config import OptimConfig
from avcore.engine.optim import Rates, build_optimizer
from avcore.errors import AVCoreError


def course(base=1.0, steps=61, **settings):
    """The rates of a group at each step of 6 epochs of 10 steps."""
    optimizer = torch.optim.SGD([{"kind": "w", "params": [nn.Parameter(torch.zeros(1))]}], lr=base)
    rates = Rates(optimizer, OptimConfig(**settings), steps_per_epoch=10, epochs=6)
    found = []
    for step in range(steps):
        rates.advance(step)
        found.append(rates.current()["w"])
        optimizer.step()
    return found


WARM = [0.2, 0.4, 0.6, 0.8, 1.0]
EXPECTED = {
    "constant": ({}, lambda step: 1.0),
    "step": ({"step_epochs": 2, "step_factor": 0.5}, lambda step: 0.5 ** (step // 20)),
    "multistep": ({"milestones": (1, 4), "step_factor": 0.1}, lambda step: 0.1 ** ((step >= 10) + (step >= 40))),
    "cosine": ({"min_lr": 0.2}, lambda step: 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * step / 60))),
    "polynomial": ({"power": 0.9}, lambda step: (1 - step / 60) ** 0.9),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_schedule_follows_its_formula(kind):
    settings, formula = EXPECTED[kind]
    expected = [formula(step) for step in range(61)]
    assert course(schedule=kind, **settings) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", ["constant", "step", "multistep"])
def test_schedules_that_count_epochs_are_scaled_by_the_warmup(kind):
    settings, formula = EXPECTED[kind]
    found = course(schedule=kind, warmup_epochs=0.5, **settings)
    assert found == pytest.approx([*WARM, *(formula(step) for step in range(5, 61))], rel=1e-12)


@pytest.mark.parametrize("kind", ["cosine", "polynomial"])
def test_schedules_of_the_whole_length_begin_after_the_warmup(kind):
    settings, formula = EXPECTED[kind]
    found = course(schedule=kind, warmup_epochs=0.5, **settings)
    expected = [*WARM, *(formula((step - 5) * 60 / 55) for step in range(5, 61))]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.5])
@pytest.mark.parametrize("kind", EXPECTED)
def test_rates_depend_on_the_step_alone_bit_by_bit(kind, warmup, recwarn):
    settings = {"schedule": kind, "warmup_epochs": warmup, **EXPECTED[kind][0]}
    whole = course(0.3, **settings)
    for first in (1, 15, 42):
        optimizer = torch.optim.SGD([{"kind": "w", "params": [nn.Parameter(torch.zeros(1))]}], lr=0.3)
        rates = Rates(optimizer, OptimConfig(**settings), steps_per_epoch=10, epochs=6)
        for step in range(first, 60):
            rates.advance(step)
            assert rates.current()["w"] == whole[step]
    assert not recwarn.list


def test_a_cosine_that_would_rise_is_refused():
    with pytest.raises(AVCoreError, match=r"optim.min_lr is 0.2, above the learning rate 0.1 of 'w'"):
        course(0.1, schedule="cosine", min_lr=0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "multistep"}, r"milestones must be given with schedule=multistep, such as \[10, 15\]"),
        ({"milestones": (3, 3)}, r"milestones must be whole numbers of epochs from 1, each above.*\[3, 3\]"),
        ({"milestones": (0, 2)}, "milestones must be whole numbers of epochs from 1"),
        ({"power": 0.0}, "power must be above 0 and finite, not 0.0"),
    ],
)
def test_settings_of_schedules_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**settings)


def groups():
    part, head = nn.Linear(2, 2), nn.Linear(2, 1)
    return {"parts": [("p.weight", part.weight)], "head": [("h.weight", head.weight), ("h.bias", head.bias)]}


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_one_group_for_each_kind_with_its_own_rate(name, kind):
    optimizer = build_optimizer(groups(), OptimConfig(optimizer=name, lr=0.01, head_lr=0.002, weight_decay=0.1))
    assert type(optimizer) is kind
    assert [group["kind"] for group in optimizer.param_groups] == ["p", "head"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.002]
    assert [group["names"] for group in optimizer.param_groups] == [["p.weight"], ["h.weight", "h.bias"]]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


def test_each_part_has_a_group_whose_rate_is_scaled():
    weights = {
        name: nn.Parameter(torch.zeros(1)) for name in ("m.rows.visual.x", "m.rows.more.x", "align.layers.x", "head.x")
    }
    named = list(weights.items())
    scales = {"m.rows": 0.5, "m.rows.more": 10.0}
    optimizer = build_optimizer({"parts": named[:3], "head": named[3:]}, OptimConfig(lr=0.01, head_lr=0.002), scales)
    rates = {group["kind"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"m.rows": 0.005, "m.rows.more": 0.1, "align": 0.01, "head": 0.002}
    assert [group["names"] for group in optimizer.param_groups] == [[name] for name in weights]


def test_a_model_without_parts_has_no_group_for_them():
    optimizer = build_optimizer({**groups(), "parts": []}, OptimConfig())
    assert [group["kind"] for group in optimizer.param_groups] == ["head"]


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
