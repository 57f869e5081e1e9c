"""Weights of the text towers: three layouts of files, the hub, and refusals that say what to pass."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avcore.backbones import without_blocks
from avcore.errors import AVCoreError
from avcore_clip import PRESETS, TEST_CLIP_TEXT
from avcore_clip.models import configuration
from avcore_clip.settings import TextSettings
from avcore_clip.text import ClipText, build
from avcore_clip.weights import text_keys


def small(weights: str = "random") -> ClipText:
    return build(TextSettings(weights=weights), name="small", preset=TEST_CLIP_TEXT)


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: torch.randn_like(value) for key, value in without_blocks(small().model).items()}


def beside_pictures(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.proj": torch.zeros(2, 2), "logit_scale": torch.zeros(())}


def on_its_own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"text.{key}": value for key, value in state.items()} | {"visual.trunk.x": torch.zeros(1)}


def hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of Hugging Face's CLIPModel, written down from its documentation."""
    found = {
        "logit_scale": torch.zeros(()),
        "visual_projection.weight": torch.zeros(2, 2),
        "vision_model.post_layernorm.weight": torch.zeros(2),
        "text_model.embeddings.position_ids": torch.arange(16)[None],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.final_layer_norm.weight": state["ln_final.weight"],
        "text_model.final_layer_norm.bias": state["ln_final.bias"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
    }
    for number in range(3):
        theirs, ours = f"text_model.encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            for one, part in zip("qkv", state[f"{ours}attn.in_proj_{kind}"].chunk(3), strict=True):
                found[f"{theirs}self_attn.{one}_proj.{kind}"] = part.contiguous()
            found[f"{theirs}self_attn.out_proj.{kind}"] = state[f"{ours}attn.out_proj.{kind}"]
            found[f"{theirs}layer_norm1.{kind}"] = state[f"{ours}ln_1.{kind}"]
            found[f"{theirs}layer_norm2.{kind}"] = state[f"{ours}ln_2.{kind}"]
            found[f"{theirs}mlp.fc1.{kind}"] = state[f"{ours}mlp.c_fc.{kind}"]
            found[f"{theirs}mlp.fc2.{kind}"] = state[f"{ours}mlp.c_proj.{kind}"]
    return found


@pytest.mark.parametrize("layout", [beside_pictures, on_its_own, hugging_face])
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_files_are_loaded_in_every_layout(layout: Any, ending: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"weights.{ending}"
    written = layout(state)
    if ending == "pt":
        torch.save({"state_dict": {f"module.{key}": value for key, value in written.items()}}, path)
    else:
        save_file(written, path)
    loaded = without_blocks(small(str(path)).model)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_half_precision_is_widened(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({key: value.half() for key, value in state.items()}, path)
    assert small(str(path)).model.positional_embedding.dtype == torch.float32


def test_what_does_not_fit_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    del state["ln_final.bias"]
    state["transformer.resblocks.9.ln_1.bias"] = torch.zeros(2)
    state["positional_embedding"] = torch.zeros(77, 16)
    save_file(state, path)
    with pytest.raises(AVCoreError) as caught:
        small(str(path))
    for part in ("missing ln_final.bias", "unexpected transformer.resblocks.9.ln_1.bias", "is (77, 16) instead of"):
        assert part in str(caught.value)


def test_a_block_without_its_keys_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    written = hugging_face(state)
    del written["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    save_file(written, tmp_path / "torn.safetensors")
    with pytest.raises(AVCoreError, match=r"missing transformer\.resblocks\.1\.attn\.k_proj\.bias"):
        small(str(tmp_path / "torn.safetensors"))


def test_names_that_are_not_known_stay() -> None:
    assert set(text_keys({"no.such.key": torch.zeros(1), "visual.x": torch.zeros(1)})) == {"no.such.key"}


def test_random_weights_are_said() -> None:
    assert small().notices == ("'small' runs on random weights.",)


# --------------------------------------------------------------------------------------------------------------------
# By name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-16-quickgelu.openai", r"could not be fetched.*--set text\.weights=PATH.*text\.weights=random"),
        ("ViT-B-32.laion2b_s34b_b79k", r"could not be fetched"),
        ("ViT-B-16.openai", r"trained with OpenAI's activation: write 'ViT-B-16-quickgelu\.openai'"),
        ("ViT-H-14-quickgelu.none", r"no weights 'none' of 'ViT-H-14-quickgelu': write .*\.dfn5b"),
        ("ViT-B-16", r"'ViT-B-16' does not say which weights: write ViT-B-16\.openai.*text\.weights=PATH"),
        ("ViT-S-16", r"no weights of 'ViT-S-16'.*text\.weights=PATH"),
        ("ViT-B-61", r"open_clip has no model 'ViT-B-61'.*Did you mean"),
        ("ViT-B-16-SigLIP.webli", r"'ViT-B-16-SigLIP\.webli' cannot be used: its tokenizer is not part of open_clip"),
        ("coca_ViT-B-32", r"a class token behind its sentences"),
        ("roberta-ViT-B-32", r"one of Hugging Face's"),
    ],
)
def test_without_weights_it_is_said_what_to_pass(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def offline(*given: Any, **more: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    monkeypatch.setattr("avcore_clip.text.make_model", lambda config: torch.nn.Identity())
    with pytest.raises(AVCoreError, match=re.compile(message, re.DOTALL)):
        build(TextSettings(), name=name, preset=None)


def test_the_hub_is_asked_for_the_tag(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    asked: list[Any] = []
    save_file(state, tmp_path / "hub.safetensors")
    monkeypatch.setattr(
        open_clip, "download_pretrained", lambda known: asked.append(known) or tmp_path / "hub.safetensors"
    )
    name = "ViT-B-32.laion2b_s34b_b79k"
    loaded = build(TextSettings(), name=name, preset=TEST_CLIP_TEXT)
    assert torch.equal(loaded.model.positional_embedding, state["positional_embedding"])
    assert asked == [open_clip.get_pretrained_cfg(*name.split("."))]


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("test_")])
def test_presets_are_what_open_clip_knows(name: str) -> None:
    import open_clip

    config = configuration(name, PRESETS[name])
    text = config["text_cfg"]
    found = {key: text[key] for key in ("width", "heads")} | {"depth": text["layers"], "length": text["context_length"]}
    assert {**found, "shared": config["embed_dim"]} == PRESETS[name]
    assert open_clip.is_pretrained_cfg(*name.split("."))
    model, tag = name.split(".")
    assert bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu")) == bool(config.get("quick_gelu"))
