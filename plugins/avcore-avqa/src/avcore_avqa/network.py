"""AVST's network behind its streams: where the sound is in the picture, when the question is about, and the answer.

Shape letters: B clips, T segments, M = B*T, N tokens, D the common width, A the width of sound, V that of pictures,
L words, C answers.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.modules import full_precision
from avcore_avqa.config import AVSTHeadConfig, GroundingHeadConfig

__all__ = ["AVSTNetwork", "AskedSeconds", "Matched", "Matching", "QuestionEncoder"]


class QuestionEncoder(nn.Module):
    """Words to one vector: embedding, tanh, an LSTM over the padding too, its last states, tanh, a map."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.project = nn.Linear(2 * width, width)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """(B, L) ids to (B, D)."""
        with full_precision(self.embedding.weight):
            _, (hidden_1BD, cell_1BD) = self.lstm(torch.tanh(self.embedding(ids_BL)))
        return self.project(torch.tanh(torch.cat([hidden_1BD[0], cell_1BD[0]], dim=-1)))  # type: ignore[no-any-return]


class AskedSeconds(nn.Module):
    """What the question attends to of T vectors: attention, then an MLP beside it, and a norm; the mean is added."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, question_BD: Tensor, x_BTD: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, D), and in evaluation the weights of the T vectors, (B, T), the mean over the heads."""
        attended_B1D, weights_B1T = self.attention(question_BD[:, None], x_BTD, x_BTD, need_weights=not self.training)
        attended_BD = attended_B1D[:, 0]
        mlp_BD = self.down(self.dropout(F.relu(self.up(attended_BD))))
        asked_BD = self.norm(attended_BD + self.dropout(mlp_BD)) + x_BTD.mean(1)
        return asked_BD, None if weights_B1T is None else weights_B1T[:, 0]


class Matched(NamedTuple):
    """What `Matching` makes: logits by name, vectors of sound and pictures, and where the sound is in each picture."""

    logits: dict[str, Tensor]
    audio_MD: Tensor
    visual_MD: Tensor
    regions_MN: Tensor


class Matching(nn.Module):
    """Where the sound is in the picture, and whether both match: what AVST's first stage trains.

    Args:
        config: of the head.
        visual: V. Pictures of the common width need no map.
        audio: A.
    """

    def __init__(self, config: GroundingHeadConfig, visual: int, audio: int) -> None:
        super().__init__()
        width, hidden = config.width, config.audio_hidden
        self.visual = nn.Identity() if visual == width else nn.Linear(visual, width)
        to_hidden = [nn.Linear(audio, hidden)] if hidden else []
        self.audio = nn.Sequential(*to_hidden, nn.Linear(hidden or audio, width), nn.ReLU(), nn.Linear(width, width))
        self.grounded = nn.Linear(2 * width, width)
        sizes = [2 * width, config.match_width, config.match_width // 2, config.match_width // 4]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.match = nn.Sequential(*layers, nn.Linear(sizes[-1], 2))

    def matched(self, visual_MNV: Tensor, audio_MA: Tensor, negative_MNV: Tensor | None = None) -> Matched:
        """``match`` (M, 2) logits and, of pictures of other clips, ``match_negative``, with what leads to them."""
        audio_MD = self.audio(audio_MA)
        visual_MD, regions_MN = self._ground(visual_MNV, audio_MD)
        made = {"match": self._match(visual_MD, audio_MD)}
        if negative_MNV is not None:
            made["match_negative"] = self._match(self._ground(negative_MNV, audio_MD)[0], audio_MD)
        return Matched(made, audio_MD, visual_MD, regions_MN)

    def _ground(self, visual_MNV: Tensor, audio_MD: Tensor) -> tuple[Tensor, Tensor]:
        """A vector of each picture, the mean of its tokens beside that of those like the sound; and their weights."""
        visual_MND = self.visual(visual_MNV)
        directions_MND = F.normalize(visual_MND, dim=-1)
        like_MN = (directions_MND @ F.normalize(audio_MD, dim=-1)[..., None])[..., 0].softmax(-1)
        heard_MD = (like_MN[:, None] @ directions_MND)[:, 0]
        return self.grounded(torch.tanh(torch.cat([visual_MND.mean(1), heard_MD], dim=-1))), like_MN

    def _match(self, visual_MD: Tensor, audio_MD: Tensor) -> Tensor:
        return self.match(torch.cat([audio_MD, visual_MD], dim=-1))  # type: ignore[no-any-return]


class AVSTNetwork(Matching):
    """From tokens of pictures, vectors of sound and questions to the answer, and whether sound and picture match.

    Args:
        config: of the head.
        visual: V. Pictures of the common width need no map.
        audio: A.
        question: what makes vectors of the common width of questions.
        answers: how many there are.
    """

    def __init__(self, config: AVSTHeadConfig, visual: int, audio: int, question: nn.Module, answers: int) -> None:
        super().__init__(config, visual, audio)
        width = config.width
        self.question = question
        self.visual_seconds = AskedSeconds(width, config.heads, config.dropout)
        self.audio_seconds = AskedSeconds(width, config.heads, config.dropout)
        self.joined = nn.Linear(2 * width, width)
        self.answer = nn.Linear(width, answers)

    def forward(
        self, visual_MNV: Tensor, audio_MA: Tensor, asked: Tensor, negative_MNV: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``answer`` (B, C) logits, ``match`` and, of pictures of other clips, ``match_negative``, (M, 2) logits.

        In evaluation also what was attended to, weights that add up to 1: ``seconds`` (B, T, 2) by the question, of
        sound and pictures, and ``regions`` (M, N) by the sound, of each picture.
        """
        made, audio_MD, visual_MD, regions_MN = self.matched(visual_MNV, audio_MA, negative_MNV)
        question_BD = self.question(asked)
        clips = len(asked)
        heard_BD, heard_BT = self.audio_seconds(question_BD, audio_MD.unflatten(0, (clips, -1)))
        seen_BD, seen_BT = self.visual_seconds(question_BD, visual_MD.unflatten(0, (clips, -1)))
        if heard_BT is not None and seen_BT is not None:
            made |= {"seconds": torch.stack([heard_BT, seen_BT], dim=-1), "regions": regions_MN}
        joined_BD = self.joined(torch.tanh(torch.cat([heard_BD, seen_BD], dim=-1)))
        return {"answer": self.answer(torch.tanh(joined_BD * question_BD)), **made}
