"""Vision Transformers on timm modules: plain ViT and CLIP's visual tower, for pictures and for log-mel pictures.

Shape letters: M batch, N tokens, D width, H heads, R rows, K keys, F mel bins.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import compat
from avcore.backbones import Backbone, Block, Projection, Tower, attend, row_columns, split_heads
from avcore.errors import AVCoreError, did_you_mean
from avcore.specs import FilterBankGeometry, ImageGeometry, StageLayout, StreamLayout
from avcore_timm.settings import ViTSettings
from avcore_timm.weights import load_file

__all__ = ["ViT", "ViTBlock", "build"]


def build(settings: ViTSettings, *, name: str, preset: Mapping[str, Any] | None) -> "ViT":
    """Make a Vision Transformer by its timm name, weights loaded as ``settings.weights`` says.

    Args:
        settings: of the stream that asks for it.
        name: what the user wrote.
        preset: ``model`` (the timm name, if it is not ``name``), ``arguments`` of ``timm.create_model``, ``weights``
            (a file that stands for ``hub``), ``image`` and ``audio`` (fields of the geometries); all optional.

    Raises:
        AVCoreError: timm has no such model, it is no plain ViT, or the weights cannot be had.
    """
    compat.install()
    import timm

    preset = preset or {}
    model_name = preset.get("model", name)
    arguments = dict(preset.get("arguments", {}))
    if not timm.is_model(model_name.split(".")[0]):
        near = did_you_mean(model_name, timm.list_models(["vit_*", "deit_*", "test_vit*"]))
        raise AVCoreError(f"timm has no model '{model_name}'.{near}")
    on_meta = torch.empty(0).device.type == "meta"
    weights = settings.weights
    if weights == "hub" and "weights" in preset:
        weights = str(preset["weights"])
    from_hub = weights == "hub" and not on_meta
    try:
        model: Any = timm.create_model(model_name, pretrained=from_hub, num_classes=0, **arguments)
    except Exception as error:
        if not from_hub:
            raise AVCoreError(f"timm cannot make '{model_name}': {error}") from error
        raise AVCoreError(
            f"The weights of '{model_name}' could not be fetched from timm's hub ({type(error).__name__}). Pass a file "
            f"with --set visual.weights=PATH (or audio.weights), or ask for --set visual.weights=random."
        ) from error
    if not on_meta and weights not in ("hub", "random"):
        load_file(model, Path(weights), setting=f"weights of '{name}'")
    return ViT(model, name=name, preset=preset, random=weights == "random" and not on_meta)


class ViTBlock(Block):
    """A timm pre-norm block: A(x) = LS(MHSA(LN x)), M(x) = LS(MLP(LN x))."""

    def __init__(self, inner: nn.Module) -> None:
        self.inner: Any = inner

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return self.inner.attn.qkv.weight.dtype  # type: ignore[no-any-return]

    def attention(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        windowed: bool = True,
        project: Projection | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `Block.attention`. Rows go through the norm and the key and value maps, never through the query map."""
        attn = self.inner.attn
        tokens = x_MND.shape[1]
        if carry is not None:
            x_MND = torch.cat([x_MND, carry], dim=1)
        u_MND = self.inner.norm1(x_MND)
        q, k, v = (split_heads(part, attn.num_heads) for part in _linear("qkv", attn.qkv, u_MND, project).chunk(3, -1))
        q, k = attn.q_norm(q), attn.k_norm(k)
        keys, values = [k], [v]
        if rows is not None:
            k_rows, v_rows = self.keys_values(self.inner.norm1(_batched(rows)), project=project)
            keys.append(split_heads(k_rows, attn.num_heads))
            values.append(split_heads(v_rows, attn.num_heads))
        if kv is not None:
            keys.append(split_heads(_batched(kv[0]), attn.num_heads))
            values.append(split_heads(_batched(kv[1]), attn.num_heads))
        if len(keys) > 1:
            shape = (x_MND.shape[0], -1, -1, -1)
            k = torch.cat([key.expand(shape) for key in keys], dim=2)
            v = torch.cat([value.expand(shape) for value in values], dim=2)
        mixed_MND = attend(q, k, v, bias=row_columns(None, x_MND.shape[1], row_bias_R))
        out_MND = self.inner.ls1(_linear("proj", attn.proj, mixed_MND, project))
        if carry is None:
            return out_MND, None
        return out_MND[:, :tokens], out_MND[:, tokens:]

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """See `Block.keys_values`."""
        attn, width = self.inner.attn, u.shape[-1]
        made = F.linear(u, attn.qkv.weight[width:], None if attn.qkv.bias is None else attn.qkv.bias[width:])
        increment = None if project is None else project("qkv", u)
        if increment is not None:
            made = made + increment[..., width:]
        k, v = made.chunk(2, dim=-1)
        return attn.k_norm(k.unflatten(-1, (attn.num_heads, -1))).flatten(-2), v

    def mlp(self, x_MND: Tensor, *, project: Projection | None = None) -> Tensor:
        """See `Block.mlp`."""
        mlp = self.inner.mlp
        hidden = mlp.norm(mlp.act(_linear("fc1", mlp.fc1, self.inner.norm2(x_MND), project)))
        out: Tensor = self.inner.ls2(_linear("fc2", mlp.fc2, hidden, project))
        return out


