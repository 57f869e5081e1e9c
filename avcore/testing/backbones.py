"""Small reference backbones that need torch alone, for testing parts without any other plugin.

``toy_plain`` is a transformer of one stage with a class token, and ``toy_post_norm`` one that has its norms behind the
sums; ``toy_windowed`` has two stages of growing width on ever
smaller grids, attends in shifted windows and has no class token. Their weights are random.

Shape letters: M batch, W windows, N tokens, D width, H heads, R rows, Y and X rows and columns of the grid.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.backbones import (
    AttentionWindows,
    Backbone,
    Block,
    Increment,
    Phases,
    Point,
    Projection,
    Tower,
    attend_in_windows,
    norms_of,
    plus,
    split_heads,
)
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.specs import BackboneSpec, FilterBankGeometry, ImageGeometry, StageLayout, StreamLayout, Windows

__all__ = ["ToyBackbone", "ToyBackbones", "ToySettings"]

PATCH = 4
"""Side of a patch, px."""
LARGEST_SIDE = 16
"""Rows and columns of patches that have positions."""


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """How one stream uses a toy. All sizes are multiples of the patch of 4, with windows multiples of 8."""

    weights: str = "random"  # there are no others
    size: int = 16  # side of the pictures, px
    frames: int = 16  # rows of the log-mel picture
    mel_bins: int = 16  # bands of the log-mel picture

    def __post_init__(self) -> None:
        if self.weights != "random":
            raise ValueError(f"weights must be random, not {self.weights!r}")


class ToyBackbones:
    """A plugin that offers the family ``toy`` with ``toy_plain``, ``toy_post_norm`` and ``toy_windowed``."""

    @hookimpl
    def avcore_backbones(self) -> Iterable[BackboneSpec]:
        """The four toys."""
        presets: dict[str, dict[str, Any]] = {
            "toy_plain": {"widths": (16,), "depths": (4,), "heads": (2,)},
            "toy_post_norm": {"widths": (16,), "depths": (4,), "heads": (2,), "post_norm": True},
            "toy_shared": {"widths": (16,), "depths": (4,), "heads": (2,), "shared": 12},
            "toy_windowed": {"widths": (16, 32), "depths": (2, 3), "heads": (2, 4), "windowed": True},
        }
        return [
            BackboneSpec(
                name="toy",
                build=f"{__name__}:build",
                config=ToySettings,
                summary="small reference backbones on random weights",
                presets=presets,
            )
        ]


def build(settings: ToySettings, *, name: str, preset: Mapping[str, Any] | None) -> "ToyBackbone":
    """Make a toy by name."""
    if preset is None:
        raise AVCoreError(f"There is no toy '{name}': use toy_plain, toy_post_norm, toy_shared or toy_windowed.")
    return ToyBackbone(name, **preset)


class Inner(nn.Module):
    """The frozen weights of a block: x + proj(attention(norm1(x))), x + fc2(GELU(fc1(norm2(x)))).

    With ``post_norm`` it is norm1(x + proj(attention(x))), norm2(x + fc2(GELU(fc1(x)))).
    """

    def __init__(self, width: int, heads: int, *, biased: bool, post_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.post_norm = post_norm
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        # Of offsets between tokens along rows and columns; an offset of nothing is in the middle.
        lines = 2 * LARGEST_SIDE - 1
        self.offsets = nn.Parameter(torch.randn(heads, lines, lines) * 0.5) if biased else None


class Merging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_MYXD: Tensor) -> Tensor:
        """(M, Y, X, D) to (M, Y / 2, X / 2, 2 * D)."""
        x_MyyXxD = x_MYXD.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
        out: Tensor = self.reduction(self.norm(x_MyyXxD.transpose(2, 3).flatten(3)))
        return out


class ToyBlock(Block):
    """A block that attends to the whole grid, or within windows with a bias for each offset."""

    def __init__(self, inner: Any, mergings: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.inner = inner
        self.attention_windows: AttentionWindows | None = None
        # In a tuple: they are layers of the backbone, not of the block.
        self.mergings: tuple[Any, ...] = tuple(mergings)

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        found: torch.dtype = self.inner.qkv.weight.dtype
        return found

    def after_sum(self, name: str, x_MND: Tensor) -> Tensor:
        """See `Block.after_sum`."""
        if not self.inner.post_norm:
            return x_MND
        normed: Tensor = (self.inner.norm1 if name == "attention" else self.inner.norm2)(x_MND)
        return normed

    def attention_phases(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
    ) -> Phases[Increment]:
        """See `Block.attention`. Rows and carried rows stand in every window."""
        windows, norm = self.attention_windows if windowed else None, self.inner.norm1
        u_MND = self._before(norm, x_MND)
        u_MWND = u_MND[:, None] if windows is None else windows.split(u_MND)
        q, k, v = self._heads(u_MWND, (yield Point("qkv", u_MWND)))
        others = []
        if rows is not None:
            u_rows = self._before(norm, rows)
            others.append(self._keys_values(u_rows, (yield Point("qkv", u_rows, tokens=False))))
        others += [] if kv is None else [kv]
        carried = None
        if carry is not None:
            u_carry = self._before(norm, carry)
            carried = self._heads(u_carry, (yield Point("qkv", u_carry, tokens=False)))
        mixed_MWND, mixed_carry = attend_in_windows(
            q,
            k,
            v,
            carry=carried,
            rows=[self._row_heads(*pair) for pair in others],
            bias=None if windows is None else self._bias(windows),
            added_HNN=bias_HNN,
            row_bias_R=row_bias_R,
        )
        out_MWND = plus(self.inner.proj(mixed_MWND), (yield Point("proj", mixed_MWND)))
        out_MND = out_MWND[:, 0] if windows is None else windows.join(out_MWND)
        if mixed_carry is None:
            yield out_MND, None
        else:
            yield out_MND, plus(self.inner.proj(mixed_carry), (yield Point("proj", mixed_carry, tokens=False)))

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """See `Block.keys_values`."""
        return self._keys_values(u, None if project is None else project("qkv", u))

    def _keys_values(self, u: Tensor, increment: Tensor | None) -> tuple[Tensor, Tensor]:
        _, k, v = plus(self.inner.qkv(u), increment).chunk(3, dim=-1)
        return k, v

    def mlp_phases(self, x_MND: Tensor) -> Phases[Tensor]:
        """See `Block.mlp`."""
        u_MND = self._before(self.inner.norm2, x_MND)
        hidden = F.gelu(plus(self.inner.fc1(u_MND), (yield Point("fc1", u_MND))))
        yield plus(self.inner.fc2(hidden), (yield Point("fc2", hidden)))

    def lift(self, rows: Tensor) -> Tensor:
        """See `Block.lift`.

        Raises:
            AVCoreError: no stage up to this one has the rows' width.
        """
        given, width, kind = rows.shape[-1], self.inner.qkv.in_features, rows.dtype
        for merging in self.mergings:
            if rows.shape[-1] == merging.width:
                fours = rows.to(self.dtype).reshape(-1, 1, 1, merging.width).expand(-1, 2, 2, -1)
                rows = merging(fours).reshape(*rows.shape[:-1], -1).to(kind)
        if rows.shape[-1] != width:
            raise AVCoreError(f"Rows of width {given} cannot be lifted to {width}: no stage before has that width.")
        return rows

    def windows(self, x_MND: Tensor) -> Tensor:
        """See `Block.windows`."""
        return x_MND if self.attention_windows is None else self.attention_windows.split(x_MND).flatten(0, 1)

    def unwindows(self, x_MND: Tensor) -> Tensor:
        """See `Block.unwindows`."""
        windows = self.attention_windows
        if windows is None:
            return x_MND
        return windows.join(x_MND.unflatten(0, (-1, windows.counts[0] * windows.counts[1])))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """What a sub-layer reads."""
        out: Tensor = x if self.inner.post_norm else norm(x)
        return out

    def _heads(self, u: Tensor, increment: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        made = plus(self.inner.qkv(u), increment)
        q, k, v = (split_heads(x, self.inner.heads) for x in made.chunk(3, -1))
        return q, k, v

    def _row_heads(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (R, D) or (M, R, D) to (1 or M, H, R, D / H)."""
        k, v = (split_heads(x[None] if x.dim() == 2 else x, self.inner.heads) for x in (k, v))
        return k, v

    def _bias(self, windows: AttentionWindows) -> Tensor:
        """(1 or W, H, N, N), of the offset from one token of a window to another, and of the edges of a shift."""
        table = self.inner.offsets
        lines = [torch.arange(side, device=table.device) for side in windows.size]
        row_N, column_N = (axis.flatten() for axis in torch.meshgrid(*lines, indexing="ij"))
        middle = LARGEST_SIDE - 1
        bias_HNN = table[:, row_N[:, None] - row_N + middle, column_N[:, None] - column_N + middle]
        mask_WNN = windows.mask(bias_HNN)
        whole: Tensor = bias_HNN[None] if mask_WNN is None else bias_HNN + mask_WNN[:, None]
        return whole


