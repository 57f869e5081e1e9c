"""One modality on its way: from raw input through a front end and a frozen tower to the features that leave it.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from avcore.backbones import Tower
from avcore.specs import StreamLayout
from avcore.tasks import StreamFeatures

__all__ = ["Stream"]


class Stream(nn.Module):
    """A tower, its front end, the copies that parts train of it, and the way in and out.

    Called with raw input it runs the frozen tower alone, without any part, nor what parts train.

    Args:
        name: ``visual``, ``audio``.
        tower: the frozen backbone as this stream uses it.
        front_end: raw input to what `Tower.embed` takes.
        segments: T.

    Attributes:
        copies: the modules that parts train in place of the tower's, by the name of the function that each of them is.
            Parts own them.
    """

    def __init__(self, name: str, tower: Tower, front_end: nn.Module, segments: int) -> None:
        super().__init__()
        self.name = name
        self.tower = tower
        self.front_end = front_end
        self.segments = segments
        # A plain dict: registered here, they would be this stream's parameters.
        self.copies: dict[str, nn.Module] = {}

    @property
    def layout(self) -> StreamLayout:
        """What parts and heads may know of it."""
        return self.tower.layout

    def forward(self, raw: Tensor) -> StreamFeatures:
        """The frozen tower alone: (B, T, 3, Y, X) pictures or (B, S) sound to features."""
        x_MND = self.tower.enter(self.tower.embed(self.front_end(raw)))
        tapped = []
        for index in range(self.layout.depth):
            x_MND = self.into_stage(index, x_MND)
            block = self.tower.block(index)
            x_MND = x_MND + block.attention(x_MND)[0]
            x_MND = x_MND + block.mlp(x_MND)
            if index in self.layout.taps:
                tapped.append(x_MND)
        return self._features(x_MND, self.tower.norm(x_MND), tapped)

    def enter(self, x_MND: Tensor) -> Tensor:
        """Embedded tokens to those of the first block."""
        return self._through("enter", x_MND)

    def into_stage(self, index: int, x_MND: Tensor) -> Tensor:
        """Tokens as the block of that number takes them: merged where it is the first of its stage."""
        blocks = self.layout.blocks
        if index and blocks[index].stage != blocks[index - 1].stage:
            return self.tower.merge(x_MND, blocks[index].stage)
        return x_MND

    def leave(self, x_MND: Tensor, tapped: Sequence[Tensor]) -> StreamFeatures:
        """Tokens behind the last block, and those behind the tapped ones, to features."""
        return self._features(x_MND, self._through("norm", x_MND), tapped)

    def _through(self, name: str, x_MND: Tensor) -> Tensor:
        """A function of the tower, or the copy that a part trains in its place."""
        if name not in self.copies:
            out: Tensor = getattr(self.tower, name)(x_MND)
            return out
        copy = self.copies[name]
        trained: Tensor = copy(x_MND.to(next(copy.parameters()).dtype))
        return trained.to(x_MND.dtype)

    def _features(self, x_MND: Tensor, tokens: Tensor, tapped: Sequence[Tensor]) -> StreamFeatures:
        layout = self.layout
        at_taps = [*tapped[:-1], tokens] if layout.taps[-1] == layout.depth - 1 else tapped
        return StreamFeatures(
            pooled=self.tower.pool(tokens).reshape(-1, self.segments, layout.width),
            tokens=tokens,
            raw_tokens=x_MND,
            maps=tuple(self.tower.map(at, stage) for at, stage in zip(at_taps, layout.tapped, strict=True)),
        )
