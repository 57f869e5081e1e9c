"""Files of a sentence encoder: what is read, and what is refused with what to do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from avcore.errors import AVCoreError
from avcore_sentence import PRESETS, TEST_SENTENCE
from avcore_sentence.settings import SentenceSettings
from avcore_sentence.text import build


def made(folder: Path) -> Any:
    return build(SentenceSettings(weights=str(folder)), name="sentence", preset=None)


def test_names_of_other_files(make_folder: Any, folder: Path) -> None:
    expected = made(folder).state_dict()
    # Google's BERT: its names stand behind bert., beside heads, and norms have gamma and beta.
    other = make_folder("bert.")
    state = load_file(other / "model.safetensors")
    old = {key.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for key, v in state.items()}
    torch.save({**old, "cls.predictions.bias": torch.zeros(3)}, other / "pytorch_model.bin")
    (other / "model.safetensors").unlink()
    found = made(other).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_folder_is_written_down_as_one_that_holds_from_anywhere(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder.parent)
    assert SentenceSettings(weights=folder.name).weights == str(folder)
    assert SentenceSettings().weights == "hub"


def test_without_a_network_it_says_what_to_do() -> None:
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-mpnet-base-v2"):
        with pytest.raises(
            AVCoreError, match=r"could not be fetched.*--set text\.weights=FOLDER.*text\.weights=random"
        ):
            build(SentenceSettings(), name=name, preset=PRESETS.get(name))
    with pytest.raises(
        AVCoreError, match=r"'sentence' names no model: give its folder with --set text\.weights=FOLDER"
    ):
        build(SentenceSettings(), name="sentence", preset=None)
    with pytest.raises(AVCoreError, match="Random weights need a size"):
        build(SentenceSettings(weights="random"), name="sentence", preset=None)


def test_random_weights_are_told() -> None:
    backbone = build(SentenceSettings(weights="random"), name="test_sentence", preset=TEST_SENTENCE)
    assert "random weights" in backbone.notices[0]


def broken(folder: Path, tmp_path: Path, change: Any) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def config_with(**settings: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

    return change


def smaller(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    state["encoder.layer.0.output.dense.bias"] = torch.zeros(3)
    del state["embeddings.LayerNorm.weight"]
    save_file(state, file)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (config_with(model_type="mpnet"), "holds a model of the kind 'mpnet', and this family knows 'bert' alone"),
        (config_with(position_embedding_type="relative_key"), "position_embedding_type=relative_key"),
        (config_with(is_decoder=True), "is_decoder=True"),
        (config_with(vocab_size=7), "has 21 ids and the model 7: they are not of one model"),
        (smaller, r"missing embeddings\.LayerNorm\.weight; .*dense\.bias is \(3,\) instead of \(16,\)"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "vocab.txt").unlink(), "has no tokenizer that transformers can read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights: put model.safetensors or"),
        (
            lambda folder: (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]'),
            "its Dense is not known here",
        ),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path, change: Any, match: str) -> None:
    with pytest.raises(AVCoreError, match=match):
        made(broken(folder, tmp_path, change))


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(AVCoreError, match=r"is a file \(text\.weights\): name the folder that it lies in"):
        made(folder / "model.safetensors")


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, avcore_sentence; list(avcore_sentence.avcore_backbones()); "
        "print(sorted({'torch', 'transformers', 'tokenizers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