class ToyBackbone(Backbone):
    """Frozen random weights that serve one or both streams; in windows, streams of one grid."""

    block_class: ClassVar[type[ToyBlock]] = ToyBlock

    def __init__(
        self,
        name: str,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        windowed: bool = False,
        post_norm: bool = False,
        shared: int | None = None,
    ) -> None:
        super().__init__()
        self.notices = (f"'{name}' runs on random weights.",)
        self.windowed = windowed
        width = widths[0]
        self.picture = nn.Linear(3 * PATCH**2, width)
        self.sound = nn.Linear(PATCH**2, width)
        self.positions_YXD = nn.Parameter(torch.randn(LARGEST_SIDE, LARGEST_SIDE, width) * 0.5)
        self.class_token = None if windowed else nn.Parameter(torch.randn(width) * 0.5)
        stages = [
            [Inner(width, count, biased=windowed, post_norm=post_norm) for _ in range(depth)]
            for width, depth, count in zip(widths, depths, heads, strict=True)
        ]
        self.mergings = nn.ModuleList(Merging(width) for width in widths[:-1])
        self.stages = nn.ModuleList(
            nn.ModuleList(self.block_class(inner, self.mergings[:number]) for inner in stage)
            for number, stage in enumerate(stages)
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.projection = None if shared is None else nn.Linear(widths[-1], shared, bias=False)
        self.freeze()

    def tower(self, stream: str, settings: ToySettings, segments: int, windows: Windows | None = None) -> "ToyTower":
        """See `Backbone.tower`."""
        made = ToyTower(self, stream, settings, segments)
        made.freeze()
        return made


class ToyTower(Tower):
    """One stream's way through a toy."""

    def __init__(self, trunk: ToyBackbone, stream: str, settings: ToySettings, segments: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.stream = stream
        sides = (settings.size, settings.size) if stream == "visual" else (settings.frames, settings.mel_bins)
        steps = PATCH * 2 ** len(trunk.mergings)
        if any(side % steps or not 0 < side <= PATCH * LARGEST_SIDE for side in sides):
            raise AVCoreError(f"Sides of {sides} px: use multiples of {steps}, at most {PATCH * LARGEST_SIDE}.")
        self.layout = _layout(trunk, (sides[0] // PATCH, sides[1] // PATCH), segments)
        if trunk.windowed:
            self._cut_windows()
        self.geometry = (
            ImageGeometry(size=settings.size)
            if stream == "visual"
            else FilterBankGeometry(
                rate=8000,
                mel_bins=settings.mel_bins,
                frames=settings.frames,
                shift_ms=math.floor(1000 / settings.frames),
            )
        )

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """Every norm, ``norm`` the final one."""
        return norms_of(self.trunk)

    def embed(self, image: Tensor) -> Tensor:
        """See `Tower.embed`."""
        grid, projection = self.layout.stages[0].grid, getattr(self.trunk, PROJECTIONS[self.stream])
        picture = image if image.dim() == 4 else image[:, None]
        patches_MND = projection(F.unfold(picture.to(projection.weight.dtype), PATCH, stride=PATCH).transpose(1, 2))
        x_MND: Tensor = patches_MND + self.trunk.positions_YXD[: grid[0], : grid[1]].flatten(0, 1)
        if self.trunk.class_token is None:
            return x_MND
        return torch.cat([self.trunk.class_token.expand(len(x_MND), 1, -1), x_MND], dim=1)

    def enter(self, x_MND: Tensor) -> Tensor:
        """Nothing lies between the embedding and the first block."""
        return x_MND

    def block(self, index: int) -> ToyBlock:
        """See `Tower.block`."""
        stage = self.layout.blocks[index].stage
        found: Any = self.trunk.stages[stage]
        made: ToyBlock = found[index - sum(earlier.depth for earlier in self.layout.stages[:stage])]
        return made

    def _cut_windows(self) -> None:
        """Tell the blocks their windows; every second one's are shifted."""
        for stage, blocks in zip(self.layout.stages, self.trunk.stages, strict=True):
            size = stage.window or stage.grid
            block: Any
            for number, block in enumerate(blocks):  # type: ignore[arg-type]
                shifted = stage.window is not None and number % 2 == 1
                windows = AttentionWindows(stage.grid, size, (size[0] // 2, size[1] // 2) if shifted else (0, 0))
                if block.attention_windows not in (None, windows):
                    raise AVCoreError(
                        f"Streams on one windowed toy have one grid, not {block.attention_windows.grid} and "
                        f"{stage.grid}: give the sound a backbone of its own, or both the same sizes."
                    )
                block.attention_windows = windows

    def merge(self, x_MND: Tensor, stage: int) -> Tensor:
        """See `Tower.merge`."""
        out: Tensor = self.trunk.mergings[stage - 1](x_MND.unflatten(1, self.layout.stages[stage - 1].grid))
        return out.flatten(1, 2)

    def norm(self, x_MND: Tensor) -> Tensor:
        """See `Tower.norm`."""
        out: Tensor = self.trunk.norm(x_MND)
        return out

    def pool(self, tokens_MND: Tensor) -> Tensor:
        """The class token, or the mean of all tokens."""
        return tokens_MND[:, 0] if self.layout.pool == "class" else tokens_MND.mean(1)

    def project(self, pooled_MD: Tensor) -> Tensor:
        """See `Tower.project`."""
        if self.trunk.projection is None:
            return super().project(pooled_MD)
        out: Tensor = self.trunk.projection(pooled_MD)
        return out


PROJECTIONS = {"visual": "picture", "audio": "sound"}


def _layout(trunk: ToyBackbone, grid: tuple[int, int], segments: int) -> StreamLayout:
    stages = []
    for number, blocks in enumerate(trunk.stages):
        inner: Any = blocks[0].inner  # type: ignore[index]
        last = number == len(trunk.stages) - 1
        stages.append(
            StageLayout(
                width=inner.qkv.in_features,
                heads=inner.heads,
                depth=len(blocks),  # type: ignore[arg-type]
                grid=grid,
                prefix=0 if trunk.windowed else 1,
                window=None if last else (grid[0] // 2, grid[1] // 2),
                mlp=(inner.fc1.out_features, inner.fc2.in_features),
            )
        )
        grid = (grid[0] // 2, grid[1] // 2)
    if trunk.windowed:
        ends = tuple(sum(stage.depth for stage in stages[: number + 1]) - 1 for number in range(len(stages)))
        return StreamLayout(stages=tuple(stages), segments=segments, taps=ends, pool="mean")
    return StreamLayout(
        stages=tuple(stages),
        segments=segments,
        taps=tuple(range(stages[0].depth)),
        shared=None if trunk.projection is None else trunk.projection.out_features,
    )
