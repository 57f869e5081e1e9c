import copy
import math

import pytest
import torch

from avcore.engine.randomness import seed_generators
from avcore.engine.step import NonFiniteError, groups_of
from avcore.errors import AVCoreError


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def run_epochs(toys, *, batch_size, accumulate, clips=7, clip_norm=None):
    model = toys.Model(torch.float64)
    loader = toys.Loader(clips, batch_size, torch.float64)
    trainer = toys.trainer(model, accumulate=accumulate, clip_norm=clip_norm)
    steps = [step for epoch in range(2) for step in toys.steps(trainer, loader, epoch=epoch, first_step=epoch * 2)]
    return model, steps


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_accumulated_micro_batches_equal_the_large_batch(toys, clip_norm):
    """7 clips as 4 + 3 (one padded clip), and as 2+2, 2+1: the last group is incomplete, its last batch padded."""
    large, steps = run_epochs(toys, batch_size=4, accumulate=1, clip_norm=clip_norm)
    small, micro_steps = run_epochs(toys, batch_size=2, accumulate=2, clip_norm=clip_norm)
    assert [step.clips for step in steps] == [step.clips for step in micro_steps] == [4, 3, 4, 3]
    for one, other in zip(steps, micro_steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-12)
        assert one.norm == pytest.approx(other.norm, rel=1e-12)
    for name, value in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], value, rtol=1e-11, atol=1e-13)


def test_a_group_that_stays_incomplete_still_makes_a_step(toys):
    _, steps = run_epochs(toys, batch_size=2, accumulate=3)
    assert [step.clips for step in steps] == [6, 1, 6, 1]


def test_groups_hold_every_batch_once_in_order():
    assert list(groups_of(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_frozen_weights_stay_and_trained_ones_move(toys):
    model = toys.Model()
    before = state(model)
    list(toys.steps(toys.trainer(model), toys.Loader(), epoch=0, first_step=0))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"part.weight", "part.bias", "head.weight", "head.bias"}


def test_clipping_bounds_the_gradient_and_reports_its_norm(toys):
    model = toys.Model()
    trainer = toys.trainer(model, clip_norm=1e-3)
    step = next(toys.steps(trainer, toys.Loader(), epoch=0, first_step=0))
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert step.norm > 1e-3
    assert gradient.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_clips(toys):
    model, loader = toys.Model(), toys.Loader()
    loader.y[3] = float("nan")
    trainer = toys.trainer(model)
    epoch = toys.steps(trainer, loader, epoch=4, first_step=20)
    next(epoch)
    before, moments = state(model), copy.deepcopy(trainer.optimizer.state_dict()["state"])
    with pytest.raises(NonFiniteError, match=r"loss is not finite at step 21 \(epoch 4\).*fit nan.*: clip2, clip3\."):
        next(epoch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    after = trainer.optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][key], moments[i][key]) for i in moments for key in moments[i])


def test_only_the_bad_micro_batch_is_named(toys):
    loader = toys.Loader()
    loader.y[5] = float("inf")
    with pytest.raises(NonFiniteError, match=r"Clips of the batch: clip4, clip5\."):
        list(toys.steps(toys.trainer(toys.Model(), accumulate=3), loader, epoch=0, first_step=0))


def test_a_gradient_that_is_not_finite_stops_too(toys):
    model = toys.Model()
    model.part.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = state(model)
    with pytest.raises(NonFiniteError, match=r"gradient is not finite at step 0.*clip0, clip1"):
        list(toys.steps(toys.trainer(model), toys.Loader(), epoch=0, first_step=0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_running_statistics_are_those_of_before_a_bad_step(toys):
    model, loader = toys.Model(), toys.Loader()
    model.part = torch.nn.Sequential(model.part, torch.nn.BatchNorm1d(4))
    buffers = dict(model.part.named_buffers())
    loader.x[2] = float("nan")
    steps = toys.steps(toys.trainer(model), loader, epoch=0, first_step=0)
    next(steps)
    before = {name: value.clone() for name, value in buffers.items()}
    assert before["1.running_mean"].abs().sum() > 0
    with pytest.raises(NonFiniteError):
        next(steps)
    assert all(torch.equal(value, before[name]) for name, value in buffers.items())


def test_what_was_found_is_handed_on_for_a_file(toys):
    loader = toys.Loader()
    loader.y[1] = float("nan")
    with pytest.raises(NonFiniteError) as caught:
        list(toys.steps(toys.trainer(toys.Model()), loader, epoch=2, first_step=6))
    report = caught.value.report
    assert (report["step"], report["epoch"], report["what"]) == (6, 2, "loss")
    assert report["clips"] == ["clip0", "clip1"]
    assert math.isnan(report["losses"]["fit"])


def test_draws_follow_from_the_step_and_not_from_what_ran_before(toys):
    """The second epoch alone gives the same step as the second epoch after the first."""
    models = [toys.Model(dropout=0.5) for _ in range(2)]
    trainers = [toys.trainer(model, seed=3) for model in models]
    for model, trainer in zip(models, trainers, strict=True):
        trainer.optimizer.step = lambda: None  # the parameters stay, so that only the draws can differ
        del model
    list(toys.steps(trainers[0], toys.Loader(), epoch=0, first_step=0))
    torch.rand(17)
    after, alone = ([s.loss for s in toys.steps(t, toys.Loader(), epoch=1, first_step=3)] for t in trainers)
    assert after == alone


def test_seeds_differ_by_purpose_step_and_place():
    drawn = set()
    for key in [(0, "a", 1, 0), (0, "a", 1, 1), (0, "a", 2, 0), (1, "a", 1, 0), (0, "b", 1, 0)]:
        seed_generators(*key)
        drawn.add(torch.rand(1).item())
    assert len(drawn) == 5


def test_trainable_parameters_in_half_precision_are_refused(toys):
    with pytest.raises(AVCoreError, match=r"part\.weight.*float32"):
        toys.trainer(toys.Model(torch.bfloat16))


def test_scalars_of_a_step_have_stable_names(toys):
    step = next(toys.steps(toys.trainer(toys.Model()), toys.Loader(), epoch=0, first_step=0))
    assert list(step.scalars()) == [
        "step", "epoch", "loss", "loss/fit", "loss/size", "lr/part", "lr/head", "gradient_norm",
    ]  # fmt: skip
    assert step.loss == pytest.approx(sum(step.losses.values()))
