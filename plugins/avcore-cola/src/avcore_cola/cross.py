"""``cola.cross``: increments of frozen maps whose cores are made from the other stream (CoLA, arXiv:2604.03314).

Shape letters: M = B*T, W windows, N tokens, D width, r rank, d width of the other stream's vector, o and i widths out
of and into a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import BlockLayout, FusionLayer
from avcore.injection import PairLayout, PairView
from avcore_baselines.lowrank import MADE_OF, down, widths_of
from avcore_cola.settings import CrossSettings

__all__ = ["Core", "CrossLayer", "CrossPath", "summary"]

NARROWEST = 4
"""Of what makes a core: behind a norm of one number nothing is left of the other stream."""


def summary(x: Tensor, block: BlockLayout) -> Tensor:
    """The vector of a stream that the other one reads, (M, d): its class token, or the mean of all tokens.

    The mean where there is no class token, or several windows in which it may lie.

    Args:
        x: (M, N, d), or (M, W, N, d) in windows.
        block: of the stream.
    """
    whole = x.dim() == 3 or x.shape[1] == 1
    x_MNd = x.flatten(1, -2)
    return x_MNd[:, 0] if block.prefix and whole else x_MNd.mean(1)


class Core(nn.Module):
    """Phi(c) = LN(W_2 LN(GELU(W_1 c + b_1)) + b_2), r x r."""

    def __init__(self, width: int, hidden: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, rank * rank)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.LayerNorm((rank, rank))

    def forward(self, c_Md: Tensor) -> Tensor:
        """(M, d) to (M, r, r)."""
        made: Tensor = self.out(self.second(self.norm(F.gelu(self.first(c_Md)))).unflatten(-1, (self.rank, self.rank)))
        return made


class CrossPath(nn.Module):
    """s B Phi(c) A x for one map: A random, B zero at first.

    Args:
        config: of the part.
        widths: (o, i) of the map.
        other: d.
        hidden: width between d and r x r.
    """

    def __init__(self, config: CrossSettings, widths: tuple[int, int], other: int, hidden: int) -> None:
        super().__init__()
        out, into = widths
        self.A, self.B = down(config.rank, into), nn.Parameter(torch.zeros(out, config.rank))
        self.core = Core(other, hidden, config.rank)
        self.scale = nn.Parameter(torch.tensor(config.scale))

    def forward(self, x: Tensor, c_Md: Tensor) -> Tensor:
        """(M, N, i) or (M, W, N, i), and the other stream's vector, to (..., o)."""
        core = self.core(c_Md).mT
        if x.dim() == 4:  # the same core in all windows of a picture
            core = core[:, None]
        made: Tensor = self.scale * F.linear(F.linear(x, self.A) @ core, self.B)
        return made


class CrossLayer(FusionLayer):
    """The paths of both streams at one pair of blocks, one for each of q, k, v, proj, fc1 and fc2."""

    def __init__(self, config: CrossSettings, pair: PairLayout) -> None:
        super().__init__()
        self.blocks = {"visual": pair.visual, "audio": pair.audio}
        self.visual = self._paths(config, pair.visual, pair.audio.width, None)
        self.audio = self._paths(config, pair.audio, pair.visual.width, config.audio_hidden)

    @staticmethod
    def _paths(config: CrossSettings, block: BlockLayout, other: int, hidden: int | None) -> nn.ModuleDict:
        hidden = max(NARROWEST, other // config.rho) if hidden is None else hidden
        targets = [target for made_of in MADE_OF.values() for target in made_of]
        return nn.ModuleDict({target: CrossPath(config, widths_of(target, block), other, hidden) for target in targets})

    def projection(self, name: str, visual: Tensor, audio: Tensor, at: PairView) -> tuple[Tensor | None, Tensor | None]:
        """Each stream's increments, after the other one's vector.

        That is read where both stand: before ``proj`` from the values that attention mixed, else from the tokens before
        the norm of the sub-layer, so that ``fc1`` and ``fc2`` have the same one.
        """
        reads = (
            {"visual": visual, "audio": audio} if name == "proj" else {s: getattr(at, s).tokens for s in self.blocks}
        )
        c_visual, c_audio = (summary(reads[stream], block) for stream, block in self.blocks.items())
        return _increments(self.visual, name, visual, c_audio), _increments(self.audio, name, audio, c_visual)


def _increments(paths: nn.ModuleDict, name: str, x: Tensor, c_Md: Tensor) -> Tensor:
    return torch.cat([paths[target](x, c_Md) for target in MADE_OF[name]], dim=-1)
