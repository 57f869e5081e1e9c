"""Which process this is, without any others."""

import pytest
import torch

from avcore.engine.device import choose_device
from avcore.ranks import Ranks, from_all, from_first, in_turn, joined, ranks, summed, wait


def test_one_process_is_the_first_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks() == Ranks(0, 1, 0)
    assert ranks().first
    with joined(), in_turn():
        wait()
        assert not torch.distributed.is_initialized()
        assert summed(torch.tensor([1.5])).tolist() == [1.5]
        assert from_first("here") == "here"
        assert from_all("here") == ["here"]


def test_torchrun_says_which_process_this_is_and_which_device_it_has(monkeypatch):
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert ranks() == Ranks(5, 8, 1)
    assert not ranks().first
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [choose_device(name).index for name in ("auto", "cuda", "cuda:3")] == [1, 1, 3]


@pytest.mark.parametrize("name", ["get_rank", "WORLD_SIZE"])
def test_nobody_else_reads_them(name):
    from pathlib import Path

    root = Path(__file__).parents[1] / "avcore"
    found = [path.name for path in root.rglob("*.py") if name in path.read_text(encoding="utf-8")]
    assert found == ["ranks.py"]
