"""A small model as people have one: a folder with settings, weights and a tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from avcore import compat
from avcore_sentence import TEST_SENTENCE

compat.install()  # transformers imports torchvision, which may need help to be importable

WORDS = ["a", "dog", "barks", "rain", "how", "many", "are", "sound", "##ing", "?", "'", "el", "pi", "##ano", "é", "音"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SIZES = {**TEST_SENTENCE["config"], "vocab_size": len(VOCABULARY), "max_position_embeddings": 24}


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder of a model with random weights; ``settings`` go into config.json, ``prefix`` before every name."""

    def make(prefix: str = "", **settings: Any) -> Path:
        from safetensors.torch import save_file
        from transformers import BertConfig, BertModel

        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        config = BertConfig(**SIZES)
        model = BertModel(config)
        moved = {key: value + torch.randn_like(value) * 0.1 for key, value in model.state_dict().items()}
        save_file({f"{prefix}{key}": value for key, value in moved.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "bert", **settings}))
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
        return folder

    return make


@pytest.fixture(scope="session")
def folder(make_folder: Callable[..., Path]) -> Path:
    """One that is not changed."""
    return make_folder()
