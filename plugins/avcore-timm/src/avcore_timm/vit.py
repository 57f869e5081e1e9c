"""Vision Transformers on timm modules, for pictures and for log-mel pictures.

Shape letters: M batch, N tokens, D width, H heads, R rows, K keys, F mel bins.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import compat
from avcore.backbones import (
    Backbone,
    Block,
    Increment,
    Phases,
    Point,
    Projection,
    Rows,
    Tower,
    apart,
    attend,
    beside_rows,
    gated_linear,
    has_copy,
    made_again,
    norms_of,
    pieces_of,
    plus,
    quick_gelu,
    run_phases,
    split_heads,
    spread,
    together,
    without_blocks,
)
from avcore.errors import AVCoreError
from avcore.specs import StageLayout, StreamLayout, Windows
from avcore_timm.models import filter_bank_geometry, image_geometry, make_model
from avcore_timm.settings import ViTSettings

__all__ = ["FittedTower", "ViT", "ViTBlock", "ViTTower", "build", "fit_positions", "with_prefix"]

SHORT = 32
"""Up to so many keys an attention costs little beside the maps before and behind it, and is made again."""


def build(settings: ViTSettings, *, name: str, preset: Mapping[str, Any] | None) -> "ViT":
    """Make a Vision Transformer by its timm name, weights loaded as ``settings.weights`` says.

    Args:
        settings: of the stream that asks for it.
        name: what the user wrote.
        preset: as in `make_model`; further ``image`` and ``audio``, fields of the geometries.

    Raises:
        AVCoreError: timm has no such model, it is no plain ViT, the weights cannot be had, or they have no projection.
    """
    preset = preset or {}
    patterns = ("vit_*", "deit*", "test_vit*")
    model, notices = make_model(settings, name=name, preset=preset, patterns=patterns, projection=settings.projection)
    _refuse_unknown(model, name)
    return ViT(model, preset=preset, notices=notices)


class ViTBlock(Block):
    """A timm pre-norm block: A(x) = LS(MHSA(LN x)), M(x) = LS(MLP(LN x))."""

    takes_pieces: ClassVar[bool] = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner: Any = inner

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return self.inner.attn.qkv.weight.dtype  # type: ignore[no-any-return]

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """What a sub-layer reads of the tokens: their norm."""
        out: Tensor = norm(x)
        return out

    def attention_phases(
        self,
        x_MND: Tensor,
        *,
        rows: Rows = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
        gate: Tensor | None = None,
    ) -> Phases[Increment]:
        """See `Block.attention`. Rows go through the norm and the key and value maps, never through the query map."""
        attn = self.inner.attn
        tokens = x_MND.shape[1]
        if carry is not None:
            x_MND = torch.cat([x_MND, carry], dim=1)
        u_MND = self.before(self.inner.norm1, x_MND)
        increment = yield Point("qkv", u_MND)
        pieces = []
        if rows is not None:
            given = pieces_of(rows)
            u_rows = self.before(self.inner.norm1, together(given))
            made = self._keys_values(u_rows, (yield Point("qkv", u_rows, tokens=False)))
            pieces += apart(made, given)
        if kv is not None:
            pieces.append(_batched(torch.cat(kv, dim=-1)))
        plain = isinstance(attn.k_norm, nn.Identity)
        keys = tokens + sum(piece.shape[1] for piece in pieces)
        if gate is not None and gate.dim() == 0 and keys <= SHORT and plain:
            yield self._short(u_MND, pieces, gate, bias=bias_HNN, row_bias_R=row_bias_R), None
            return
        if pieces and increment is None and plain:
            q, k, v = (x.squeeze(1) for x in beside_rows(u_MND[:, None], attn.qkv.weight, attn.qkv.bias, pieces))
            q, k, v = (split_heads(part, attn.num_heads) for part in (q, k, v))
            q = attn.q_norm(q)
        else:
            q, k, v = self._heads(plus(attn.qkv(u_MND), increment), pieces)
        mixed_MND = attend(q, k, v, bias=bias_HNN, row_bias_R=row_bias_R)
        increment = yield Point("proj", mixed_MND)
        if gate is not None:
            yield gated_linear(mixed_MND, attn.proj.weight, attn.proj.bias, gate), None
            return
        out_MND = self.inner.ls1(plus(attn.proj(mixed_MND), increment))
        yield (out_MND, None) if carry is None else (out_MND[:, :tokens], out_MND[:, tokens:])

    def _heads(self, qkv_MND: Tensor, pieces: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and keys and values with those of rows behind them."""
        attn = self.inner.attn
        q, k, v = (split_heads(x, attn.num_heads) for x in qkv_MND.chunk(3, -1))
        k = attn.k_norm(k)
        for piece in pieces:
            k_rows, v_rows = spread(piece, len(qkv_MND), 1).squeeze(1).chunk(2, dim=-1)
            k = torch.cat([k, split_heads(k_rows, attn.num_heads)], dim=2)
            v = torch.cat([v, split_heads(v_rows, attn.num_heads)], dim=2)
        return attn.q_norm(q), k, v

    def _short(self, u_MND: Tensor, pieces: Sequence[Tensor], gate: Tensor, **given: Any) -> Tensor:
        """gate * A(x) over so few keys that attention is made again, not kept; the gate multiplies the values."""
        attn = self.inner.attn

        def mix(qkv_MND: Tensor, gate: Tensor, *pieces: Tensor) -> Tensor:
            q, k, v = self._heads(qkv_MND, pieces)
            return attend(q, k, gate * v, **given)

        mixed_MND = made_again(mix, attn.qkv(u_MND), gate, *pieces)
        return F.linear(mixed_MND, attn.proj.weight, None if attn.proj.bias is None else gate * attn.proj.bias)

    def gated_attention(
        self, x_MND: Tensor, gate: Tensor, *, project: Projection | None = None, **given: Any
    ) -> Tensor:
        """See `Block.gated_attention`; what goes into the last map is kept, not what comes out."""
        if project is not None or not isinstance(self.inner.ls1, nn.Identity):
            return super().gated_attention(x_MND, gate, project=project, **given)
        out_MND, _ = run_phases(self.attention_phases(x_MND, gate=gate, **given))
        return out_MND

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """See `Block.keys_values`."""
        k, v = self._keys_values(u, None if project is None else project("qkv", u)).chunk(2, dim=-1)
        return k, v

    def _keys_values(self, u: Tensor, increment: Tensor | None) -> Tensor:
        """Both side by side, (..., 2 * D)."""
        attn, width = self.inner.attn, u.shape[-1]
        made = F.linear(u, attn.qkv.weight[width:], None if attn.qkv.bias is None else attn.qkv.bias[width:])
        if increment is not None:
            made = made + increment[..., width:]
        if isinstance(attn.k_norm, nn.Identity):
            return made
        k, v = made.chunk(2, dim=-1)
        return torch.cat([attn.k_norm(k.unflatten(-1, (attn.num_heads, -1))).flatten(-2), v], dim=-1)

    def mlp_phases(self, x_MND: Tensor) -> Phases[Tensor]:
        """See `Block.mlp`."""
        mlp = self.inner.mlp
        u_MND = self.before(self.inner.norm2, x_MND)
        hidden = mlp.norm(_activated(mlp, plus(mlp.fc1(u_MND), (yield Point("fc1", u_MND)))))
        out: Tensor = self.inner.ls2(plus(mlp.fc2(hidden), (yield Point("fc2", hidden))))
        yield out


