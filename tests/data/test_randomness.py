import torch

from avcore.data.randomness import generator, torch_generator


def test_draws_depend_on_all_four_and_on_nothing_else() -> None:
    keys = [(0, "order", 0, 0), (1, "order", 0, 0), (0, "swap", 0, 0), (0, "order", 1, 0), (0, "order", 0, 1)]
    first = [generator(*key).integers(2**62) for key in keys]
    again = [generator(*key).integers(2**62) for key in reversed(keys)]
    assert first == again[::-1]
    assert len(set(first)) == len(keys)


def test_torch_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draws = [torch.rand(3, generator=torch_generator(seed, "drop", 2, 3)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)
