"""Both streams over the segments of a clip, as CMBS and DG-SCT have it (Xia and Zhao, CVPR 2022; layers of CMRAN).

Shape letters: B clips, T segments, D width.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.modules import full_precision
from avcore_ave.config import TemporalSettings

__all__ = ["CrossDecoder", "Encoded", "Interacted", "Interaction", "SegmentEncoder", "count", "run_lstm"]

ENCODER_LAYERS = 2


class Encoded(NamedTuple):
    """A stream over time: states (B, T, D), memory (B, T, width), gate (B, T, 1) between 0 and 1."""

    states: Tensor
    memory: Tensor
    gate: Tensor


class SegmentEncoder(nn.Module):
    """One stream over time: an LSTM in both directions, a linear map, two transformer layers, a sigmoid gate.

    Args:
        width_in: of the vectors of the segments.
        hidden: of each direction of the LSTM; 0 for none, the states are then the vectors themselves.
        settings: of the transformer.
    """

    def __init__(self, width_in: int, hidden: int, settings: TemporalSettings) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width_in, hidden, bidirectional=True, batch_first=True) if hidden else None
        self.affine = nn.Linear(2 * hidden if hidden else width_in, settings.width)
        layer = nn.TransformerEncoderLayer(
            settings.width, settings.heads, settings.feed_forward, settings.dropout, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, ENCODER_LAYERS, enable_nested_tensor=False)
        self.gate = nn.Linear(settings.width, 1)

    @property
    def unused_in_reference(self) -> int:
        """The layer that the reference copies its layers from, and keeps."""
        return count(self.transformer) // ENCODER_LAYERS

    def forward(self, x_BTD: Tensor) -> Encoded:
        """(B, T, D) of whole clips."""
        states_BTD = x_BTD if self.lstm is None else run_lstm(self.lstm, x_BTD)
        memory_BTD = self.transformer(self.affine(states_BTD))
        return Encoded(states_BTD, memory_BTD, torch.sigmoid(self.gate(memory_BTD)))


def run_lstm(lstm: nn.LSTM, x_BTD: Tensor) -> Tensor:
    """The states of every segment, (B, T, 2 * hidden)."""
    # An LSTM takes one type for its input and its weights, also under autocast.
    with full_precision(x_BTD):
        states_BTD, _ = lstm(x_BTD.to(next(lstm.parameters()).dtype))
    return states_BTD  # type: ignore[no-any-return]


class CrossDecoder(nn.Module):
    """One stream reads the other: attention to the other's memory and to itself, then an MLP; norms after each.

    Args:
        width_in: of the states that ask.
        settings: of the transformer.
    """

    def __init__(self, width_in: int, settings: TemporalSettings) -> None:
        super().__init__()
        width = settings.width
        self.affine = nn.Linear(width_in, width)
        self.attention = nn.MultiheadAttention(width, settings.heads, dropout=settings.dropout, batch_first=True)
        self.norm_attention = nn.LayerNorm(width)
        self.up = nn.Linear(width, settings.feed_forward)
        self.down = nn.Linear(settings.feed_forward, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.dropout = nn.Dropout(settings.dropout)

    @property
    def unused_in_reference(self) -> int:
        """A self-attention that the reference never calls, and the layer, with another, that it copies its own from."""
        return count(self) - count(self.affine) + 2 * count(self.attention)

    def forward(self, states_BTD: Tensor, memory_BTD: Tensor) -> Tensor:
        """States (B, T, width_in) of one stream and the other's memory (B, T, width) to (B, T, width)."""
        query_BTD = self.affine(states_BTD)
        seen_BKD = torch.cat([memory_BTD, query_BTD], dim=1)
        read_BTD, _ = self.attention(query_BTD, seen_BKD, seen_BKD, need_weights=False)
        x_BTD = self.norm_attention(query_BTD + self.dropout(read_BTD))
        out_BTD = self.down(self.dropout(F.relu(self.up(x_BTD))))
        return self.norm_mlp(x_BTD + self.dropout(out_BTD))  # type: ignore[no-any-return]


class Interacted(NamedTuple):
    """Both streams after they read each other, (B, T, D), and their common gate, (B, T, 1), between 0 and 1."""

    visual: Tensor
    audio: Tensor
    gate: Tensor


class Interaction(nn.Module):
    """Each stream over time, decoded from the other's memory and scaled by gates of both memories.

    With labels of segments a stream is scaled by 1 + gamma times the *other's* gate, and the common gate is the
    product. In CMBS's weakly supervised model (``weak``) there are no LSTMs, a stream is scaled by 1 - gamma + gamma
    times its *own* gate, and the common gate is the mean.

    Args:
        visual_in, audio_in: widths of the vectors of the segments.
        settings: of the transformers.
        gamma: weight of the gates.
        encoder_feed_forward: hidden width of the encoders' MLP; 0 for that of the settings.
        weak: as above.
    """

    def __init__(
        self,
        visual_in: int,
        audio_in: int,
        settings: TemporalSettings,
        *,
        gamma: float,
        encoder_feed_forward: int = 0,
        weak: bool = False,
    ) -> None:
        super().__init__()
        encoder = replace(settings, feed_forward=encoder_feed_forward or settings.feed_forward)
        width = settings.width
        self.visual = SegmentEncoder(visual_in, 0 if weak else width, encoder)
        self.audio = SegmentEncoder(audio_in, 0 if weak else width // 2, encoder)
        self.visual_decoder = CrossDecoder(visual_in if weak else 2 * width, settings)
        self.audio_decoder = CrossDecoder(audio_in if weak else width, settings)
        self.gamma, self.weak = gamma, weak

    @property
    def unused_in_reference(self) -> int:
        """Of the encoders and decoders."""
        return sum(
            part.unused_in_reference for part in (self.visual, self.audio, self.visual_decoder, self.audio_decoder)
        )

    def forward(self, visual_BTD: Tensor, audio_BTD: Tensor) -> Interacted:
        """Vectors of the segments of both streams, of their own widths."""
        visual, audio = self.visual(visual_BTD), self.audio(audio_BTD)
        visual_BTD = self.visual_decoder(visual.states, audio.memory)
        audio_BTD = self.audio_decoder(audio.states, visual.memory)
        if self.weak:
            kept = 1 - self.gamma
            return Interacted(
                visual_BTD * (kept + self.gamma * visual.gate),
                audio_BTD * (kept + self.gamma * audio.gate),
                (visual.gate + audio.gate) / 2,
            )
        return Interacted(
            visual_BTD * (1 + self.gamma * audio.gate),
            audio_BTD * (1 + self.gamma * visual.gate),
            visual.gate * audio.gate,
        )


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
