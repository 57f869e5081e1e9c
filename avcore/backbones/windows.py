"""Attention within windows of a token grid, shifted or not (Swin, arXiv:2103.14030, section 3.2).

Shape letters: M batch, W windows of a grid, N tokens of a window, D width, Y and X rows and columns of the grid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from avcore.errors import AssemblyError

__all__ = ["AttentionWindows"]

MASKED = -100.0
"""Bias between tokens that a shifted window brings together from opposite edges of the grid."""


@dataclass(frozen=True)
class AttentionWindows:
    """How a grid of tokens falls into windows.

    Attributes:
        grid: rows and columns of the grid.
        size: rows and columns of a window; they divide the grid's.
        shift: how far the windows are moved down and to the right; what sticks out comes back at the other edge.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if any(side % window for side, window in zip(self.grid, self.size, strict=True)):
            raise AssemblyError(
                f"A grid of {self.grid[0]} x {self.grid[1]} tokens does not divide into windows of {self.size[0]} x "
                f"{self.size[1]}: choose a picture size that is a multiple of the window in every stage."
            )

    @property
    def counts(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return self.grid[0] // self.size[0], self.grid[1] // self.size[1]

    def split(self, x_MND: Tensor) -> Tensor:
        """All tokens of the grid, (M, Y * X, D), to those of each window, (M, W, N, D).

        Raises:
            AVCoreError: there are not as many tokens as the grid has.
        """
        if x_MND.shape[1] != self.grid[0] * self.grid[1]:
            raise AssemblyError(
                f"{x_MND.shape[1]} tokens do not lie on this block's grid of {self.grid[0]} x {self.grid[1]}, so they "
                f"have no windows: attend with windowed=False."
            )
        if self.counts == (1, 1):
            return x_MND[:, None]
        x_MYXD = x_MND.unflatten(1, self.grid)
        if any(self.shift):
            x_MYXD = x_MYXD.roll((-self.shift[0], -self.shift[1]), (1, 2))
        x_MYyXxD: Tensor = x_MYXD.unflatten(2, (self.counts[1], self.size[1])).unflatten(
            1, (self.counts[0], self.size[0])
        )
        return x_MYyXxD.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def join(self, x_MWND: Tensor) -> Tensor:
        """The way back from `split`."""
        if self.counts == (1, 1):
            return x_MWND.squeeze(1)
        x_MYXyxD: Tensor = x_MWND.unflatten(2, self.size).unflatten(1, self.counts)
        x_MYXD = x_MYXyxD.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if any(self.shift):
            x_MYXD = x_MYXD.roll(self.shift, (1, 2))
        return x_MYXD.flatten(1, 2)

    def mask(self, like: Tensor) -> Tensor | None:
        """Bias (W, N, N) between tokens that are no neighbours in the grid: 0 or -100. None without a shift.

        Args:
            like: a tensor of the type and on the device that the mask is to have.
        """
        if not any(self.shift):
            return None
        # Along each axis, what the shift carries over the edge is a region of its own.
        lines = [
            torch.arange(side, device=like.device) >= side - shift
            for side, shift in zip(self.grid, self.shift, strict=True)
        ]
        region_YX = lines[0][:, None] * 2 + lines[1]
        plain = AttentionWindows(self.grid, self.size)
        region_WN = plain.split(region_YX.reshape(1, -1, 1))[0, :, :, 0]
        return like.new_zeros(()).masked_fill(region_WN[:, :, None] != region_WN[:, None], MASKED)