class ViT(Backbone):
    """A timm Vision Transformer whose weights serve one or both streams."""

    block: ClassVar[type[ViTBlock]] = ViTBlock

    def __init__(self, model: Any, *, preset: Mapping[str, Any], notices: tuple[str, ...]) -> None:
        super().__init__()
        model.blocks = nn.Sequential(*(self.block(inner) for inner in model.blocks))
        self.model = model
        self.preset = preset
        self.notices = notices
        self.freeze()

    def tower(self, stream: str, settings: ViTSettings, segments: int, windows: Windows | None = None) -> Tower:
        """See `Backbone.tower`: a `PictureTower` for ``visual``, a `SoundTower` for ``audio``."""
        made = PictureTower(self, settings, segments) if stream == "visual" else SoundTower(self, settings, segments)
        made.freeze()
        return made

    def layout(self, grid: tuple[int, int], segments: int) -> StreamLayout:
        """The layout of a stream whose patches lie on ``grid``; maps at a quarter, half, three quarters, the end."""
        first = self.model.blocks[0].inner
        stage = StageLayout(
            width=self.model.embed_dim,
            heads=first.attn.num_heads,
            depth=len(self.model.blocks),
            grid=grid,
            prefix=self.model.num_prefix_tokens,
            mlp=(first.mlp.fc1.out_features, first.mlp.fc2.in_features),
        )
        return StreamLayout(stages=(stage,), segments=segments, pool=self.pooling, shared=self.shared)

    @property
    def pooling(self) -> str:
        """How timm pools this model: ``class`` token (with the distillation token), ``mean``, or by ``attention``."""
        if self.model.attn_pool is not None:
            return "attention"
        return "class" if self.model.global_pool == "token" else "mean"

    @property
    def shared(self) -> int | None:
        """Width of the space that CLIP's projection maps into; None where it was not asked for."""
        head = self.model.head
        return head.out_features if isinstance(head, nn.Linear) else None


