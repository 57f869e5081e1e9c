"""What DG-SCT's heads make of the segments of a clip (Duan et al., NeurIPS 2023; layers as in CMBS, CVPR 2022).

Shape letters: B clips, T segments, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.modules import full_precision
from avcore_dgsct.settings import TemporalSettings

__all__ = ["CrossDecoder", "Encoded", "SegmentEncoder", "count"]

ENCODER_LAYERS = 2


class Encoded(NamedTuple):
    """A stream over time: LSTM states (B, T, 2 * hidden), memory (B, T, width), gate (B, T, 1) between 0 and 1."""

    states: Tensor
    memory: Tensor
    gate: Tensor


class SegmentEncoder(nn.Module):
    """One stream over time: an LSTM in both directions, a linear map, two transformer layers, a sigmoid gate.

    Args:
        width_in: of the vectors of the segments.
        hidden: of each direction of the LSTM.
        settings: of the transformer.
    """

    def __init__(self, width_in: int, hidden: int, settings: TemporalSettings) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width_in, hidden, bidirectional=True, batch_first=True)
        self.affine = nn.Linear(2 * hidden, settings.width)
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
        # An LSTM takes one type for its input and its weights, also under autocast.
        with full_precision(x_BTD):
            states_BTD, _ = self.lstm(x_BTD.to(self.affine.weight.dtype))
        memory_BTD = self.transformer(self.affine(states_BTD))
        return Encoded(states_BTD, memory_BTD, torch.sigmoid(self.gate(memory_BTD)))


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


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
