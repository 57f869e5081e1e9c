"""CLIP's tokenizer, byte pair encoding with the vocabulary that open_clip ships: it needs no network."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from avcore import compat

__all__ = ["BEGIN", "END", "tokenize"]

BEGIN, END = 49406, 49407
"""The ids that begin and end a sentence."""


def tokenize(sentences: Sequence[str], length: int = 77) -> Tensor:
    """Sentences to ids (K, length), int64, on the CPU: `BEGIN`, the words, `END`, then zeros.

    Case and runs of blanks do not matter. Of a sentence that is too long the end is cut, and its last id is `END`.

    Args:
        sentences: K of them.
        length: ids of each.
    """
    # Also while models are made on the meta device.
    with torch.device("cpu"):
        made: Tensor = _tokenizer()(list(sentences), context_length=length)
    return made


@cache
def _tokenizer():  # type: ignore[no-untyped-def]
    compat.install()
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()
