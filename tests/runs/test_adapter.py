"""Adapters of real models (`avcore.runs.adapter`)."""

import json
import re
import sys

import pytest
import safetensors.torch
import torch

import avcore
from avcore.engine.checkpoint import load_tensors
from avcore.errors import AVCoreError
from avcore.states import parameter_groups, trainable_state


@pytest.fixture
def make(world):
    def create(**options):
        return avcore.create_model("rowing", **{"task": "listen", **options})

    return create


@pytest.fixture
def saved(make, tmp_path):
    model = make()
    with torch.no_grad():
        for _, parameter in parameter_groups(model)["parts"] + parameter_groups(model)["head"]:
            parameter.add_(1.0)
    avcore.save_adapter(model, tmp_path / "adapter")
    return model, tmp_path / "adapter"


def rewrite(path, change):
    state = load_tensors(path / "adapter.safetensors")
    change(state)
    safetensors.torch.save_file(state, path / "adapter.safetensors")


def test_an_adapter_carries_what_was_trained(make, saved, caplog):
    model, path = saved
    other = make()
    assert not torch.equal(trainable_state(other)["head.map.weight"], trainable_state(model)["head.map.weight"])
    avcore.load_adapter(path, other)
    assert caplog.messages == []
    for name, value in trainable_state(model).items():
        assert torch.equal(trainable_state(other)[name], value)


def test_an_adapter_holds_no_frozen_weights_and_no_code(saved):
    model, path = saved
    assert sorted(file.name for file in path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    assert set(load_tensors(path / "adapter.safetensors")) == set(trainable_state(model))


def test_an_adapter_says_what_it_belongs_to(saved):
    model, path = saved
    description = json.loads((path / "adapter.json").read_text())
    config = description["config"]
    assert description["frozen_digest"] == model.backbone_digest
    assert (config["task"], config["method"], config["visual"]) == ("listen", "rowing", {"backbone": "toy", "seed": 7})
    assert config["parts"] == {"rows": {"streams": "both", "lr_scale": 1.0, "length": 2}}
    assert config["head"] == {"name": "class"}
    assert description["plugins"]["prompts"]["rows"] == {"distribution": "toy-world", "version": "0"}
    assert description["plugins"]["heads"]["class"] == {"distribution": "toy-world", "version": "0"}
    assert description["versions"]["torch"] == torch.__version__


def test_an_adapter_knows_no_path_of_the_machine_that_made_it(make, tmp_path):
    avcore.save_adapter(make(set=[f"data.cache={tmp_path}/cache"]), tmp_path / "adapter")
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter.json").read_text()


def test_other_frozen_weights_are_refused(make, saved):
    with pytest.raises(AVCoreError, match="same backbones and weights"):
        avcore.load_adapter(saved[1], make(set=["visual.seed=8"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.map.bias"), r"missing head\.map\.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda state: state.update({"head.map.bias": torch.zeros(3)}), r"head\.map\.bias is \(3,\) instead of \(2,\)"),
        (
            lambda state: state.update({"head.map.bias": torch.tensor([0.0, torch.nan])}),
            "damaged: head.map.bias is not f",
        ),
        (lambda state: state.update({"head.map.bias": torch.zeros(2, dtype=torch.int32)}), "int32 instead of torch.fl"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_changed(make, saved, change, message):
    rewrite(saved[1], change)
    model = make()
    before = {name: value.clone() for name, value in trainable_state(model).items()}
    with pytest.raises(AVCoreError, match=message):
        avcore.load_adapter(saved[1], model)
    assert all(torch.equal(value, before[name]) for name, value in trainable_state(model).items())


def describe_otherwise(path, change):
    description = json.loads((path / "adapter.json").read_text())
    change(description)
    (path / "adapter.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it["versions"].update(torch="1.0"), r"torch 1\.0 \(here "),
        (lambda it: it["plugins"]["prompts"]["rows"].update(version="0.0.9"), None),
        (
            lambda it: it["plugins"]["prompts"]["rows"].update(distribution="twin"),
            r"'rows' of twin 0 \(here of toy-world 0\)",
        ),
        (lambda it: it["config"]["visual"].update(backbone="other"), r"visual\.backbone=other \(here toy\)"),
        (lambda it: it["config"]["parts"]["rows"].update(std=0.5), r"parts\.rows\.std=0\.5 \(here None\)"),
        (lambda it: it["config"].update(streams="visual"), r"streams=visual \(here both\)"),
        (lambda it: it["config"]["optim"].update(lr=7.0), None),
    ],
)
def test_whatever_else_differs_is_a_warning(make, saved, caplog, change, message):
    describe_otherwise(saved[1], change)
    avcore.load_adapter(saved[1], make())
    assert [bool(re.search(message or "", said)) for said in caplog.messages] == ([] if message is None else [True])


@pytest.mark.parametrize(("kind", "name"), [("prompts", "rows"), ("heads", "class"), ("backbones", "toy")])
def test_another_major_version_of_a_plugin_is_refused(make, saved, kind, name):
    describe_otherwise(saved[1], lambda it: it["plugins"][kind][name].update(version="3.1"))
    with pytest.raises(AVCoreError, match=rf"saved with toy-world 3\.1, which offers '{name}'; here is toy-world 0\."):
        avcore.load_adapter(saved[1], make())


def test_what_is_no_adapter_is_named(make, saved, tmp_path):
    with pytest.raises(AVCoreError, match=r"adapter\.json"):
        avcore.load_adapter(tmp_path, make())
    (tmp_path / "adapter.json").write_text('{"format": 99}')
    with pytest.raises(AVCoreError, match="format 1"):
        avcore.load_adapter(tmp_path, make())
    describe_otherwise(saved[1], lambda it: it.pop("plugins"))
    with pytest.raises(AVCoreError, match=r"adapter\.json is damaged: 'plugins' is missing or no dict"):
        avcore.load_adapter(saved[1], make())


def test_a_folder_of_other_things_is_not_overwritten(saved, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(AVCoreError, match="something else"):
        avcore.save_adapter(saved[0], tmp_path / "mine")
    avcore.save_adapter(saved[0], saved[1])


def test_loading_imports_nothing_that_an_adapter_names(make, saved, tmp_path, monkeypatch, caplog):
    (tmp_path / "avcore_evil_module.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def name_it(description):
        description["plugins"]["prompts"]["evil.rows"] = {"distribution": "avcore-evil-module", "version": "1"}
        description["config"]["parts"]["evil.rows"] = {"build": "avcore_evil_module:Rows"}
        description["config"]["_target_"] = "avcore_evil_module.Rows"

    describe_otherwise(saved[1], name_it)
    avcore.load_adapter(saved[1], make())
    assert "parts.evil.rows.build=avcore_evil_module:Rows (here None)" in caplog.messages[-1]
    assert "avcore_evil_module" not in sys.modules
    assert not (tmp_path / "proof").exists()
