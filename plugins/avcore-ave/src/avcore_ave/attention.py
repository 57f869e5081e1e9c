"""Pooling the positions of a picture as the sound of its segment says.

Shape letters: M = B*T segments, N positions, D width of a position, A width of the audio vector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AVELPooling", "GuidedPooling", "positions"]

SELF_ATTENTION_DROPOUT = 0.2


def positions(map_MDYX: Tensor) -> Tensor:
    """The positions of a map, (M, N, D), row by row."""
    return map_MDYX.flatten(2).mT


class AVELPooling(nn.Module):
    """AVEL (Tian et al., ECCV 2018): softmax over positions of w_h tanh(W_v ReLU(U_v x) + W_g ReLU(U_a a)).

    W_g gives a number for each position, as in the published code (in the paper it is one vector for all of them), so
    that N is fixed.
    """

    def __init__(self, visual_in: int, audio_in: int, count: int, *, width: int, scores: int) -> None:
        super().__init__()
        self.audio = nn.Linear(audio_in, width)
        self.visual = nn.Linear(visual_in, width)
        self.visual_score = nn.Linear(width, scores, bias=False)
        self.audio_score = nn.Linear(width, count, bias=False)
        self.weight = nn.Linear(scores, 1, bias=False)
        for layer in self.children():
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(self, x_MND: Tensor, audio_MA: Tensor) -> Tensor:
        """(M, D)."""
        by_sound_MN1 = self.audio_score(F.relu(self.audio(audio_MA)))[..., None]
        mixed_MNs = torch.tanh(self.visual_score(F.relu(self.visual(x_MND))) + by_sound_MN1)
        return _weighted(self.weight(mixed_MNs), x_MND)


class GuidedPooling(nn.Module):
    """CMBS (Xia and Zhao, CVPR 2022): sound weighs channels, then positions; what pictures attend to alone adds to it.

    With x' = LN(x + self-attention(x)), without scaling:
    c = x (1 + sigmoid(W ReLU(V mean over N of ReLU(W_a a) ReLU(W_v x')))),
    y = sum over N of softmax(tanh(w (ReLU(U_v c) ReLU(U_a a)))) c,
    s = the same over x' with ReLU(U mean x') for sound, and the result y (1 + beta sigmoid(s)).

    Attributes:
        unused_in_reference: a linear map from D to the hidden width.
    """

    def __init__(self, width: int, audio_in: int, *, hidden: int, beta: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width // 4)
        self.key = nn.Linear(width, width // 4)
        self.value = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(SELF_ATTENTION_DROPOUT)
        self.mean_self = nn.Linear(width, hidden)
        self.visual_self = nn.Linear(width, hidden)
        self.weight_self = nn.Linear(hidden, 1)
        self.audio_channel = nn.Linear(audio_in, width)
        self.visual_channel = nn.Linear(width, width)
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        self.audio_position = nn.Linear(audio_in, hidden)
        self.visual_position = nn.Linear(width, hidden)
        self.weight_position = nn.Linear(hidden, 1)
        self.beta = beta
        self.unused_in_reference = (width + 1) * hidden

    def forward(self, x_MND: Tensor, audio_MA: Tensor) -> Tensor:
        """(M, D)."""
        attention_MNN = torch.softmax(self.query(x_MND) @ self.key(x_MND).mT, dim=-1)
        seen_MND = self.norm(x_MND + self.dropout(attention_MNN @ self.value(x_MND)))
        mean_M1k = F.relu(self.mean_self(seen_MND.mean(1, keepdim=True)))
        alone_MD = _weighted(torch.tanh(self.weight_self(F.relu(self.visual_self(seen_MND)) * mean_M1k)), seen_MND)

        audio_M1A = audio_MA[:, None]
        mixed_M1D = (F.relu(self.audio_channel(audio_M1A)) * F.relu(self.visual_channel(seen_MND))).mean(
            1, keepdim=True
        )
        channels_MND = x_MND * (1 + torch.sigmoid(self.up(F.relu(self.down(mixed_M1D)))))
        mixed_MNk = F.relu(self.visual_position(channels_MND)) * F.relu(self.audio_position(audio_M1A))
        pooled_MD = _weighted(torch.tanh(self.weight_position(mixed_MNk)), channels_MND)
        return pooled_MD * (1 + self.beta * torch.sigmoid(alone_MD))


def _weighted(scores_MN1: Tensor, x_MND: Tensor) -> Tensor:
    return (torch.softmax(scores_MN1, dim=1) * x_MND).sum(1)