class ViTTower(Tower):
    """What both streams share: everything behind the embedding."""

    def __init__(self, trunk: ViT, layout: StreamLayout) -> None:
        super().__init__()
        self.trunk = trunk
        self.layout = layout

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """Every norm by timm's name, ``norm`` the final one, unless timm has it behind the pooling (``fc_norm``)."""
        return norms_of(self.trunk.model)

    def weights(self) -> Mapping[str, Tensor]:
        """timm's names."""
        return without_blocks(self.trunk.model)

    def enter(self, x_MND: Tensor) -> Tensor:
        """CLIP's norm before the blocks; nothing elsewhere."""
        out: Tensor = self.trunk.model.norm_pre(x_MND)
        return out

    def block(self, index: int) -> ViTBlock:
        """See `Tower.block`."""
        found: ViTBlock = self.trunk.model.blocks[index]
        return found

    def norm(self, x_MND: Tensor) -> Tensor:
        """See `Tower.norm`."""
        out: Tensor = self.trunk.model.norm(x_MND)
        return out

    def pool(self, tokens_MND: Tensor) -> Tensor:
        """See `Tower.pool`; as timm does it, with the norm that it may put behind the pooling."""
        out: Tensor = self.trunk.model.forward_head(tokens_MND, pre_logits=True)
        return out

    def project(self, pooled_MD: Tensor) -> Tensor:
        """CLIP's map of pictures into the space shared with text, which timm keeps as its head."""
        if self.layout.shared is None:
            return super().project(pooled_MD)
        out: Tensor = self.trunk.model.head(pooled_MD)
        return out


class FittedTower(ViTTower):
    """A tower whose position vectors are made of the trunk's, once, or in each forward where a copy of those trains."""

    positions_1ND: Tensor

    def fitted(self, table_1ND: Tensor) -> Tensor:
        """The position vectors of this tower's tokens."""
        raise NotImplementedError

    def positions(self) -> Tensor:
        """Those that count now."""
        model = self.trunk.model
        return self.fitted(model.pos_embed) if has_copy(model, "pos_embed") else self.positions_1ND


class PictureTower(ViTTower):
    """Pictures, as timm embeds them."""

    def __init__(self, trunk: ViT, settings: ViTSettings, segments: int) -> None:
        patches = trunk.model.patch_embed
        super().__init__(trunk, trunk.layout(tuple(patches.grid_size), segments))
        self.geometry = image_geometry(trunk.model, settings, trunk.preset)

    def embed(self, image: Tensor) -> Tensor:
        """(M, 3, Y, X) to (M, N, D)."""
        model = self.trunk.model
        out: Tensor = model._pos_embed(model.patch_embed(image.to(model.patch_embed.proj.weight.dtype)))
        return out


