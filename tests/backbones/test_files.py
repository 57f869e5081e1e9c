"""Files of weights as training scripts leave them: wrapped, averaged, under the names of a larger module."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avcore.backbones import read_tensors, state_faults
from avcore.errors import AVCoreError

PLAIN = {"norm.weight": torch.ones(2), "norm.bias": torch.zeros(2)}
AVERAGE = {"norm.weight": torch.full((2,), 3.0), "norm.bias": torch.full((2,), 4.0)}


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    def run(content: Any, *own: Any) -> dict[str, Tensor]:
        torch.save(content, tmp_path / "weights.pth")
        return read_tensors(tmp_path / "weights.pth", *own)

    return run


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("content", "taken", "other"),
    [
        ({"model": PLAIN, "model_ema": AVERAGE, "epoch": 3}, "model", "model_ema"),
        ({"state_dict_ema": AVERAGE, "state_dict": PLAIN}, "state_dict", "state_dict_ema"),
        ({"model": PLAIN, "ema": behind("module.", AVERAGE)}, "model", "ema"),
        ({"model": {"state_dict": PLAIN}, "model_ema": AVERAGE}, "model", "model_ema"),
        ({"model": behind("module.", PLAIN), "ema_weights": {"norm.weight": AVERAGE["norm.weight"]}}, "model", "ema_w"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_which_of_two_sets_was_taken_is_said(
    read: Callable[..., Any], caplog: pytest.LogCaptureFixture, content: Any, taken: str, other: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert same(read(content), PLAIN)
    (said,) = caplog.messages
    assert f"under '{taken}' and '{other}" in said
    assert f"'{taken}' was taken" in said
    assert f"['{other}" in said


def test_the_advice_to_save_the_other_set_works(
    read: Callable[..., Any], caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read({"model": PLAIN, "model_ema": AVERAGE})
    exec(caplog.messages[0].rpartition(": ")[2].removesuffix("."), {"torch": torch})
    assert same(read_tensors("model_ema.pth"), AVERAGE)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {"model": PLAIN, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}},
        {"state_dict": PLAIN, "loss": {"criterion.weight": torch.ones(1)}},
        {"model_ema": PLAIN, "epoch": 3},
        behind("module.", PLAIN),
        behind("_orig_mod.module.", PLAIN),
    ],
)
def test_one_set_is_read_without_a_word(
    read: Callable[..., Any], caplog: pytest.LogCaptureFixture, content: Any
) -> None:
    assert same(read(content), PLAIN)
    assert caplog.messages == []


def test_several_sets_under_strange_keys_are_refused(read: Callable[..., Any]) -> None:
    with pytest.raises(AVCoreError, match=r"holds several .*'student' and 'teacher'\. Which one\? Save it by itself"):
        read({"student": PLAIN, "teacher": AVERAGE, "epoch": 3})


@pytest.mark.parametrize("prefix", ["model.", "module.model.", "net.", "model.net.", "backbone.", "model._orig_mod."])
def test_what_holds_a_network_is_taken_off_every_name(read: Callable[..., Any], tmp_path: Path, prefix: str) -> None:
    assert same(read({"state_dict": behind(prefix, PLAIN)}, PLAIN), PLAIN)
    save_file(behind(prefix, PLAIN), tmp_path / "weights.safetensors")
    assert same(read_tensors(tmp_path / "weights.safetensors", PLAIN), PLAIN)


def test_names_of_the_network_itself_stay(read: Callable[..., Any]) -> None:
    own = behind("model.", PLAIN)
    assert same(read(own, own), own)
    assert same(read(behind("net.", own), own), own)
    assert same(read(own), own)  # nothing is known of whose they are
    mixed = {**own, "criterion.weight": torch.ones(1)}
    assert same(read(mixed, PLAIN), mixed)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({**behind("model.", PLAIN), "criterion.weight": torch.ones(1)}, "behind 'model.' in it"),
        ({**behind("net.", PLAIN), **behind("ema.net.", AVERAGE)}, "behind 'net.' and again behind 'ema.net.' in it"),
    ],
)
def test_names_behind_something_else_are_one_fault(given: dict[str, Tensor], says: str) -> None:
    (fault,) = state_faults(PLAIN, given)
    assert says in fault
    assert "save one set alone" in fault


def test_names_that_are_missing_behind_it_too_are_listed() -> None:
    faults = state_faults(PLAIN, {"model.norm.weight": torch.ones(2), "model.norm.gain": torch.ones(2)})
    assert len(faults) == 4
