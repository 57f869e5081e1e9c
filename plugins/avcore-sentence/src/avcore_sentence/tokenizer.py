"""Sentences to ids: with the tokenizer that comes with the weights, or, beside random ones, by hashing words."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore import compat
from avcore.errors import AVCoreError

__all__ = ["FolderTokenizer", "HashedWords"]


FILES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")
"""One of these holds the words. Without any, transformers makes a tokenizer that knows none."""


@dataclass(frozen=True)
class FolderTokenizer:
    """The tokenizer whose files lie in a folder.

    Attributes:
        folder: as ``save_pretrained`` and the hub lay it out.
    """

    folder: Path

    @property
    def pad(self) -> int:
        """The id that fills sentences up."""
        return int(_load(self.folder).pad_token_id)

    @property
    def vocabulary(self) -> int:
        """How many ids there are, those that were added included."""
        return len(_load(self.folder))

    def __call__(self, sentences: Sequence[str], length: int = 128) -> Tensor:
        """Sentences to ids (K, length), int64, on the CPU; of a sentence that is too long the end is cut.

        Args:
            sentences: K of them.
            length: ids of each.
        """
        made = _load(self.folder)(list(sentences), padding="max_length", truncation=True, max_length=length)
        # Also while models are made on the meta device.
        return torch.tensor(made["input_ids"], dtype=torch.int64, device="cpu")


@dataclass(frozen=True)
class HashedWords:
    """Random weights know no words: each gets an id by its hash.

    Attributes:
        vocabulary: how many ids there are; 0 fills sentences up, 1 begins and 2 ends them.
    """

    vocabulary: int

    @property
    def pad(self) -> int:
        """The id that fills sentences up."""
        return 0

    def __call__(self, sentences: Sequence[str], length: int = 128) -> Tensor:
        """As `FolderTokenizer`."""
        made = torch.zeros(len(sentences), length, dtype=torch.int64, device="cpu")
        for number, sentence in enumerate(sentences):
            words = [zlib.crc32(word.encode()) % (self.vocabulary - 3) + 3 for word in sentence.lower().split()]
            ids = [1, *words[: length - 2], 2]
            made[number, : len(ids)] = torch.tensor(ids, device="cpu")
        return made


@cache
def _load(folder: Path) -> Any:
    """The tokenizer in a folder.

    Raises:
        AVCoreError: there is none, or one that cannot fill sentences up.
    """
    compat.install()
    # It would warn where workers are forked after its first use.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers import AutoTokenizer

    try:
        if not any((folder / name).is_file() for name in FILES):
            raise FileNotFoundError(FILES[0])
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever its many readers raise
        raise AVCoreError(
            f"'{folder}' has no tokenizer that transformers can read ({type(error).__name__}): put tokenizer.json, or "
            "vocab.txt and tokenizer_config.json, beside the weights (text.weights)."
        ) from error
    if found.pad_token_id is None:
        raise AVCoreError(f"The tokenizer in '{folder}' has no pad token, so that sentences cannot be filled up.")
    return found
