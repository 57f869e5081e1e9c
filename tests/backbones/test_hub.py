"""Without a network the hub is asked once, briefly; what was fetched before is used."""

import logging

import pytest
from huggingface_hub import constants

import avcore_timm
from avcore.backbones import ask_hub_once
from avcore.errors import AVCoreError
from avcore.testing import make_model

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOWHERE + "/{repo_id}/resolve/{revision}/{filename}")


def test_where_no_hub_answers_loaders_work_offline(no_network: None) -> None:
    with ask_hub_once():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()


def test_where_it_answers_loaders_ask_it(no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.backbones.hub._answers", lambda address: address == NOWHERE)
    with ask_hub_once():
        assert not constants.is_offline_mode()


def test_weights_that_cannot_be_fetched_are_said_once(no_network: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(AVCoreError, match=r"no network.*--set visual\.weights=PATH"):
        make_model(avcore_timm, "vit_tiny_patch16_224", sets=("visual.weights=hub",))
    assert "Retry" not in caplog.text
