"""Reference outputs of published implementations, and real data, for tests that have them at hand.

Golden cases lie in the folder that ``AVCORE_GOLDEN`` names: ``NAME.safetensors`` with tensors called ``weights/...``,
``in/...``, ``out/...``, ``grad/...``, and ``NAME.json`` with the case's configuration. A test takes sizes, flags and
seeds from there, carries the name of its case in its id, and skips when the folder is not named. Under
``AVCORE_REQUIRE_GOLDEN=1`` it fails instead. Real data lie in the folder that ``AVCORE_TEST_DATA`` names.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

__all__ = ["as_stored", "assert_close", "load_case", "real_data"]


def load_case(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of a golden case; skips or fails the test that asks for a missing one."""
    from safetensors.torch import load_file

    folder = os.environ.get("AVCORE_GOLDEN", "")
    case = Path(folder, f"{name}.json")
    if folder and case.is_file():
        return load_file(case.with_suffix(".safetensors")), json.loads(case.read_text(encoding="utf-8"))
    missing = f"golden case {name} is not in {folder}" if folder else f"golden case {name}: AVCORE_GOLDEN is not set"
    if os.environ.get("AVCORE_REQUIRE_GOLDEN") == "1":
        pytest.fail(missing)
    pytest.skip(missing)


def as_stored(tensor: Tensor, reference: Tensor, description: str = "") -> Tensor:
    """What a case keeps of a large output: the first of the batch, and of each further dimension every n-th entry.

    Every n comes from the two sizes. Where several n leave as many entries, the largest that the case's own description
    names ("every 50th frame") is taken.

    Raises:
        AssertionError: the numbers of dimensions differ, or no n is known.
    """
    assert tensor.ndim == reference.ndim, f"{tensor.ndim} dimensions instead of {reference.ndim}"
    named = {int(number) for number in re.findall(r"every (\d+)(?:st|nd|rd|th)", description)}
    kept = [slice(len(reference))]
    for whole, left in zip(tensor.shape[1:], reference.shape[1:], strict=True):
        fitting = [step for step in range(1, max(whole, 1) + 1) if -(-whole // step) == left]
        if len(fitting) > 1 and fitting[0] != 1:
            fitting = [step for step in fitting if step in named][-1:]
        assert fitting, f"which {left} of {whole} entries are kept? The case names every n-th for n in {sorted(named)}."
        kept.append(slice(None, None, fitting[0]))
    return tensor[tuple(kept)]


def assert_close(actual: Tensor, reference: Tensor, tolerance: float, *, floor: float = 1.0) -> None:
    """Ask for equal shapes and |actual - reference| <= tolerance * max(floor, max |reference|).

    The usual tolerances, with the case's float32 weights and inputs run in float64: 1e-5 for gradients, parts, heads
    and losses; 2e-4 for filter banks; with ``floor=0``, max(5e-5, twice the case's ``rel_to_max``) for the outputs of
    whole models.
    """
    assert actual.shape == reference.shape, f"shape {tuple(actual.shape)} instead of {tuple(reference.shape)}"
    if reference.numel() == 0:
        return
    difference = (actual.detach().double().cpu() - reference.double()).abs().max().item()
    bound = tolerance * max(floor, reference.double().abs().max().item())
    assert difference <= bound, f"differs by {difference:.3g}; allowed {bound:.3g}"


def real_data(*parts: str) -> Path:
    """A file or folder under ``AVCORE_TEST_DATA``; skips the test that asks for it when that is not set."""
    folder = os.environ.get("AVCORE_TEST_DATA", "")
    if not folder:
        pytest.skip("real data: AVCORE_TEST_DATA is not set")
    path = Path(folder, *parts)
    assert path.exists(), f"{path} does not exist"
    return path
