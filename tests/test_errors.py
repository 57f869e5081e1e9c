"""Every kind of error that a user can act on, raised by a typical mistake."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

import avcore
from avcore.data.media import decode_audio, probe
from avcore.discovery import PluginPolicy, load_plugins
from avcore.engine.device import choose_device
from avcore.specs import resolve
from avcore.states import load_trainable_state


def unknown_name() -> None:
    avcore.create_model("cpol", task="avs", meta=True)


def wrong_value() -> None:
    avcore.create_model("copl", task="avs", set=["optim.lr=fast"], meta=True)


def wrong_device() -> None:
    choose_device("abacus")


def missing_media() -> None:
    probe(Path("nowhere.mp4"))


def sound_of_no_length() -> None:
    decode_audio(Path("nowhere.wav"), rate=16000, seconds=0.0)


def backbone_of_the_other_stream() -> None:
    avcore.create_model("copl", task="avs", visual="htsat", meta=True)


def tensors_of_another_model() -> None:
    load_trainable_state(avcore.create_model("copl", task="avs", meta=True), {})


def class_that_is_not_there() -> None:
    resolve("avcore.specs:Invented")


@pytest.mark.parametrize(
    ("kind", "mistake"),
    [
        (avcore.ConfigError, unknown_name),
        (avcore.ConfigError, wrong_value),
        (avcore.ConfigError, wrong_device),
        (avcore.DataError, missing_media),
        (avcore.DataError, sound_of_no_length),
        (avcore.AssemblyError, backbone_of_the_other_stream),
        (avcore.AssemblyError, tensors_of_another_model),
        (avcore.PluginError, class_that_is_not_there),
    ],
)
def test_a_mistake_has_its_kind(kind: type[avcore.AVCoreError], mistake: Callable[[], None]) -> None:
    with pytest.raises(avcore.AVCoreError) as raised:
        mistake()
    assert type(raised.value) is kind


def test_a_broken_plugin_is_an_error_of_its_kind_where_that_is_asked_for(install_plugin: Callable[..., str]) -> None:
    install_plugin("toy-bad", "1 / 0")
    with pytest.raises(avcore.PluginError, match="toy-bad"):
        load_plugins(PluginPolicy(strict=True))


KINDS = {
    "config": ("ConfigError", "PluginError"),
    "data": ("DataError", "CacheError"),
    "discovery": ("PluginError",),
    "registry.py": ("ConfigError",),
    "injection": ("AssemblyError",),
    "mounting.py": ("AssemblyError",),
    "assemble.py": ("AssemblyError",),
}
"""Layer -> the kinds of what it finds wrong."""


@pytest.mark.parametrize("layer", KINDS)
def test_what_a_layer_raises_has_a_kind(layer: str) -> None:
    place = Path(avcore.__file__).parent / layer
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "AVCoreError":
                pytest.fail(f"{path.name} line {node.lineno}: raise {' or '.join(KINDS[layer])}")


def test_no_reason_is_printed_that_may_be_missing() -> None:
    for path in sorted(Path(avcore.__file__).parent.rglob("*.py")):
        found = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr == "strerror"
        ]
        assert not found, f"{path} line {found[0]}: avcore.errors.why(error) says more than None"
