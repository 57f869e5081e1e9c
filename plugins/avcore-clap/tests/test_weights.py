"""Weights of CLAP: files of both layouts, the hub, and refusals that say what to pass."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from claps import SOUND, TEXT, clap, sound, text
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

from avcore.cli import main
from avcore.errors import AVCoreError
from avcore_clap import SOUND_PRESETS, TEXT_PRESETS
from avcore_clap.settings import ClapSettings, ClapTextSettings
from avcore_clap.sound import build as build_sound
from avcore_clap.text import build as build_text
from avcore_clap.weights import sound_keys, text_keys

_ROBERTA = (
    *(("norm1.", "attention.output.LayerNorm."), ("norm2.", "output.LayerNorm."), ("proj.", "attention.output.dense.")),
    *(("fc1.", "intermediate.dense."), ("fc2.", "output.dense."), ("pooler.", "pooler.dense.")),
)
_EMBEDDINGS = {
    **{"words": "word_embeddings", "positions": "position_embeddings", "kinds": "token_type_embeddings"},
    "norm": "LayerNorm",
}


def laion(hears: Any, reads: Any, *, fusion: bool = False) -> dict[str, Tensor]:
    """Both towers and what lies beside them, as the checkpoints of LAION's CLAP name them."""
    found = {
        "logit_scale_a": torch.zeros(()),
        "logit_scale_t": torch.zeros(()),
        "audio_branch.spectrogram_extractor.stft.conv_real.weight": torch.zeros(5, 1, 8),
        "audio_branch.logmel_extractor.melW": torch.zeros(5, 4),
        "audio_branch.layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.int64),
        "audio_branch.tscam_conv.weight": torch.zeros(3, 4, 2, 3),
        "audio_branch.head.weight": torch.zeros(3, 3),
        "audio_transform.sequential.0.weight": torch.zeros(2, 2),
        "text_transform.sequential.0.weight": torch.zeros(2, 2),
        "text_branch.embeddings.position_ids": torch.arange(34)[None],
    }
    if fusion:
        found["audio_branch.patch_embed.mel_conv2d.weight"] = torch.zeros(2, 1, 2, 2)
        found["audio_branch.patch_embed.fusion_model.local_att.0.weight"] = torch.zeros(1, 2, 1, 1)
    for key, tensor in hears.weights().items():
        named = key if key.startswith("projection.") else f"branch.{_merging_ends_a_stage(key)}"
        found[f"audio_{named}"] = tensor
    for key, tensor in reads.weights().items():
        name, _, rest = key.partition(".")
        if name == "projection":
            found[f"text_{key}"] = tensor
        elif name in _EMBEDDINGS:
            found[f"text_branch.embeddings.{_EMBEDDINGS[name]}.{rest}"] = tensor
        elif ".qkv." in key:
            for one, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                block = key.replace("blocks.", "encoder.layer.").replace(".qkv.", f".attention.self.{one}.")
                found[f"text_branch.{block}"] = piece.contiguous()
        else:
            for ours, theirs in _ROBERTA:
                key = re.sub(rf"(^|\.){re.escape(ours)}", rf"\1{theirs}", key)
            found[f"text_branch.{key.replace('blocks.', 'encoder.layer.')}"] = tensor
    return {f"module.{key}": tensor.detach() for key, tensor in found.items()}


def _merging_ends_a_stage(key: str) -> str:
    return re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key)


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.fixture(scope="module")
def towers() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return sound(), text()


def test_laions_checkpoints_load(towers: tuple[Any, Any], tmp_path: Path) -> None:
    file = tmp_path / "clap.pt"
    torch.save({"epoch": 3, "name": "clap", "state_dict": laion(*towers)}, file)
    assert same(sound(file).weights(), towers[0].weights())
    assert same(text(file).weights(), towers[1].weights())
    assert sound(file).trunk.notices == text(file).trunk.notices == ()


@pytest.mark.parametrize("converted", [sound_keys, text_keys])
def test_our_own_names_and_unknown_ones_stay(towers: tuple[Any, Any], converted: Any) -> None:
    own = towers[0 if converted is sound_keys else 1].weights()
    assert same(converted(own), own)
    assert set(converted({"no.such.key": torch.zeros(1), "logit_scale_a": torch.zeros(())})) == {"no.such.key"}


