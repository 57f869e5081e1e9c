"""CLIP's tokenizer, which ships with open_clip: no network, and the ids that CLIP was trained with."""

import socket
from typing import Any

import pytest
import torch

from avcore.specs import TextGeometry
from avcore_clip.tokenizer import BEGIN, END, _tokenizer, tokenize


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **more: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    _tokenizer.cache_clear()


def test_the_ids_are_clips() -> None:
    ids = tokenize(["a photo of a cat", "Hello   World"])
    assert (ids.shape, ids.dtype) == ((2, 77), torch.int64)
    assert ids[0, :8].tolist() == [BEGIN, 320, 1125, 539, 320, 2368, END, 0]
    assert ids[1, :4].tolist() == [BEGIN, 3306, 1002, END]
    assert torch.equal(ids[1], tokenize(["hello world"])[0])


def test_long_sentences_are_cut_and_still_end() -> None:
    ids = tokenize(["dog " * 100], length=8)
    assert ids.shape == (1, 8)
    assert (ids[0, 0].item(), ids[0, -1].item()) == (BEGIN, END)


def test_a_placeholder_is_one_id() -> None:
    geometry = TextGeometry(length=8, vocabulary=49408, tokenizer="avcore_clip.tokenizer:tokenize")
    ids = tokenize([f"{geometry.placeholder} {geometry.placeholder} dog"], length=geometry.length)
    first, second, dog = ids[0, geometry.lead : geometry.lead + 3].tolist()
    assert first == second != dog
    assert ids[0, geometry.lead + 3].item() == END


def test_no_sentences() -> None:
    assert tokenize([]).shape == (0, 77)


def test_ids_lie_on_the_cpu() -> None:
    with torch.device("meta"):
        assert tokenize(["a dog"]).device.type == "cpu"
