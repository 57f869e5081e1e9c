"""Adapters of real models (`avcore.runs.adapter`)."""

import json
import warnings

import pytest
import safetensors.torch
import torch

import avcore
from avcore.engine.checkpoint import load_tensors
from avcore.errors import AVCoreError


@pytest.fixture
def make(world):
    def create(**options):
        return avcore.create_model("rowing", **{"task": "listen", **options})

    return create


@pytest.fixture
def saved(make, tmp_path):
    model = make()
    with torch.no_grad():
        for _, parameter in model.parameter_groups()["parts"] + model.parameter_groups()["head"]:
            parameter.add_(1.0)
    avcore.save_adapter(model, tmp_path / "adapter")
    return model, tmp_path / "adapter"


def rewrite(path, change):
    state = load_tensors(path / "adapter.safetensors")
    change(state)
    safetensors.torch.save_file(state, path / "adapter.safetensors")


def test_an_adapter_carries_what_was_trained(make, saved):
    model, path = saved
    other = make()
    assert not torch.equal(other.trainable_state()["head.map.weight"], model.trainable_state()["head.map.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        avcore.load_adapter(other, path)
    for name, value in model.trainable_state().items():
        assert torch.equal(other.trainable_state()[name], value)


def test_an_adapter_holds_no_frozen_weights_and_no_code(saved):
    model, path = saved
    assert sorted(file.name for file in path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    assert set(load_tensors(path / "adapter.safetensors")) == set(model.trainable_state())


def test_an_adapter_says_what_it_belongs_to(saved):
    model, path = saved
    description = json.loads((path / "adapter.json").read_text())
    assert description["frozen_digest"] == model.backbone_digest
    assert (description["task"], description["method"], description["visual"]) == ("listen", "rowing", "toy")
    assert description["parts"] == {"rows": {"length": 2}}
    assert description["head"] == {"name": "class"}
    assert description["versions"]["torch"] == torch.__version__


def test_other_frozen_weights_are_refused(make, saved):
    with pytest.raises(AVCoreError, match="same backbones and weights"):
        avcore.load_adapter(make(set=["visual.seed=8"]), saved[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.map.bias"), r"missing head\.map\.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda state: state.update({"head.map.bias": torch.zeros(3)}), r"head\.map\.bias is \(3,\) instead of \(2,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_changed(make, saved, change, message):
    rewrite(saved[1], change)
    model = make()
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    with pytest.raises(AVCoreError, match=message):
        avcore.load_adapter(model, saved[1])
    assert all(torch.equal(value, before[name]) for name, value in model.trainable_state().items())


def test_other_versions_are_a_warning(make, saved):
    file = saved[1] / "adapter.json"
    description = json.loads(file.read_text())
    description["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(description))
    with pytest.warns(UserWarning, match=r"torch 1\.0 \(here "):
        avcore.load_adapter(make(), saved[1])


def test_what_is_no_adapter_is_named(make, tmp_path):
    with pytest.raises(AVCoreError, match=r"adapter\.json"):
        avcore.load_adapter(make(), tmp_path)
    (tmp_path / "adapter.json").write_text('{"format": 99}')
    with pytest.raises(AVCoreError, match="format 1"):
        avcore.load_adapter(make(), tmp_path)


def test_a_folder_of_other_things_is_not_overwritten(saved, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(AVCoreError, match="something else"):
        avcore.save_adapter(saved[0], tmp_path / "mine")
    avcore.save_adapter(saved[0], saved[1])