@pytest.mark.parametrize("member", ["test_clap", "test_clap_text"])
def test_avcore_convert_takes_a_tower_out_of_a_checkpoint(member: str, tmp_path: Path) -> None:
    hears = sound(preset=SOUND_PRESETS["test_clap"]).float()
    reads = text(preset=TEXT_PRESETS["test_clap_text"]).float()
    tower = hears if member == "test_clap" else reads
    file, out = tmp_path / "clap.pt", tmp_path / "weights"
    torch.save(laion(hears, reads), file)
    done = CliRunner().invoke(main, ["convert", "--from", member, str(file), "-o", str(out)])
    assert done.exit_code == 0, done.output
    (written,) = out.glob("*.safetensors")
    assert same(load_file(written), tower.weights())


def test_fusion_is_left_out_and_told_and_needs_its_own_filters(towers: tuple[Any, Any], tmp_path: Path) -> None:
    file = tmp_path / "fusion.pt"
    torch.save(laion(*towers, fusion=True), file)
    with pytest.raises(AVCoreError, match=r"holds a CLAP with fusion, .* than 'small' hears by: name clap_fused"):
        sound(file)
    made = sound(file, preset={**SOUND, "filters": "htk"})
    assert same(made.weights(), towers[0].weights())
    (notice,) = made.trunk.notices
    assert notice.startswith("'small' leaves the fusion of its weights out: it is for inputs above 10 s")
    assert text(file).trunk.notices == ()


def test_transformers_fusion_is_left_out_too() -> None:
    fused = clap(fusion=True).state_dict()
    assert any("fusion_model" in key for key in fused)
    assert sound_keys(fused).keys() == sound().weights().keys()


def test_without_the_projection(saved: Path) -> None:
    tower = sound(saved, projection=False)
    assert tower.layout.shared is None
    assert same(tower.weights(), {k: v for k, v in sound(saved).weights().items() if not k.startswith("projection.")})
    with pytest.raises(NotImplementedError, match=r"layout\.shared is None"):
        tower.project(torch.zeros(1, 64))


def test_what_does_not_fit_is_named(towers: tuple[Any, Any], tmp_path: Path) -> None:
    state = laion(*towers)
    state["module.audio_branch.norm9.weight"] = state.pop("module.audio_branch.norm.weight")
    del state["module.text_branch.encoder.layer.1.attention.self.key.bias"]
    file = tmp_path / "torn.pt"
    torch.save(state, file)
    with pytest.raises(AVCoreError, match=r"does not fit 'small' \(audio\.weights\): missing norm\.weight; .*norm9"):
        sound(file)
    with pytest.raises(AVCoreError, match=r"\(text\.weights\): missing blocks\.1\.qkv\.bias; unexpected .*query\.bias"):
        text(file)


def test_random_weights_are_said(towers: tuple[Any, Any]) -> None:
    for tower in towers:
        assert tower.trunk.notices == ("'small' runs on random weights.",)


# --------------------------------------------------------------------------------------------------------------------
# The hub


def test_without_a_network_it_is_said_what_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*given: Any, **more: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    says = r"'small' could not be fetched from 'a/clap' \(OSError\).*--set {0}\.weights=PATH.*{0}\.weights=random"
    with pytest.raises(AVCoreError, match=says.format("audio")):
        sound("hub", preset={**SOUND, "hub": "a/clap"})
    with pytest.raises(AVCoreError, match=says.format("text")):
        text("hub", preset={**TEXT, "hub": "a/clap"})
    with pytest.raises(AVCoreError, match=r"'small' has no weights\. Pass a file with --set audio\.weights=PATH"):
        sound("hub")


def test_the_hub_is_asked_for_safetensors_first(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, file: str) -> str:
        asked.append((repository, file))
        if file != "pytorch_model.bin":
            raise OSError("no such file there")
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert same(sound("hub", preset={**SOUND, "hub": "a/clap"}).weights(), sound(saved).weights())
    assert asked == [("a/clap", "model.safetensors"), ("a/clap", "pytorch_model.bin")]


def test_unknown_members_are_refused() -> None:
    with pytest.raises(AVCoreError, match="'clap_small' has no sizes: choose a preset"):
        build_sound(ClapSettings(), name="clap_small", preset=None)
    with pytest.raises(AVCoreError, match="'clap_text_small' has no sizes"):
        build_text(ClapTextSettings(), name="clap_text_small", preset=None)
