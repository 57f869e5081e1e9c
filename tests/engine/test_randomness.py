import random

import numpy as np
import torch

from avcore.engine.randomness import determinism, isolated_randomness, seed_generators


def draws():
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def test_every_generator_follows_the_seed():
    seed_generators(0, "dropout", 3)
    first = draws()
    seed_generators(0, "dropout", 3)
    assert draws() == first
    seed_generators(0, "dropout", 4)
    assert not set(draws()) & set(first)


def test_the_caller_gets_its_generators_back():
    seed_generators(1, "mine")
    expected = draws()
    seed_generators(1, "mine")
    with isolated_randomness():
        seed_generators(2, "other")
        draws()
    assert draws() == expected


def test_determinism_is_switched_on_and_back():
    before = torch.are_deterministic_algorithms_enabled()
    with determinism(True):
        assert torch.are_deterministic_algorithms_enabled()
    with determinism(False):
        assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.are_deterministic_algorithms_enabled() == before
