"""What a golden case keeps of an output is read off sizes and, where these leave a choice, off its description."""

import pytest
import torch

from avcore.testing.golden import as_stored


@pytest.mark.parametrize("step", [1, 3, 7, 16])
def test_the_step_comes_from_the_sizes(step: int) -> None:
    whole = torch.randn(2, 4096, 5)
    assert torch.equal(as_stored(whole, whole[:1, ::step]), whole[:1, ::step])


def test_every_dimension_behind_the_first_has_its_own_step() -> None:
    whole = torch.randn(5, 1, 24, 30)
    assert torch.equal(as_stored(whole, whole[:3, :, ::3, ::2]), whole[:3, :, ::3, ::2])


def test_a_choice_of_steps_is_made_by_the_description() -> None:
    whole = torch.randn(1, 1001, 4)
    for step in (48, 49, 50):
        told = f"out/power: first 6 frames; out/bn0: every {step}th frame; out/embed: every 7th token"
        assert torch.equal(as_stored(whole, torch.empty(1, 21, 4), told), whole[:, ::step])
    with pytest.raises(AssertionError, match=r"which 21 of 1001 entries .* \[7\]"):
        as_stored(whole, torch.empty(1, 21, 4), "every 7th")


def test_sizes_that_no_step_leaves_are_refused() -> None:
    with pytest.raises(AssertionError, match="which 40 of 64 entries"):
        as_stored(torch.zeros(2, 64), torch.zeros(2, 40))
    with pytest.raises(AssertionError, match="3 dimensions instead of 2"):
        as_stored(torch.zeros(2, 3, 4), torch.zeros(2, 3))
