"""What side networks are made of: blocks, merges, exchange, and the way back to the features.

Nothing here touches the backbone. Shape letters: M = B*T, N tokens, D width of the backbone, w width of the side
network, K cells, Y and X rows and columns.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, BlockLayout, StreamFeatures, StreamLayout
from avcore_ladder.settings import AloneSettings

__all__ = [
    "Exchange",
    "Merge",
    "Rung",
    "SideBlock",
    "WayBack",
    "last_stage",
    "means",
    "taken",
    "width_of",
    "with_added",
    "zero",
]

NARROWEST = 8
"""Of a side network and of its heads: a norm of fewer numbers says nothing, and kernels want multiples of 8."""


def width_of(block: BlockLayout, reduction: int) -> int:
    """w at a block: D / r."""
    return max(NARROWEST, block.width // reduction)


def heads_of(block: BlockLayout, width: int) -> int:
    """As many as the frozen block has, as long as each is wide enough and they divide the width."""
    most = max(1, min(block.heads, width // NARROWEST))
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)


def taken(blocks: Sequence[BlockLayout], every: int) -> list[BlockLayout]:
    """Every n-th block, of which the last is one."""
    return list(blocks[::-1][::every][::-1])


class SideBlock(nn.Module):
    """A transformer block of the side network: s <- s + A(LN(s)), s <- s + MLP(LN(s)).

    It attends where the frozen block does: within its windows, which are not shifted, or over all tokens.
    """

    def __init__(self, settings: AloneSettings, block: BlockLayout) -> None:
        super().__init__()
        width = width_of(block, settings.reduction)
        self.heads = heads_of(block, width)
        self.grid, self.window = block.grid, _window(block)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, s_MNw: Tensor) -> Tensor:
        """(M, N, w) to (M, N, w)."""
        s_MNw = s_MNw + self.dropout(self._attend(self.norm1(s_MNw)))
        hidden_MNw = F.gelu(self.fc1(self.norm2(s_MNw)))
        out: Tensor = s_MNw + self.dropout(self.fc2(hidden_MNw))
        return out

    def _attend(self, s_MNw: Tensor) -> Tensor:
        whole = s_MNw.shape
        if self.window is not None:
            s_MNw = cut(s_MNw, self.grid, self.window)
        q, k, v = self.qkv(s_MNw).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed if self.window is None else joined(mixed, self.grid, self.window).view(whole)


def _window(block: BlockLayout) -> tuple[int, int] | None:
    """The sides of the windows that cut the grid without remainder; None for all tokens at once."""
    if block.window is None or block.prefix or block.window == block.grid:
        return None
    fits = all(side % part == 0 for side, part in zip(block.grid, block.window, strict=True))
    return block.window if fits else None


def cut(x_MNw: Tensor, grid: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """The tokens of each cell of a grid by themselves: (M, N, w) to (M * cells, tokens of a cell, w)."""
    x: Tensor = x_MNw.unflatten(1, (grid[0] // cell[0], cell[0], grid[1] // cell[1], cell[1]))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def joined(x: Tensor, grid: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """The way back from `cut`."""
    x = x.unflatten(0, (-1, grid[0] // cell[0], grid[1] // cell[1])).unflatten(3, cell)
    return x.transpose(2, 3).flatten(1, 4)


class Merge(nn.Module):
    """Brings the side network's tokens to the grid and the width that the next rung has.

    As Swin merges: the neighbours that become one token lie side by side, then a linear map without bias.

    Raises:
        AssemblyError: the grid of the earlier block is no multiple of the later one's.
    """

    def __init__(self, settings: AloneSettings, before: BlockLayout, block: BlockLayout) -> None:
        super().__init__()
        self.cell = (before.grid[0] // block.grid[0], before.grid[1] // block.grid[1])
        if before.grid != (block.grid[0] * self.cell[0], block.grid[1] * self.cell[1]) or before.prefix != block.prefix:
            raise AssemblyError(
                f"A ladder cannot bring its tokens from block {before.index} to block {block.index}: {before.prefix} "
                f"and a grid of {before.grid} there, {block.prefix} and {block.grid} here, and grids merge by whole "
                "numbers alone. Choose another backbone, or leave the ladder out (--prompts none, --fusion none)."
            )
        self.grid, self.prefix = before.grid, before.prefix
        narrow, wide = width_of(before, settings.reduction), width_of(block, settings.reduction)
        self.norm = nn.LayerNorm(narrow)
        self.map = nn.Linear(narrow * self.cell[0] * self.cell[1], wide, bias=False)

    def forward(self, s_MNw: Tensor) -> Tensor:
        """(M, N, w) to the next rung's (M, N', w')."""
        s_MNw = self.norm(s_MNw)
        first, patches = s_MNw[:, : self.prefix], s_MNw[:, self.prefix :]
        cells = cut(patches, self.grid, self.cell).flatten(1).unflatten(0, (len(s_MNw), -1))
        if self.prefix:
            cells = torch.cat([first.repeat(1, 1, self.cell[0] * self.cell[1]), cells], dim=1)
        out: Tensor = self.map(cells)
        return out


