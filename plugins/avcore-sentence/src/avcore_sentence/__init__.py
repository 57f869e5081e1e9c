"""Sentence encoders of the BERT family, on the modules of transformers. Light: it imports no torch, no transformers."""

from collections.abc import Iterable, Mapping
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import TEXT, BackboneSpec
from avcore_sentence.settings import SentenceSettings


def _minilm(depth: int, vocabulary: int = 30522) -> Mapping[str, Any]:
    return {
        "hidden_size": 384,
        "num_hidden_layers": depth,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
    }


TEST_SENTENCE: Mapping[str, Any] = {
    "config": {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 64,
        "max_position_embeddings": 128,
    }
}
"""Small enough to be tested in a second."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "all-MiniLM-L6-v2": {"config": _minilm(6)},
    "all-MiniLM-L12-v2": {"config": _minilm(12)},
    "paraphrase-MiniLM-L3-v2": {"config": _minilm(3)},
    "paraphrase-multilingual-MiniLM-L12-v2": {"config": _minilm(12, vocabulary=250037)},
    "test_sentence": TEST_SENTENCE,
}


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    """Encoders by their name on the hub, and any of the BERT family in a folder."""
    return [
        BackboneSpec(
            name="sentence",
            build="avcore_sentence.text:build",
            config=SentenceSettings,
            paper="arXiv:1908.10084",
            summary="sentence encoders of the BERT family, such as MiniLM, by their name on the hub or from a folder",
            presets=PRESETS,
            patterns=("sentence-transformers/*",),
            streams=(TEXT,),
        )
    ]
