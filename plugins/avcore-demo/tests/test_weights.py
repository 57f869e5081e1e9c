"""The tiny vision transformer that comes with the demo."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

WEIGHTS = files("avcore_demo") / "weights"


def test_the_weights_fit_timm_exactly() -> None:
    from avcore.compat import install

    install()
    import timm

    record = json.loads((WEIGHTS / "demo_vit.json").read_text())
    state = safetensors_torch.load((WEIGHTS / "demo_vit.safetensors").read_bytes())
    assert {value.dtype for value in state.values()} == {torch.float16}
    settings = dict(record["model"])
    model = timm.create_model(settings.pop("name"), pretrained=False, **settings)
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    with torch.inference_mode():
        assert model.eval().forward_features(torch.zeros(1, 3, 96, 96)).shape == (1, 145, 128)


def test_the_weights_are_small_and_good() -> None:
    assert len((WEIGHTS / "demo_vit.safetensors").read_bytes()) <= 4 * 2**20
    record = json.loads((WEIGHTS / "demo_vit.json").read_text())
    # Patches half covered count as objects here: a few of them are taken for background.
    assert record["accuracy"]["patch_kind_on_objects"] > 90
    assert record["accuracy"]["sound_single_class_token"] > 95
    assert set(record["filter_bank"]) >= {"mean", "std"}