class ViT(Backbone):
    """A timm Vision Transformer whose weights serve one or both streams."""

    def __init__(self, model: nn.Module, *, name: str, preset: Mapping[str, Any], random: bool) -> None:
        super().__init__()
        _refuse_unknown(model, name)
        self.model: Any = model
        self.preset = preset
        self.notices = (f"'{name}' runs on random weights.",) if random else ()
        self.freeze()

    def tower(self, stream: str, settings: ViTSettings, segments: int) -> Tower:
        """See `Backbone.tower`: a `PictureTower` for ``visual``, a `SoundTower` for ``audio``."""
        made = PictureTower(self, settings, segments) if stream == "visual" else SoundTower(self, settings, segments)
        made.freeze()
        return made

    def layout(self, grid: tuple[int, int], segments: int) -> StreamLayout:
        """The layout of a stream whose patches lie on ``grid``; maps at a quarter, half, three quarters, the end."""
        depth = len(self.model.blocks)
        stage = StageLayout(
            width=self.model.embed_dim,
            heads=self.model.blocks[0].attn.num_heads,
            depth=depth,
            grid=grid,
            prefix=self.model.num_prefix_tokens,
        )
        # Fewer than four blocks have fewer than four places to tap.
        taps = tuple(dict.fromkeys(math.ceil(depth * quarter / 4) - 1 for quarter in (1, 2, 3, 4)))
        return StreamLayout(stages=(stage,), segments=segments, taps=taps, pool=self.pooling)

    @property
    def pooling(self) -> str:
        """How timm pools this model: ``class`` token, or ``mean`` of the patch tokens."""
        return "class" if self.model.global_pool == "token" else "mean"


class ViTTower(Tower):
    """What both streams share: everything behind the embedding."""

    def __init__(self, trunk: ViT, layout: StreamLayout) -> None:
        super().__init__()
        self.trunk = trunk
        self.layout = layout

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """The final norm, unless timm has it behind the pooling."""
        norm = self.trunk.model.norm
        return {} if isinstance(norm, nn.Identity) else {"norm": norm}

    def weights(self) -> Mapping[str, Tensor]:
        """timm's names."""
        own: Mapping[str, Tensor] = self.trunk.model.state_dict(keep_vars=True)
        return own

    def enter(self, x_MND: Tensor) -> Tensor:
        """CLIP's norm before the blocks; nothing elsewhere."""
        out: Tensor = self.trunk.model.norm_pre(x_MND)
        return out

    def block(self, index: int) -> ViTBlock:
        """See `Tower.block`."""
        return ViTBlock(self.trunk.model.blocks[index])

    def norm(self, x_MND: Tensor) -> Tensor:
        """See `Tower.norm`."""
        out: Tensor = self.trunk.model.norm(x_MND)
        return out

    def pool(self, tokens_MND: Tensor) -> Tensor:
        """See `Tower.pool`; a norm that timm puts behind the pooling comes with it."""
        prefix = self.trunk.model.num_prefix_tokens
        pooled = tokens_MND[:, 0] if self.trunk.pooling == "class" else tokens_MND[:, prefix:].mean(1)
        out: Tensor = self.trunk.model.fc_norm(pooled)
        return out


class PictureTower(ViTTower):
    """Pictures, as timm embeds them."""

    def __init__(self, trunk: ViT, settings: ViTSettings, segments: int) -> None:
        patches = trunk.model.patch_embed
        super().__init__(trunk, trunk.layout(tuple(patches.grid_size), segments))
        config = getattr(trunk.model, "pretrained_cfg", None) or {}
        fields = {key: config[key] for key in ("mean", "std") if key in config} | dict(trunk.preset.get("image", {}))
        if settings.image_mean is not None:
            fields["mean"] = settings.image_mean
        if settings.image_std is not None:
            fields["std"] = settings.image_std
        fields = {key: tuple(value) for key, value in fields.items()}
        self.geometry = ImageGeometry(size=patches.img_size[0], **fields)

    def embed(self, image: Tensor) -> Tensor:
        """(M, 3, Y, X) to (M, N, D)."""
        model = self.trunk.model
        out: Tensor = model._pos_embed(model.patch_embed(image.to(model.patch_embed.proj.weight.dtype)))
        return out


