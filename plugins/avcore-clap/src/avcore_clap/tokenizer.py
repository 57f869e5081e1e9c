"""RoBERTa's tokenizer, byte pair encoding with a vocabulary that is no part of this package."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore.errors import AVCoreError
from avcore_clap.weights import from_hub

__all__ = ["BEGIN", "END", "PAD", "Tokenizer"]

BEGIN, PAD, END = 0, 1, 2
"""The ids that begin a sentence, fill it up and end it."""

_ASK = (
    "Pass a tokenizer.json, or a folder with vocab.json and merges.txt, with --set text.tokenizer=PATH (RoBERTa's own; "
    "every CLAP has it), or for a trial on random weights --set text.tokenizer=words."
)
_WORDS = 64  # ids of the checksums of words


@dataclass(frozen=True)
class Tokenizer:
    """Sentences to ids (K, length), int64, on the CPU: `BEGIN`, the words, `END`, then `PAD`.

    Of a sentence that is too long the end is cut, and its last id is `END`. Files are read when it is first called.

    Attributes:
        source: a repository of the hub, a ``tokenizer.json``, a folder with ``vocab.json`` and ``merges.txt``, or
            ``words``: an id for each word by its checksum.
    """

    source: str

    def __call__(self, sentences: Sequence[str], length: int = 77) -> Tensor:
        """Make ids.

        Raises:
            AVCoreError: the source is not there, or no tokenizer of RoBERTa's kind; says what to pass.
        """
        if self.source == "words":
            return _words(sentences, length)
        tokenizer = _read(self.source)
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, pad_id=PAD, pad_token="<pad>")
        ids = [made.ids for made in tokenizer.encode_batch(list(sentences))]
        return torch.tensor(ids, dtype=torch.int64, device="cpu").reshape(len(ids), length)


@cache
def _read(source: str) -> Any:
    """The tokenizer of files."""
    tokenizer = _found(source)
    names = {"<s>": BEGIN, "<pad>": PAD, "</s>": END}
    if any(tokenizer.token_to_id(name) != number for name, number in names.items()):
        raise AVCoreError(f"The tokenizer '{source}' is not RoBERTa's: its <s>, <pad>, </s> are not 0, 1, 2. {_ASK}")
    return tokenizer


def _found(source: str) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import RobertaProcessing

    path = Path(source)
    if not path.exists():
        if source.count("/") != 1 or path.suffix == ".json":
            raise AVCoreError(f"The tokenizer '{source}' does not exist. {_ASK}")
        path = from_hub(source, ("tokenizer.json",), what="The tokenizer", ask=_ASK)
    try:
        if path.is_file():
            return Tokenizer.from_file(str(path))
        made = Tokenizer(BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    except Exception as error:
        raise AVCoreError(f"The tokenizer '{source}' cannot be read: {error}. {_ASK}") from error
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.post_processor = RobertaProcessing(("</s>", END), ("<s>", BEGIN), add_prefix_space=False)
    return made


def _words(sentences: Sequence[str], length: int) -> Tensor:
    """An id for each word by its checksum, above those of begin, filling and end."""
    made = torch.full((len(sentences), length), PAD, dtype=torch.int64, device="cpu")
    for number, sentence in enumerate(sentences):
        words = [zlib.crc32(word.encode()) % (_WORDS - END - 1) + END + 1 for word in sentence.lower().split()]
        ids = [BEGIN, *words[: length - 2], END]
        made[number, : len(ids)] = torch.tensor(ids, device="cpu")
    return made
