"""``at``: what a layer sees of its surroundings while the forward runs.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, R rows.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from avcore.backbones.base import Block, Projection
from avcore.injection.parts import FusionLayer

__all__ = ["BlockView", "PairView", "StreamView"]


@dataclass(frozen=True)
class StreamView:
    """The clip structure of the batch axis.

    Attributes:
        B: clips.
        T: segments of each.
    """

    B: int
    T: int

    def over_time(self, x_MND: Tensor) -> Tensor:
        """(B*T, N, D) to (B*N, T, D): one sequence over time for each position."""
        return x_MND.reshape(self.B, self.T, *x_MND.shape[1:]).transpose(1, 2).flatten(0, 1)

    def from_time(self, x_BNTD: Tensor) -> Tensor:
        """The way back from `over_time`: (B*N, T, D) to (B*T, N, D)."""
        return x_BNTD.reshape(self.B, -1, *x_BNTD.shape[1:]).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class BlockView(StreamView):
    """One stream at one block, for the layer of a prompt or for one side of a fusion.

    Attributes:
        part: the `Prompt` or `Fusion` that owns the layer; what its blocks share lives there.
        carried: the rows (M, R, D) that the part's layer before this one sent on; None if it sent none.
    """

    part: Any
    block: Block
    project: Projection | None
    carried: Tensor | None = None

    def attend(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias: float | Tensor | None = None,
        windowed: bool = False,
    ) -> Tensor:
        """Run this block's frozen attention (norm included) on any sequences of its width.

        Args:
            x_MND: sequences; M and N are free (over time, both streams joined, ...).
            rows: (R, D) or (M, R, D), keys and values only.
            kv: keys and values after the projection, (R, D) or (M, R, D) each.
            row_bias: attention bias of the rows, a number or (R,).
            windowed: attend within the block's windows instead of over the whole sequence.

        Returns:
            The increment (M, N, D), in the type of ``x_MND``.
        """
        dtype = self.block.dtype
        bias = None
        if rows is not None and row_bias is not None:
            # As a broadcast instead of a Python branch on the type, so that compiled steps stay one graph.
            bias = x_MND.new_zeros(rows.shape[-2], dtype=dtype) + row_bias
        out_MND, _ = self.block.attention(
            x_MND.to(dtype),
            rows=None if rows is None else rows.to(dtype),
            kv=None if kv is None else (kv[0].to(dtype), kv[1].to(dtype)),
            row_bias_R=bias,
            windowed=windowed,
            project=self.project,
        )
        return out_MND.to(x_MND.dtype)

    def keys_values(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """What this block's frozen maps make of vectors that pass no norm: keys and values, for ``kv``.

        Args:
            u: (R, D) or (M, R, D).

        Returns:
            Two tensors of that shape, in the type of the frozen weights.
        """
        return self.block.keys_values(u.to(self.block.dtype), project=self.project)

    def lift(self, rows: Tensor) -> Tensor:
        """Bring rows (R, D) or (M, R, D) of an earlier stage to this block's width; see `Block.lift`."""
        return self.block.lift(rows)

    def windows(self, x_MND: Tensor) -> Tensor:
        """The tokens of each attention window of this block, (M * windows, tokens of a window, D)."""
        return self.block.windows(x_MND)

    def unwindows(self, x_MND: Tensor) -> Tensor:
        """The way back from `windows`."""
        return self.block.unwindows(x_MND)


@dataclass(frozen=True)
class PairView:
    """Both streams at one pair of blocks, for the layer of a fusion.

    Attributes:
        visual, audio: the two sides.
        part: the `Fusion` that owns the layer.
        aligner: the layer that brings the streams to one width here; None if the run has none.
    """

    visual: BlockView
    audio: BlockView
    part: Any
    aligner: FusionLayer | None = None

    def to_visual(self, audio_MND: Tensor, *, on_grid: bool = False) -> Tensor:
        """Tokens of sound in the width of the pictures' tokens: as they are, or as this pair's aligner makes them.

        Parts that call it say so by a ``COMPARABLE_...`` need.

        Args:
            audio_MND: tokens, or any sequence of vectors without ``on_grid``.
            on_grid: bring them to the grid of the pictures' tokens too.
        """
        return audio_MND if self.aligner is None else self.aligner.align_to_visual(audio_MND, on_grid=on_grid)

    def to_audio(self, visual_MND: Tensor, *, on_grid: bool = False) -> Tensor:
        """Tokens of pictures in the width, or on the grid, of the sound's tokens; see `to_visual`."""
        return visual_MND if self.aligner is None else self.aligner.align_to_audio(visual_MND, on_grid=on_grid)

    @property
    def B(self) -> int:  # noqa: N802 - shape letters are capitals everywhere
        """Clips."""
        return self.visual.B

    @property
    def T(self) -> int:  # noqa: N802
        """Segments of a clip."""
        return self.visual.T
