"""Swin Transformers of both versions on timm modules, for pictures and for log-mel pictures.

Shape letters: M batch, N tokens, D width, F mel bins, Y and X image rows and columns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from avcore import compat
from avcore.backbones import Backbone, Tower, norms_of, without_blocks
from avcore.errors import AVCoreError
from avcore.specs import FilterBankGeometry, StageLayout, StreamLayout, Windows
from avcore_timm.models import filter_bank_geometry, image_geometry, make_model
from avcore_timm.settings import SwinSettings
from avcore_timm.swin_blocks import SwinBlock, SwinV2Block, WindowedBlock

__all__ = ["Swin", "SwinTower", "SwinV2", "build", "build_v2"]


def build(settings: SwinSettings, *, name: str, preset: Mapping[str, Any] | None) -> "Swin":
    """Make a Swin Transformer by its timm name, weights loaded as ``settings.weights`` says.

    Args:
        settings: of the stream that asks for it.
        name: what the user wrote.
        preset: as in `make_model`; further ``image`` and ``audio``, fields of the geometries.

    Raises:
        AVCoreError: timm has no such model, it is no plain Swin Transformer, or the weights cannot be had.
    """
    preset = preset or {}
    model, notices = make_model(settings, name=name, preset=preset, patterns=("swin_*",))
    return Swin(model, name=name, preset=preset, notices=notices, attention=settings.attention)


def build_v2(settings: SwinSettings, *, name: str, preset: Mapping[str, Any] | None) -> "SwinV2":
    """Make a Swin Transformer of version 2; see `build`."""
    preset = preset or {}
    model, notices = make_model(settings, name=name, preset=preset, patterns=("swinv2_*",))
    made = SwinV2(model, name=name, preset=preset, notices=notices, attention=settings.attention)
    if settings.weights == "random":
        _open_norms(made.blocks)
    return made


class Swin(Backbone):
    """A timm Swin Transformer whose weights serve one or both streams."""

    block_class: ClassVar[type[WindowedBlock]] = SwinBlock
    # STG-CMA's, of its event localisation (normalisation of log-mel values).
    sound: ClassVar[Mapping[str, float]] = {"mean": -4.1426, "std": 3.2001}

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        preset: Mapping[str, Any],
        notices: tuple[str, ...],
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        self._refuse_unknown(model, name)
        self.model = model
        self.name = name
        self.preset = preset
        self.notices = notices
        self.attention = attention
        for number, stage in enumerate(model.layers):
            mergings = [earlier.downsample for earlier in model.layers[1 : number + 1]]
            made = (self.block_class(inner, mergings, explicit=attention == "explicit") for inner in stage.blocks)
            stage.blocks = nn.Sequential(*made)
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]
        self.freeze()

    def tower(self, stream: str, settings: SwinSettings, segments: int, windows: Windows | None = None) -> Tower:
        """See `Backbone.tower`: a `PictureTower` for ``visual``, a `SoundTower` for ``audio``."""
        made = PictureTower(self, settings, segments) if stream == "visual" else SoundTower(self, settings, segments)
        made.freeze()
        if settings.attention != self.attention:
            raise AVCoreError(
                f"{stream}.attention is {settings.attention}, but the blocks of '{self.name}', which both streams "
                f"share, attend by {self.attention}: set visual.attention and audio.attention to the same."
            )
        return made

    def layout(self, segments: int) -> StreamLayout:
        """The layout of a stream; maps are kept at the end of every stage."""
        stages = []
        for stage in self.model.layers:
            windows, inner = stage.blocks[0].attention_windows, stage.blocks[0].inner
            stages.append(
                StageLayout(
                    width=inner.attn.qkv.in_features,
                    heads=inner.attn.num_heads,
                    depth=len(stage.blocks),
                    grid=windows.grid,
                    window=None if windows.counts == (1, 1) else windows.size,
                    mlp=(inner.mlp.fc1.out_features, inner.mlp.fc2.in_features),
                )
            )
        ends = tuple(sum(stage.depth for stage in stages[: number + 1]) - 1 for number in range(len(stages)))
        return StreamLayout(stages=tuple(stages), segments=segments, taps=ends, pool="mean")

    @property
    def blocks(self) -> list[WindowedBlock]:
        """Those of all stages, in order."""
        return [block for stage in self.model.layers for block in stage.blocks]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Not cast along with the weights, but made from the cast ones, so that they are the tables of these weights.
        self.refresh()
        return self

    def refresh(self) -> None:
        """Compute the tables anew from the weights as they are now; loading, casting and moving do it by themselves."""
        for block in self.blocks:
            block.tables.take(block.make_tables())

    def _refuse_unknown(self, model: Any, name: str) -> None:
        compat.install()
        from timm.models import swin_transformer as timm_swin

        kinds = (timm_swin.SwinTransformer, timm_swin.SwinTransformerBlock, timm_swin.WindowAttention)
        _refuse_other_kinds(model, name, kinds)


class SwinV2(Swin):
    """A timm Swin Transformer of version 2."""

    block_class: ClassVar[type[WindowedBlock]] = SwinV2Block
    # LAVISH's, of its event localisation.
    sound: ClassVar[Mapping[str, float]] = {"mean": -4.98480, "std": 3.70798}

    def _refuse_unknown(self, model: Any, name: str) -> None:
        compat.install()
        from timm.models import swin_transformer_v2 as timm_swin

        kinds = (timm_swin.SwinTransformerV2, timm_swin.SwinTransformerV2Block, timm_swin.WindowAttention)
        _refuse_other_kinds(model, name, kinds)


class SwinTower(Tower):
    """What all streams share: everything behind the embedding."""

    def __init__(self, trunk: Swin, segments: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.layout = trunk.layout(segments)

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """Every norm by timm's name, ``norm`` the final one.

        Rows of a part that are lifted to a later stage (`Block.lift`) pass the frozen norms of the merging layers.
        """
        return norms_of(self.trunk.model)

    def weights(self) -> Mapping[str, Tensor]:
        """timm's names."""
        return without_blocks(self.trunk.model)

    def enter(self, x_MND: Tensor) -> Tensor:
        """Nothing lies between the embedding and the first block."""
        return x_MND

    def block(self, index: int) -> WindowedBlock:
        """See `Tower.block`."""
        return self.trunk.blocks[index]

    def merge(self, x_MND: Tensor, stage: int) -> Tensor:
        """Four neighbours become one token of twice the width."""
        x_MYXD = x_MND.unflatten(1, self.layout.stages[stage - 1].grid)
        out: Tensor = self.trunk.model.layers[stage].downsample(x_MYXD)
        return out.flatten(1, 2)

    def norm(self, x_MND: Tensor) -> Tensor:
        """See `Tower.norm`."""
        out: Tensor = self.trunk.model.norm(x_MND)
        return out

    def pool(self, tokens_MND: Tensor) -> Tensor:
        """The mean of all tokens."""
        return tokens_MND.mean(1)