class SoundTower(ViTTower):
    """Log-mel pictures through the same patch embedding (LAVISH, arXiv:2212.07983; STG-CMA)."""

    positions_1ND: Tensor
    kernel: Tensor | None

    def __init__(self, trunk: ViT, settings: ViTSettings, segments: int) -> None:
        asked = {
            "mel_bins": settings.mel_bins,
            "shift_ms": settings.shift_ms,
            "frames": settings.frames,
            "mean": settings.fbank_mean,
            "std": settings.fbank_std,
        }
        fields = dict(trunk.preset.get("audio", {})) | {key: value for key, value in asked.items() if value is not None}
        geometry = FilterBankGeometry(**fields)
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
        self.register_buffer("positions_1ND", _audio_positions(model, grid, settings.position), persistent=False)
        summed = model.patch_embed.proj.weight.detach().sum(1, keepdim=True)
        self.register_buffer("kernel", summed if settings.patch == "one_channel" else None, persistent=False)

    def embed(self, image: Tensor) -> Tensor:
        """(M, frames, F) to (M, N, D): class and register tokens, then patches, time first."""
        model = self.trunk.model
        proj = model.patch_embed.proj
        image = image[:, None].to(proj.weight.dtype)
        if self.kernel is None:
            patches = proj(image.expand(-1, 3, -1, -1))
        else:
            patches = F.conv2d(image, self.kernel, proj.bias, proj.stride)
        x_MND = model.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        prefix = [token for token in (model.cls_token, model.reg_token) if token is not None]
        heads = [token.expand(x_MND.shape[0], -1, -1) for token in prefix]
        if model.no_embed_class:
            return torch.cat([*heads, x_MND + self.positions_1ND], dim=1)
        return torch.cat([*heads, x_MND], dim=1) + self.positions_1ND


def _audio_positions(model: Any, grid: tuple[int, int], how: str) -> Tensor:
    positions_1ND = model.pos_embed.detach()
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    time, mel = grid
    if how == "interpolate":
        # The class slot is interpolated along with the patches, as the reference does.
        size = prefix + time * mel
        return F.interpolate(positions_1ND.transpose(1, 2), size=size, mode="linear").transpose(1, 2)
    table_1DYX = positions_1ND[:, prefix:].transpose(1, 2).unflatten(2, model.patch_embed.grid_size)
    # Rows of the picture's grid stand for frequency, columns for time.
    table_1DFT = _fit(_fit(table_1DYX, 3, time), 2, mel)
    if how == "crop":
        table_1DFT = table_1DFT.transpose(2, 3)
    return torch.cat([positions_1ND[:, :prefix], table_1DFT.flatten(2).transpose(1, 2)], dim=1)


def _fit(table_1DYX: Tensor, axis: int, size: int) -> Tensor:
    """The middle of one axis, or all of it stretched to ``size``."""
    length = table_1DYX.shape[axis]
    if size <= length:
        return table_1DYX.narrow(axis, length // 2 - size // 2, size)
    shape = list(table_1DYX.shape[2:])
    shape[axis - 2] = size
    return F.interpolate(table_1DYX, size=shape, mode="bilinear")


def _batched(rows: Tensor) -> Tensor:
    return rows[None] if rows.dim() == 2 else rows


def _linear(name: str, layer: nn.Module, x: Tensor, project: Projection | None) -> Tensor:
    out: Tensor = layer(x)
    increment = None if project is None else project(name, x)
    return out if increment is None else out + increment


def _refuse_unknown(model: Any, name: str) -> None:
    compat.install()
    from timm.layers.attention import Attention
    from timm.layers.mlp import Mlp
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import Block as TimmBlock
    from timm.models.vision_transformer import VisionTransformer

    if type(model) is not VisionTransformer:
        raise AVCoreError(f"'{name}' is a timm {type(model).__name__}, which this backbone family does not know.")
    block: Any
    for block in model.blocks:
        known = type(block) is TimmBlock and type(block.attn) is Attention and type(block.mlp) is Mlp
        if not known or not isinstance(block.attn.norm, nn.Identity) or block.attn.gate is not None:
            kinds = f"{type(block).__name__} with {type(block.attn).__name__} and {type(block.mlp).__name__}"
            raise AVCoreError(f"'{name}' has timm blocks of a kind that this backbone family does not know ({kinds}).")
    if type(model.patch_embed) is not PatchEmbed:
        raise AVCoreError(
            f"'{name}' embeds pictures by a {type(model.patch_embed).__name__}, which this family does not know."
        )
    if model.attn_pool is not None or model.pos_embed is None:
        raise AVCoreError(f"'{name}' pools by attention or has no position table, which this family does not know.")
