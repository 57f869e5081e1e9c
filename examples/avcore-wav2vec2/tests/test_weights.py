"""Weights: torchaudio's names load, hub is a file on disk before it is the network, what does not fit is named."""

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avcore import AVCoreError
from avcore_wav2vec2 import PRESETS
from avcore_wav2vec2.settings import Wav2Vec2Settings
from avcore_wav2vec2.trunk import Wav2Vec2, build
from avcore_wav2vec2.weights import own_keys

Make = Callable[..., Wav2Vec2]
CONV = "encoder.transformer.pos_conv_embed.conv."


def weights_of(backbone: Wav2Vec2) -> dict[str, Tensor]:
    own = backbone.tower("audio", Wav2Vec2Settings(), 1).weights()
    return {key: value.detach().clone() for key, value in own.items()}


def published(backbone: Wav2Vec2, *, old: bool) -> dict[str, Tensor]:
    """Under torchaudio's names, the positional kernel in two, and with a classifier."""
    own = weights_of(backbone)
    kernel = own.pop(CONV + "weight")
    names = ("weight_g", "weight_v") if old else (f"parametrizations.weight.original{index}" for index in (0, 1))
    # The length counts alone: the direction may have any.
    factors = (kernel.norm(dim=(0, 1), keepdim=True), kernel * 3)
    own |= {CONV + name: factor for name, factor in zip(names, factors, strict=True)}
    return own | {"aux.weight": torch.zeros(3, 32), "aux.bias": torch.zeros(3)}


@pytest.mark.parametrize("old", [True, False], ids=["published", "modules"])
def test_torchaudios_names_load(make: Make, name: str, old: bool, tmp_path: Path) -> None:
    first = make(name)
    file = tmp_path / "weights.pth"
    torch.save(published(first, old=old), file)
    loaded = make(name, weights=str(file))
    assert loaded.notices == ()
    for key, tensor in weights_of(first).items():
        torch.testing.assert_close(weights_of(loaded)[key], tensor, rtol=1e-6, atol=1e-7)


def test_the_kernel_is_torchs_own_weight_normalisation() -> None:
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(8, 8, 5, groups=2), name="weight", dim=2)
    conv.parametrizations.weight.original0.data.mul_(2)
    found = own_keys({CONV + key: value for key, value in conv.state_dict().items()})
    torch.testing.assert_close(found[CONV + "weight"], conv.weight)


def test_its_own_names_load_bit_for_bit(make: Make, name: str, tmp_path: Path) -> None:
    first = make(name)
    file = tmp_path / "weights.safetensors"
    save_file(weights_of(first), file)
    loaded = weights_of(make(name, weights=str(file)))
    assert all(torch.equal(loaded[key], tensor) for key, tensor in weights_of(first).items())


def test_what_does_not_fit_is_named(make: Make, tmp_path: Path) -> None:
    tensors = published(make("test_wav2vec2"), old=True)
    layer = "encoder.transformer.layers.1."
    tensors[layer + "attention.q_project.bias"] = tensors.pop(layer + "attention.q_proj.bias")
    tensors[layer + "layer_norm.weight"] = torch.zeros(5)
    file = tmp_path / "weights.pth"
    torch.save(tensors, file)
    with pytest.raises(AVCoreError) as raised:
        make("test_wav2vec2", weights=str(file))
    text = str(raised.value)
    assert f"'{file}' does not fit 'test_wav2vec2' (audio.weights)" in text
    assert f"missing {layer}attention.q_proj.bias" in text
    assert f"unexpected {layer}attention.q_project.bias" in text
    assert f"{layer}layer_norm.weight is (5,) instead of (32,)" in text


def test_a_file_that_holds_code_is_not_executed(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save(make("test_wav2vec2").model, file)
    with pytest.raises(AVCoreError, match="holds more than tensors"):
        make("test_wav2vec2", weights=str(file))


def small(name: str) -> Wav2Vec2:
    preset = {**PRESETS["test_wav2vec2"], "file": "published.pth"}
    return build(Wav2Vec2Settings(), name=name, preset=preset)


def test_hub_takes_the_file_that_is_there(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    first = make("test_wav2vec2")
    torch.save(weights_of(first), tmp_path / "checkpoints" / "published.pth")
    found = weights_of(small("small"))
    assert all(torch.equal(found[key], tensor) for key, tensor in weights_of(first).items())


def test_without_network_the_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, path: str, progress: bool) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(AVCoreError) as raised:
        small("small")
    text = str(raised.value)
    assert "https://download.pytorch.org/torchaudio/models/published.pth (URLError)" in text
    assert (
        f"Put that file at {tmp_path}/checkpoints/published.pth, or pass a file with --set audio.weights=PATH" in text
    )


def test_weights_must_be_asked_for_and_random_ones_are_announced(make: Make) -> None:
    with pytest.raises(AVCoreError, match=r"'test_wav2vec2' has no published weights: pass a file with --set audio"):
        make("test_wav2vec2", weights="hub")
    assert make("test_wav2vec2").notices == ("'test_wav2vec2' runs on random weights.",)
