"""Without a network the hub is asked once, briefly; what was fetched before is used."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

import avcore_timm
from avcore.backbones import ask_hub_once, hub
from avcore.errors import AVCoreError
from avcore.testing import make_model
from avcore_clap.weights import from_hub
from avcore_clip.weights import hub_file
from avcore_sentence.weights import hub_folder

NOWHERE = "http://127.0.0.1:9"
PAUSE = 0.3
"""s that these tests wait for an answer."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
    monkeypatch.setattr(hub, "_answered", {})
    monkeypatch.setattr(hub, "TIMEOUT", PAUSE)
    ask_at(monkeypatch, NOWHERE)


def ask_at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a host that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def broken() -> Iterator[str]:
    """The address of a hub that answers that it is out of order."""

    class Broken(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(503)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Broken)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_where_no_hub_answers_loaders_work_offline() -> None:
    with ask_hub_once():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()


def test_a_host_that_never_answers_is_not_waited_for(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_at(monkeypatch, silent)
    begun = time.monotonic()
    with ask_hub_once():
        assert constants.is_offline_mode()
    assert time.monotonic() - begun < 10 * PAUSE


def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> None:
        time.sleep(20 * PAUSE)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    ask_at(monkeypatch, "http://hub.invalid")
    begun = time.monotonic()
    with ask_hub_once():
        assert constants.is_offline_mode()
    assert time.monotonic() - begun < 10 * PAUSE


def test_a_hub_that_is_out_of_order_is_none(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_at(monkeypatch, broken)
    with ask_hub_once():
        assert constants.is_offline_mode()


def test_it_is_asked_once_for_all_backbones_and_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(address: str) -> bool:
        asked.append(address)
        return True

    monkeypatch.setattr(hub, "_ask", ask)
    for _ in range(3):
        with ask_hub_once():
            assert not constants.is_offline_mode()
    assert asked == [NOWHERE]
    monkeypatch.setattr(hub, "REMEMBERED", 0.0)
    with ask_hub_once():
        pass
    assert asked == [NOWHERE, NOWHERE]


def fetch_by_clap() -> None:
    from_hub("laion/clap-htsat-unfused", ("model.safetensors", "pytorch_model.bin"), what="The weights", ask="Ask.")


@pytest.mark.parametrize(
    "fetch",
    [
        partial(make_model, avcore_timm, "vit_tiny_patch16_224", sets=("visual.weights=hub",)),
        partial(hub_file, "ViT-B-32-quickgelu.openai", quick_gelu=True),
        partial(hub_folder, "all-MiniLM-L6-v2"),
        fetch_by_clap,
    ],
    ids=["timm", "clip", "sentence", "clap"],
)
def test_weights_that_cannot_be_fetched_are_said_once(
    fetch: Callable[[], Any], silent: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask_at(monkeypatch, silent)
    begun = time.monotonic()
    with caplog.at_level(logging.INFO), pytest.raises(AVCoreError, match="no network"):
        fetch()
    assert time.monotonic() - begun < 20 * PAUSE
    assert "Retry" not in caplog.text
