import pytest
import torch

from avcore.config import TrainConfig
from avcore.engine.average import Average
from avcore.states import trainable_state


@pytest.fixture
def model(toys):
    return toys.Model()


def values(model):
    return {name: tensor.clone() for name, tensor in trainable_state(model).items()}


def move(model):
    with torch.no_grad():
        for tensor in trainable_state(model).values():
            tensor += torch.randn_like(tensor)
    return values(model)


def test_a_moving_mean_follows_its_decay_and_leaves_the_weights(model):
    average = Average(model, TrainConfig(average="ema", average_decay=0.8))
    assert all(torch.equal(tensor, values(model)[name]) for name, tensor in average.state.items())
    expected = None
    for _ in range(4):
        now = move(model)
        average.step_done()
        average.epoch_done(1)
        expected = now if expected is None else {name: 0.8 * expected[name] + 0.2 * now[name] for name in now}
    torch.testing.assert_close(average.state, expected)
    with average.applied():
        torch.testing.assert_close(values(model), expected)
    assert all(torch.equal(tensor, now[name]) for name, tensor in values(model).items())


def test_a_window_averages_the_ends_of_its_epochs(model):
    average = Average(model, TrainConfig(average="epochs", average_epochs=(3, 5)))
    ends = []
    for epoch in range(1, 8):
        ends.append(move(model))
        average.step_done()
        average.epoch_done(epoch)
        average.epoch_done(epoch)
        assert average.count == min(max(0, epoch - 2), 3)
    mean = {name: sum(end[name] for end in ends[2:5]) / 3 for name in ends[0]}
    torch.testing.assert_close(average.state, mean)


def test_an_error_while_the_average_is_applied_leaves_the_weights(model):
    average = Average(model, TrainConfig(average="ema"))
    average.step_done()
    now = move(model)
    with pytest.raises(KeyboardInterrupt), average.applied():
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, now[name]) for name, tensor in values(model).items())
