"""``at``: what a layer sees of its surroundings while the forward runs.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, R rows.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from avcore.backbones.base import Block, Projection
from avcore.errors import AssemblyError
from avcore.injection.align import AlignLayer

__all__ = ["BlockView", "PairView", "SideView", "StreamView"]


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
    """One stream at one block, for the layer of a prompt; `SideView` is that of a fusion.

    Attributes:
        part: the `Prompt` or `Fusion` that owns the layer; what its blocks share lives there.
        tokens: the stream's real tokens (M, N, D) as the site is given them; at ``projection``, whose ``x`` is the
            input of one map, those that the whole sub-layer began with, before its norm.
        carried: the rows (M, R, D) that the part's layer before this one sent on; None if it sent none.
    """

    part: Any
    block: Block
    project: Projection | None
    tokens: Tensor
    carried: Tensor | None = None

    def attend(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias: float | Tensor | None = None,
        bias: Tensor | None = None,
        windowed: bool = False,
        gate: Tensor | None = None,
    ) -> Tensor:
        """Run this block's frozen attention (norm included) on any sequences of its width.

        Args:
            x_MND: sequences; M and N are free (over time, both streams joined, ...).
            rows: (R, D) or (M, R, D), keys and values only.
            kv: keys and values after the projection, (R, D) or (M, R, D) each.
            row_bias: attention bias of the rows, a number or (R,).
            bias: added to the logits of tokens on tokens, such as a trained bias of positions: (H, N, N) with the heads
                of `BlockLayout.heads`, or (1, N, N).
            windowed: attend within the block's windows instead of over the whole sequence.
            gate: what the increment is multiplied by, () or (N, 1); see `Block.gated_attention`.

        Returns:
            The increment (M, N, D), in the type of ``x_MND``.
        """
        dtype = self.block.dtype
        row_bias_R = None
        if rows is not None and row_bias is not None:
            # As a broadcast instead of a Python branch on the type, so that compiled steps stay one graph.
            row_bias_R = x_MND.new_zeros(rows.shape[-2], dtype=dtype) + row_bias
        given: dict[str, Any] = {
            "rows": None if rows is None else rows.to(dtype),
            "kv": None if kv is None else (kv[0].to(dtype), kv[1].to(dtype)),
            "row_bias_R": row_bias_R,
            "bias_HNN": None if bias is None else bias.to(dtype),
            "windowed": windowed,
            "project": self.project,
        }
        if gate is None:
            out_MND, _ = self.block.attention(x_MND.to(dtype), **given)
        else:
            out_MND = self.block.gated_attention(x_MND.to(dtype), gate.to(dtype), **given)
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
class SideView(BlockView):
    """One side of a fusion at a pair of blocks; it also reads the other stream as its own.

    Attributes:
        stream: ``visual`` or ``audio``.
        owner: the name of the fusion.
        declared: what its spec says in ``as_own``.
        maps: the plan's maps at this pair; None where the blocks are alike, or no part reads through them.
    """

    stream: str = ""
    owner: str = ""
    declared: tuple[str, ...] = ()
    maps: AlignLayer | None = None

    def as_own(self, other_MND: Tensor, *what: str) -> Tensor:
        """Bring tokens of the other stream to the width, the grid or the windows that this stream has at this pair.

        Where the blocks are alike nothing changes, but for ``windows``.

        Args:
            other_MND: tokens (M, N, D) of the other stream, or any sequences of its width where the width alone is
                asked for.
            what: ``width``, ``grid`` or ``windows``, among those that the fusion's spec declares in ``as_own``; all of
                these where none is named.

        Returns:
            ``width``: the tokens in this stream's width. ``grid``: as many as this stream has, each where its own
            token lies. ``windows``: (M * windows, tokens of a window, D), as `windows` gives its own tokens; all of
            them where this block has no windows.

        Raises:
            AssemblyError: the spec does not declare it.
        """
        wanted = what or self.declared
        if not wanted or not set(wanted) <= set(self.declared):
            missing = tuple(one for one in wanted if one not in self.declared) or ("width",)
            raise AssemblyError(
                f"Part '{self.owner}' reads the other stream as its own, but its spec does not declare that: "
                f"FusionSpec(as_own={(*self.declared, *missing)}) lets the plan make the maps that it needs. Tell its "
                f"author."
            )
        if self.maps is not None:
            other_MND = self.maps(other_MND, self.stream, wanted)
            if self.maps.blocks[self.stream].window is None:
                return other_MND
        return self.windows(other_MND) if "windows" in wanted else other_MND


@dataclass(frozen=True)
class PairView:
    """Both streams at one pair of blocks, for the layer of a fusion.

    Attributes:
        visual, audio: the two sides.
        part: the `Fusion` that owns the layer.
    """

    visual: SideView
    audio: SideView
    part: Any

    @property
    def B(self) -> int:  # noqa: N802 - shape letters are capitals everywhere
        """Clips."""
        return self.visual.B

    @property
    def T(self) -> int:  # noqa: N802
        """Segments of a clip."""
        return self.visual.T
