"""What MGN is made of: transformer blocks, and steps that group vectors by tokens as GroupViT does.

Shape letters: B clips, G groups, N vectors, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

__all__ = ["Assignment", "Block", "CrossBlock", "Grouping", "Groups", "mlp"]

RATIO = 4
"""Hidden width of an MLP by its width."""


def mlp(width: int, hidden: int) -> nn.Sequential:
    """Linear, GELU, Linear."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def _heads(x_BND: Tensor, heads: int) -> Tensor:
    x_BNHD: Tensor = x_BND.unflatten(-1, (heads, -1))
    return x_BNHD.transpose(1, 2)


class Block(nn.Module):
    """x + attention(LN(x)), x + MLP(LN(x))."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = mlp(width, RATIO * width)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        queries, keys, values = (_heads(x, self.heads) for x in self.qkv(self.norm_attention(x_BND)).chunk(3, -1))
        read = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        x_BND = x_BND + self.drop_path(self.projection(read))
        return x_BND + self.drop_path(self.mlp(self.norm_mlp(x_BND)))  # type: ignore[no-any-return]


class CrossBlock(nn.Module):
    """LN(x + MLP(LN(x))) of x = tokens + attention(tokens to vectors)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = mlp(width, RATIO * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BGD: Tensor, x_BND: Tensor) -> Tensor:
        """Tokens (B, G, D) that read vectors (B, N, D) to (B, G, D)."""
        pairs = ((self.query, tokens_BGD), (self.key, x_BND), (self.value, x_BND))
        queries, keys, values = (_heads(layer(x), self.heads) for layer, x in pairs)
        read = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        x_BGD = tokens_BGD + self.projection(read)
        return self.norm(x_BGD + self.mlp(self.norm_mlp(x_BGD)))  # type: ignore[no-any-return]


class Groups(tuple[Tensor, Tensor]):
    """Grouped vectors (B, G, D), and to which group each vector belongs: (B, G, N), a softmax over the groups."""


class Assignment(nn.Module):
    """Each vector is dealt out to groups, softly or each to one; a group is the mean of what it got.

    Of a group that got shares a, it is the sum of a times value, divided by the sum of a plus 1.

    Args:
        hard: each vector goes to one group, in training to one that is drawn (Gumbel softmax), with the gradient of the
            soft choice.
    """

    def __init__(self, width: int, *, hard: bool) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)
        self.hard = hard

    def forward(self, tokens_BGD: Tensor, x_BND: Tensor) -> Groups:
        """Tokens (B, G, D) and vectors (B, N, D)."""
        queries = self.query(tokens_BGD) * tokens_BGD.shape[-1] ** -0.5
        scores_BGN = queries @ self.key(x_BND).mT
        soft_BGN = scores_BGN.softmax(1)
        shares = self._hardened(scores_BGN, soft_BGN) if self.hard else soft_BGN
        shares = shares / (shares.sum(-1, keepdim=True) + 1)
        return Groups((self.projection(shares @ self.value(x_BND)), soft_BGN))

    def _hardened(self, scores_BGN: Tensor, soft_BGN: Tensor) -> Tensor:
        if self.training:
            return F.gumbel_softmax(scores_BGN, dim=1, hard=True)
        chosen = torch.zeros_like(soft_BGN).scatter(1, soft_BGN.argmax(1, keepdim=True), 1.0)
        shares: Tensor = chosen - soft_BGN.detach() + soft_BGN
        return shares


class Grouping(nn.Module):
    """Tokens mixed among each other and told of the vectors, which are then dealt out to them.

    Args:
        groups: G.
        width: D.
        heads: of the attention of tokens to vectors.
        hard: see `Assignment`.
    """

    def __init__(self, groups: int, width: int, heads: int, *, hard: bool = False) -> None:
        super().__init__()
        self.norm_tokens = nn.LayerNorm(width)
        self.norm_vectors = nn.LayerNorm(width)
        self.mix = mlp(groups, width // 2)
        self.norm_mixed = nn.LayerNorm(width)
        self.cross = CrossBlock(width, heads)
        self.assignment = Assignment(width, hard=hard)
        self.norm_groups = nn.LayerNorm(width)
        self.mlp = mlp(width, RATIO * width)

    def forward(self, x_BND: Tensor, tokens_BGD: Tensor) -> Groups:
        """Vectors (B, N, D) and tokens (B, G, D)."""
        x_BND = self.norm_vectors(x_BND)
        mixed = self.norm_mixed(self.mix(self.norm_tokens(tokens_BGD).mT).mT)
        tokens_BGD = self.cross(mixed, x_BND)
        groups_BGD, soft_BGN = self.assignment(tokens_BGD, x_BND)
        groups_BGD = groups_BGD + tokens_BGD
        return Groups((groups_BGD + self.mlp(self.norm_groups(groups_BGD)), soft_BGN))