class Rung(nn.Module):
    """LST at one block of one stream: s_i = block_i(mu_i down_i(h_i) + (1 - mu_i) s_{i-1}), mu = sigmoid(alpha / T).

    The first rung has no gate: there is nothing below it.

    Args:
        settings: of the ladder.
        block: what it reads.
        before: what the rung below it reads; None for the first.
    """

    def __init__(self, settings: AloneSettings, block: BlockLayout, before: BlockLayout | None) -> None:
        super().__init__()
        width = width_of(block, settings.reduction)
        self.temperature = settings.temperature
        self.down = nn.Linear(block.width, width)
        self.merge: Merge | None = None
        self.alpha: nn.Parameter | None = None
        if before is not None:
            self.alpha = nn.Parameter(torch.zeros(1))
            if (before.grid, before.prefix, before.width) != (block.grid, block.prefix, block.width):
                self.merge = Merge(settings, before, block)
        self.block = SideBlock(settings, block)

    def mix(self, read_MNw: Tensor, below_MNw: Tensor | None) -> Tensor:
        """What is read here and what comes from below."""
        if below_MNw is None or self.alpha is None:
            return read_MNw
        if self.merge is not None:
            below_MNw = self.merge(below_MNw)
        mu = torch.sigmoid(self.alpha / self.temperature).to(read_MNw.dtype)
        return mu * read_MNw + (1 - mu) * below_MNw