class SoundTower(FittedTower):
    """Log-mel pictures through the same patch embedding (LAVISH, arXiv:2212.07983; STG-CMA)."""

    kernel: Tensor | None

    def __init__(self, trunk: ViT, settings: ViTSettings, segments: int) -> None:
        geometry = filter_bank_geometry(settings, trunk.preset)
        side_y, side_x = trunk.model.patch_embed.patch_size
        grid = (geometry.frames // side_y, geometry.mel_bins // side_x)
        if 0 in grid:
            raise AVCoreError(
                f"A log-mel picture of {geometry.frames} x {geometry.mel_bins} holds no {side_y} x {side_x} patch: "
                f"raise audio.frames or audio.mel_bins."
            )
        super().__init__(trunk, trunk.layout(grid, segments))
        self.geometry = geometry
        model = trunk.model
        self.position = settings.position
        self.register_buffer("positions_1ND", self.fitted(model.pos_embed.detach()), persistent=False)
        summed = model.patch_embed.proj.weight.detach().sum(1, keepdim=True)
        self.register_buffer("kernel", summed if settings.patch == "one_channel" else None, persistent=False)

    def embed(self, image: Tensor) -> Tensor:
        """(M, frames, F) to (M, N, D): class, distillation and register tokens, then patches, time first."""
        model = self.trunk.model
        proj = model.patch_embed.proj
        image = image[:, None].to(proj.weight.dtype)
        if self.kernel is None:
            patches = proj(image.expand(-1, 3, -1, -1))
        else:
            kernel = proj.weight.sum(1, keepdim=True) if has_copy(proj, "weight") else self.kernel
            patches = F.conv2d(image, kernel, proj.bias, proj.stride)
        x_MND = model.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        return with_prefix(model, x_MND, self.positions())

    def fitted(self, table_1ND: Tensor) -> Tensor:
        """Position vectors of this tower's tokens from those of the pictures."""
        return _audio_positions(self.trunk.model, table_1ND, self.layout.stages[0].grid, self.position)


def with_prefix(model: Any, patches_MND: Tensor, positions_1ND: Tensor) -> Tensor:
    """Class, distillation and register tokens before the patches, positions added to all or to patches alone."""
    tokens = (model.cls_token, getattr(model, "dist_token", None), model.reg_token)
    heads = [token.expand(patches_MND.shape[0], -1, -1) for token in tokens if token is not None]
    if model.no_embed_class:
        return torch.cat([*heads, patches_MND + positions_1ND], dim=1)
    return torch.cat([*heads, patches_MND], dim=1) + positions_1ND


def _audio_positions(model: Any, positions_1ND: Tensor, grid: tuple[int, int], how: str) -> Tensor:
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    time, mel = grid
    if how == "interpolate":
        # The class slot is interpolated along with the patches, as the reference does.
        size = prefix + time * mel
        return F.interpolate(positions_1ND.transpose(1, 2), size=size, mode="linear").transpose(1, 2)
    table_1DYX = positions_1ND[:, prefix:].transpose(1, 2).unflatten(2, model.patch_embed.grid_size)
    # Rows of the picture's grid stand for frequency, columns for time.
    table_1DFT = fit_positions(fit_positions(table_1DYX, 3, time), 2, mel)
    if how == "crop":
        table_1DFT = table_1DFT.transpose(2, 3)
    return torch.cat([positions_1ND[:, :prefix], table_1DFT.flatten(2).transpose(1, 2)], dim=1)


def fit_positions(table_1DYX: Tensor, axis: int, size: int) -> Tensor:
    """The middle of one axis of a position table, or all of it stretched to ``size``."""
    length = table_1DYX.shape[axis]
    if size <= length:
        return table_1DYX.narrow(axis, length // 2 - size // 2, size)
    shape = list(table_1DYX.shape[2:])
    shape[axis - 2] = size
    return F.interpolate(table_1DYX, size=shape, mode="bilinear")


def _batched(rows: Tensor) -> Tensor:
    return rows[None] if rows.dim() == 2 else rows


def _activated(mlp: Any, hidden: Tensor) -> Tensor:
    """The activation; where it is gated (DINOv2's giant), one half of the hidden vector scales the other."""
    if not hasattr(mlp, "gate_last"):
        plain: Tensor = quick_gelu(hidden) if type(mlp.act).__name__ == "QuickGELU" else mlp.act(hidden)
        return plain
    left, right = hidden.chunk(2, dim=-1)
    gated: Tensor = left * mlp.act(right) if mlp.gate_last else mlp.act(left) * right
    return gated


def _refuse_unknown(model: Any, name: str) -> None:
    compat.install()
    from timm.layers.attention import Attention
    from timm.layers.attention_pool import AttentionPoolLatent
    from timm.layers.mlp import GluMlp, Mlp
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import Block as TimmBlock
    from timm.models.vision_transformer import VisionTransformer

    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise AVCoreError(f"'{name}' is a timm {type(model).__name__}, which this backbone family does not know.")
    block: Any
    for block in model.blocks:
        made_of = [block, *(part for part in (getattr(block, "attn", None), getattr(block, "mlp", None)) if part)]
        known = [type(part) for part in made_of] in ([TimmBlock, Attention, Mlp], [TimmBlock, Attention, GluMlp])
        if not known or not isinstance(block.attn.norm, nn.Identity) or block.attn.gate is not None:
            kinds = ", ".join(type(part).__name__ for part in made_of)
            raise AVCoreError(f"'{name}' has timm blocks of a kind that this backbone family does not know ({kinds}).")
    if type(model.patch_embed) is not PatchEmbed:
        raise AVCoreError(
            f"'{name}' embeds pictures by a {type(model.patch_embed).__name__}, which this family does not know."
        )
    if model.pos_embed is None:
        raise AVCoreError(f"'{name}' has no position table, which this family does not know.")
    if not isinstance(model.attn_pool, AttentionPoolLatent | None):
        raise AVCoreError(f"'{name}' pools by a {type(model.attn_pool).__name__}, which this family does not know.")
