"""Questions as sentences for a pretrained encoder: letters in a tensor, ids of its own tokenizer, one vector each.

Shape letters: B clips, W letters, L ids, D width of the encoder's vectors.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.modules import at_least_single
from avcore.specs import resolve
from avcore.tasks import Encoder
from avcore_avqa.words import MARKS

__all__ = ["letters_of", "sentence_of", "text_of", "vectors_of"]

_logger = logging.getLogger(__name__)


def sentence_of(words: Sequence[str]) -> str:
    """Words of a question, from a file or a person, as one sentence: names of two words apart, one mark at the end."""
    text = " ".join(words).replace("_", " ")
    return text if any(mark in text for mark in MARKS) else f"{text}?"


def letters_of(text: str, length: int) -> Tensor:
    """A question as the numbers of its letters in Unicode, (length,) int64, filled up with 0.

    What is too long is cut, which is told.

    Raises:
        AVCoreError: it has no letter.
    """
    if not any(letter.isalnum() for letter in text):
        raise AVCoreError("The question has no word. Ask one, such as 'Is the piano louder than the violin?'.")
    if len(text) > length:
        _tell(
            f"A question has {len(text)} letters, and is read up to '...{text[max(0, length - 20) : length]}': "
            f"{length} is the most (task_options.letters)."
        )
    numbers = [ord(letter) for letter in text[:length]]
    return torch.tensor(numbers + [0] * (length - len(numbers)))


def text_of(letters: Sequence[int]) -> str:
    """What `letters_of` was given."""
    return "".join(chr(number) for number in letters if number)


def vectors_of(encoder: Encoder, letters_BW: Tensor) -> Tensor:
    """The vectors of questions, (B, D), of about unit size per number; in the shared space where there is one.

    A sentence that is longer than the encoder reads is cut by its tokenizer, which is told.
    """
    geometry = encoder.tower.geometry
    if letters_BW.is_meta:
        ids_BL = torch.zeros(len(letters_BW), geometry.length, dtype=torch.int64, device="meta")
    else:
        sentences = [text_of(row) for row in letters_BW.tolist()]
        ids_BL = _ids(resolve(geometry.tokenizer), sentences, geometry.length).to(letters_BW.device)
    pooled_BD = encoder(ids_BL).pooled
    vectors_BD = pooled_BD if encoder.tower.layout.shared is None else encoder.project(pooled_BD)
    scaled_BD: Tensor = F.normalize(at_least_single(vectors_BD), dim=-1) * vectors_BD.shape[-1] ** 0.5
    return scaled_BD


@cache
def _tell(message: str) -> None:
    """Warn once: the same question comes again in each epoch."""
    _logger.warning(message)


def _ids(tokenize: Callable[..., Tensor], sentences: list[str], length: int) -> Tensor:
    ids_BL = tokenize(sentences, length=length)
    # With one id more, what has been cut differs before its end.
    more_BL = tokenize(sentences, length=length + 1)[:, :length]
    for sentence, cut in zip(sentences, (ids_BL != more_BL).any(1).tolist(), strict=True):
        if cut:
            _tell(f"The encoder reads {length} ids (text.length) and no more of: '{sentence[:60]}...'.")
    return ids_BL