class PictureTower(SwinTower):
    """Pictures, as timm embeds them."""

    def __init__(self, trunk: Swin, settings: SwinSettings, segments: int) -> None:
        super().__init__(trunk, segments)
        self.geometry = image_geometry(trunk.model, settings, trunk.preset)

    def embed(self, image: Tensor) -> Tensor:
        """(M, 3, Y, X) to (M, N, D)."""
        patches = self.trunk.model.patch_embed
        out: Tensor = patches(image.to(patches.proj.weight.dtype))
        return out.flatten(1, 2)


class SoundTower(SwinTower):
    """Log-mel pictures of the pictures' size through the same patch embedding (LAVISH, arXiv:2212.07983; STG-CMA)."""

    kernel: Tensor | None

    def __init__(self, trunk: Swin, settings: SwinSettings, segments: int) -> None:
        super().__init__(trunk, segments)
        self.geometry = _sound_geometry(trunk, settings)
        mean = trunk.model.patch_embed.proj.weight.detach().mean(1, keepdim=True)
        self.register_buffer("kernel", mean if settings.patch == "one_channel" else None, persistent=False)

    def embed(self, image: Tensor) -> Tensor:
        """(M, frames, F) to (M, N, D), time first."""
        patches = self.trunk.model.patch_embed
        image = image[:, None].to(patches.proj.weight.dtype)
        if self.kernel is None:
            out: Tensor = patches(image.expand(-1, 3, -1, -1))
            return out.flatten(1, 2)
        made_MDYX = F.conv2d(image, self.kernel, patches.proj.bias, patches.proj.stride)
        out = patches.norm(made_MDYX.flatten(2).transpose(1, 2))
        return out


def _sound_geometry(trunk: Swin, settings: SwinSettings) -> FilterBankGeometry:
    """A square of the pictures' size, whose rows span a second: the step in ms is rounded down to a tenth."""
    rows, columns = trunk.model.patch_embed.img_size
    shift = math.floor(10_000 / rows) / 10
    geometry = filter_bank_geometry(
        settings, trunk.preset, frames=rows, mel_bins=columns, shift_ms=shift, **trunk.sound
    )
    if (geometry.frames, geometry.mel_bins) != (rows, columns):
        raise AVCoreError(
            f"A log-mel picture of {geometry.frames} x {geometry.mel_bins} does not fit '{trunk.name}', which takes "
            f"{rows} x {columns}: --set audio.frames=null --set audio.mel_bins=null takes its own size."
        )
    return geometry


def _blocks(model: Any) -> list[Any]:
    return [block for stage in model.layers for block in stage.blocks]


def _refresh(trunk: Swin, _: Any) -> None:
    trunk.refresh()


def _open_norms(blocks: Sequence[WindowedBlock]) -> None:
    # timm starts the norms behind the sub-layers at zero, to train all weights from there. Frozen there, no block would
    # do anything.
    for block in blocks:
        nn.init.ones_(block.inner.norm1.weight)
        nn.init.ones_(block.inner.norm2.weight)


def _refuse_other_kinds(model: Any, name: str, kinds: tuple[Any, Any, Any]) -> None:
    from timm.layers.mlp import Mlp
    from timm.layers.patch_embed import PatchEmbed

    model_kind, block_kind, attention_kind = kinds
    if type(model) is not model_kind:
        raise AVCoreError(f"'{name}' is a timm {type(model).__name__}, which this backbone family does not know.")
    for block in _blocks(model):
        known = type(block) is block_kind and type(block.attn) is attention_kind and type(block.mlp) is Mlp
        if not known or not isinstance(block.mlp.norm, nn.Identity):
            found = f"{type(block).__name__} with {type(block.attn).__name__} and {type(block.mlp).__name__}"
            raise AVCoreError(f"'{name}' has timm blocks of a kind that this backbone family does not know ({found}).")
    if type(model.patch_embed) is not PatchEmbed:
        raise AVCoreError(
            f"'{name}' embeds pictures by a {type(model.patch_embed).__name__}, which this family does not know."
        )
    if model.global_pool != "avg":
        raise AVCoreError(f"'{name}' pools by '{model.global_pool}', which this family does not know: it knows 'avg'.")