class Exchange(nn.Module):
    """What one side network reads of the other: attention of its tokens on the means of the other's cells.

    Tokens before the patches (a class token) are cells of their own.

    Args:
        own, other: the blocks that both sides stand at.
        settings: of the ladder.
        cells: of a side of the other's grid.
    """

    average: Tensor

    def __init__(self, settings: AloneSettings, own: BlockLayout, other: BlockLayout, cells: int) -> None:
        super().__init__()
        width, read = width_of(own, settings.reduction), width_of(other, settings.reduction)
        self.heads = heads_of(own, width)
        self.norm, self.norm_other = nn.LayerNorm(width), nn.LayerNorm(read)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(read, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.register_buffer("average", means(other, (cells, cells)), persistent=False)

    def forward(self, own_MNw: Tensor, other_MNw: Tensor) -> Tensor:
        """What is added to this side's tokens, (M, N, w)."""
        seen_MKw = self.average.to(other_MNw.dtype) @ self.norm_other(other_MNw)
        q = self.query(self.norm(own_MNw)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(seen_MKw).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


def means(block: BlockLayout, cells: tuple[int, int]) -> Tensor:
    """(K, N): the mean of each of (rows, columns) cells of a block's grid, after its prefix tokens, each by itself."""
    bands = [_bands(side, min(count, side)) for side, count in zip(block.grid, cells, strict=True)]
    patches = torch.einsum("yr,xc->yxrc", *bands).flatten(0, 1).flatten(1)
    return torch.block_diag(torch.eye(block.prefix), patches) if block.prefix else patches


def _bands(side: int, count: int) -> Tensor:
    """(count, side): the mean of each of so many bands of rows, as even as they can be."""
    made = torch.zeros(count, side)
    for number in range(count):
        start, end = number * side // count, (number + 1) * side // count
        made[number, start:end] = 1 / (end - start)
    return made


def last_stage(stream: StreamLayout, read: Sequence[BlockLayout]) -> BlockLayout:
    """The last block that is read, whose grid and width are those of the features.

    Raises:
        AssemblyError: it stands in another stage than the last block.
    """
    last = read[-1]
    if last.stage != len(stream.stages) - 1:
        raise AssemblyError(
            f"The last block of the {stream.name} stream that a side network reads is number {last.index}, in stage "
            f"{last.stage}, but its features leave stage {len(stream.stages) - 1}: pair later blocks (plan.pairing), "
            "or leave the side network out (--fusion none)."
        )
    return last


def with_added(
    stream: StreamFeatures, add_MND: Tensor, pool: str, prefix: int, ends: bool, segments: int
) -> StreamFeatures:
    """Features with something added to their tokens, to what is pooled from these, and to the map of them.

    Args:
        stream: the features.
        add_MND: what is added.
        pool: as `StreamLayout.pool`; what is not pooled from a class token is as if by the mean of the patches.
        prefix: tokens before the patches.
        ends: the last map is that of the tokens.
        segments: T.
    """
    add_MND = add_MND.to(stream.tokens.dtype)
    add_MD = add_MND[:, 0] if pool == "class" else add_MND[:, prefix:].mean(1)
    maps = list(stream.maps)
    if ends:
        maps[-1] = maps[-1] + add_MND[:, prefix:].mT.unflatten(2, maps[-1].shape[2:])
    return replace(
        stream,
        pooled=stream.pooled + add_MD.unflatten(0, (-1, segments)),
        tokens=stream.tokens + add_MND,
        maps=tuple(maps),
    )


class WayBack(nn.Module):
    """From the side network to the features of a stream: up(LN(s)) is added to them, up zero at first.

    Args:
        settings: of the ladder.
        stream: the layout of the backbone.
        read: the blocks that the rungs read, in their order.

    Raises:
        AssemblyError: the last rung stands in another stage than the last block.
    """

    def __init__(self, settings: AloneSettings, stream: StreamLayout, read: Sequence[BlockLayout]) -> None:
        super().__init__()
        last = last_stage(stream, read)
        self.pool, self.prefix = stream.pool, last.prefix
        self.norm = nn.LayerNorm(width_of(last, settings.reduction))
        self.up = zero(nn.Linear(width_of(last, settings.reduction), last.width))
        # Of which rung a map before the last one is changed by.
        self.rungs: dict[int, int] = {}
        self.maps = nn.ModuleDict()
        self.ends = stream.taps[-1] == stream.depth - 1
        if settings.maps == "both" or settings.maps == stream.name:
            for number, tap in enumerate(stream.taps[:-1] if self.ends else stream.taps):
                here = [rung for rung, block in enumerate(read) if block.index <= tap]
                if here and read[here[-1]].stage == stream.blocks[tap].stage:
                    width = width_of(read[here[-1]], settings.reduction)
                    self.rungs[number] = here[-1]
                    self.maps[str(number)] = nn.Sequential(
                        nn.LayerNorm(width), zero(nn.Linear(width, stream.blocks[tap].width))
                    )

    def forward(self, stream: StreamFeatures, states: Sequence[Tensor], segments: int) -> StreamFeatures:
        """The features of a stream, changed by what the side network gives at its rungs, (M, N, w) each."""
        maps = list(stream.maps)
        for number, rung in self.rungs.items():
            made_MND = self.maps[str(number)](states[rung]).to(maps[number].dtype)
            maps[number] = maps[number] + made_MND[:, self.prefix :].mT.unflatten(2, maps[number].shape[2:])
        add_MND = self.up(self.norm(states[-1]))
        return with_added(replace(stream, maps=tuple(maps)), add_MND, self.pool, self.prefix, self.ends, segments)


def zero(linear: nn.Linear) -> nn.Linear:
    """The same map, with zeros."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
