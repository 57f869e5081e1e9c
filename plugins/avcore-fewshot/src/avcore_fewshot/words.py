"""Names of classes as vectors, and how similar features are to them.

Shape letters: B clips, T segments, C classes, K sentences, D width of a shared space.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from avcore.errors import AssemblyError
from avcore.modules import at_least_single
from avcore.specs import STREAMS, TEXT, TEXTS, StreamLayout, TextGeometry, resolve
from avcore.tasks import Features
from avcore_fewshot.config import PLACE, WordsSettings

__all__ = ["Words", "joined", "probabilities", "scaled_cosine"]

WHAT = {"visual": "pictures", "audio": "sound"}
SMALL = 1e-6
"""The least that logits are divided by."""


class Words:
    """The sentences of the classes, and their vectors.

    Sentences become ids at the first call, by the tokenizer of the encoder that is there.

    Args:
        settings: the templates.
        classes: their names.
        layouts: of the streams that run, by name.

    Attributes:
        streams: the streams that are compared, each with the encoder of its sentences.

    Raises:
        AssemblyError: a stream and its sentences lie in no common space.
    """

    def __init__(self, settings: WordsSettings, classes: Sequence[str], layouts: Mapping[str, StreamLayout]) -> None:
        templates = {"visual": settings.visual_templates, "audio": settings.audio_templates}
        running = [name for name in STREAMS if name in layouts]
        self.sentences = {
            name: [one.replace(PLACE, plain) for one in templates[name] for plain in map(_plain, classes)]
            for name in running
        }
        self.classes = len(classes)
        self.streams = {name: _encoder_of(name, running, layouts) for name in running}
        self._ids: dict[str, Tensor] = {}

    def vectors(self, features: Features, stream: str) -> Tensor:
        """(C, D), of length 1, computed at fp32 at least: of several templates the mean."""
        encoder = features.encoders[self.streams[stream]]
        return self.means(encoder.project(encoder(self.ids(features, stream), keep=True).pooled))

    def ids(self, features: Features, stream: str) -> Tensor:
        """The sentences as ids (K, L), one template after the other; the same tensor as long as the device is."""
        device = features.stream(stream).pooled.device
        ids_KL = self._ids.get(stream)
        if ids_KL is None or ids_KL.device != device:
            geometry = features.encoders[self.streams[stream]].tower.geometry
            self._ids[stream] = ids_KL = self._made(stream, geometry, device)
        return ids_KL

    def means(self, vectors_KD: Tensor) -> Tensor:
        """Vectors of the sentences, (..., K, D), to those of the classes, (..., C, D), both made of length 1."""
        vectors_KD = F.normalize(at_least_single(vectors_KD), dim=-1)
        return F.normalize(vectors_KD.unflatten(-2, (-1, self.classes)).mean(-3), dim=-1)

    def _made(self, stream: str, geometry: TextGeometry, device: torch.device) -> Tensor:
        if device.type == "meta":  # shapes alone: a tokenizer may need files
            return torch.zeros(len(self.sentences[stream]), geometry.length, dtype=torch.long, device=device)
        made: Tensor = resolve(geometry.tokenizer)(self.sentences[stream], length=geometry.length)
        return made.to(device)


def scaled_cosine(x_BTD: Tensor, words_CD: Tensor, scale: float) -> Tensor:
    """``scale`` times the cosine of each vector with each word, (B, T, C), at fp32 at least."""
    x_BTD = F.normalize(at_least_single(x_BTD), dim=-1)
    return scale * x_BTD @ words_CD.to(x_BTD.dtype).mT


def joined(how: str, logits: Sequence[Tensor]) -> Tensor:
    """The logits of both streams as one, (B, T, C); those of a stream alone stay.

    Args:
        how: ``mean``: the logarithm of the mean of both probabilities. ``sum``: 2 l_v + 2 l_a, DG-SCT's few-shot score.
            ``weighted``: w l_v + (1 - w) l_a with w = l_v / (l_v + l_a), its score without training.
        logits: l_v and l_a, or one of them.
    """
    if len(logits) == 1:
        return logits[0]
    visual, audio = logits
    if how == "sum":
        return 2 * visual + 2 * audio
    if how == "weighted":
        total = visual + audio
        w = visual / torch.where(total.abs() < SMALL, SMALL, total)
        return w * visual + (1 - w) * audio
    return torch.stack([one.log_softmax(-1) for one in logits]).logsumexp(0) - torch.tensor(2.0).log()


def probabilities(logits_BTC: Tensor) -> Tensor:
    """Softmax over the classes, at fp32 at least."""
    return at_least_single(logits_BTC).softmax(-1)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _encoder_of(stream: str, running: Sequence[str], layouts: Mapping[str, StreamLayout]) -> str:
    own = TEXTS[1] if stream == "audio" and TEXTS[1] in layouts else TEXT
    has, wanted = layouts[stream].shared, layouts[own].shared
    if has is None:
        raise AssemblyError(
            f"The backbone for {WHAT[stream]} shares no space with sentences, so that they cannot be compared: choose "
            f"one that was trained beside sentences with --{stream} NAME, or leave {WHAT[stream]} out with --streams."
        )
    if stream == "audio" and own == TEXT and len(running) > 1 and layouts[stream].trunk == stream:
        raise AssemblyError(
            "Sound has a backbone of its own, and --text NAME is the encoder of the sentences that pictures were "
            "trained beside: name that of sound with --text-audio NAME; the same one, where it is."
        )
    if has != wanted:
        option = own.replace("_", "-")
        raise AssemblyError(
            f"The backbone for {WHAT[stream]} gives vectors of {has} numbers to be compared, and --{option} "
            f"{'of none' if wanted is None else f'of {wanted}'}: they were not trained together. Choose two that were."
        )
    return own
