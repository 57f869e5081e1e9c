"""The Audio Spectrogram Transformer, AST (Gong et al. 2021, arXiv:2104.01778), on timm modules, for sound.

timm's distilled Vision Transformer over log-mel pictures of 128 bands and 1024 frames of 10 ms: patches of 16 x 16, one
every 10 bands and 10 frames, counted along time first. Shape letters: M batch, N tokens, D width, F mel bins.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from avcore import compat
from avcore.backbones import Tower
from avcore.errors import AVCoreError
from avcore.specs import FilterBankGeometry, Windows
from avcore_timm.settings import ASTSettings
from avcore_timm.sound import fill
from avcore_timm.vit import FittedTower, ViT, fit_positions, with_prefix

__all__ = ["AST", "ast_keys", "build"]

STRIDE = 10  # of patches, px
SIDE = 16  # of a patch, px
AUDIOSET = {"mean": -4.2677393, "std": 4.5689974}  # of its log-mel values

_HEADS = ("v.head.", "v.head_dist.", "mlp_head.", "classifier.")
_LAYER = r"^(?:encoder\.layer|layers)\.(\d+)\."
_HUGGING_FACE = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (_LAYER + r"layernorm_before\.", r"blocks.\1.norm1."),
    (_LAYER + r"attention\.(?:attention\.query|q_proj)\.", r"blocks.\1.attn.q."),
    (_LAYER + r"attention\.(?:attention\.key|k_proj)\.", r"blocks.\1.attn.k."),
    (_LAYER + r"attention\.(?:attention\.value|v_proj)\.", r"blocks.\1.attn.v."),
    (_LAYER + r"attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"layernorm_after\.", r"blocks.\1.norm2."),
    (_LAYER + r"(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (_LAYER + r"(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
"""Names of transformers 4, which its files have, and of version 5."""


def build(settings: ASTSettings, *, name: str, preset: Mapping[str, Any] | None) -> "AST":
    """Make an AST, weights loaded from the file that ``settings.weights`` names.

    Args:
        settings: of the audio stream.
        name: what the user wrote.
        preset: ``width``, ``depth``, ``heads``, and ``mel_bins`` and ``frames`` of the pictures it was trained on.

    Raises:
        AVCoreError: no weights are named, or they do not fit.
    """
    compat.install()
    from timm.models.deit import VisionTransformerDistilled

    if preset is None:
        raise AVCoreError(f"'{name}' has no sizes: choose a preset ('avcore plugins show ast').")
    model = VisionTransformerDistilled(  # type: ignore[no-untyped-call]
        img_size=(preset["mel_bins"], preset["frames"]),
        patch_size=SIDE,
        in_chans=1,
        num_classes=0,
        embed_dim=preset["width"],
        depth=preset["depth"],
        num_heads=preset["heads"],
        embed_layer=OverlappingPatches,
    )
    published = "audioset_10_10_0.4593.pth of AST, or its Hugging Face form"
    notices = fill(model.state_dict(), settings.weights, name=name, rename=ast_keys, published=published)
    return AST(model, name=name, notices=notices)


def ast_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of AST under its published names (``v.blocks.0...``) or Hugging Face's, renamed to timm's.

    Classifiers are left out. Names that are neither stay as they are.
    """
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(_HEADS)}
    kept = {re.sub(r"^(v|audio_spectrogram_transformer)\.", "", key): tensor for key, tensor in kept.items()}
    renamed: dict[str, Tensor] = {}
    for key, tensor in kept.items():
        for pattern, own in _HUGGING_FACE:
            key = re.sub(pattern, own, key)
        renamed[key] = tensor
    for key in [key for key in renamed if ".attn.q." in key]:
        three = [key.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(one in renamed for one in three):
            renamed[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([renamed.pop(one) for one in three])
    return renamed


class OverlappingPatches(nn.Module):
    """Square patches of one channel, one every `STRIDE` px: (M, 1, Y, X) to (M, N, D)."""

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        bias: bool,
        dynamic_img_pad: bool,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.grid_size = _grid(*img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=STRIDE, bias=bias, device=device, dtype=dtype)

    def forward(self, image_M1YX: Tensor) -> Tensor:
        """Frequency by frequency, each along time."""
        out: Tensor = self.proj(image_M1YX)
        return out.flatten(2).transpose(1, 2)


class AST(ViT):
    """An Audio Spectrogram Transformer."""

    def __init__(self, model: nn.Module, *, name: str, notices: tuple[str, ...]) -> None:
        super().__init__(model, preset={}, notices=notices)
        self.name = name

    def tower(self, stream: str, settings: ASTSettings, segments: int, windows: Windows | None = None) -> Tower:  # type: ignore[override]
        """See `Backbone.tower`; for ``audio`` only."""
        made = ASTTower(self, settings, segments)
        made.freeze()
        return made


class ASTTower(FittedTower):
    """The log-mel picture of AST; its token grid is frequency x time.

    A shorter picture takes the middle of the position table along time, a longer one stretches it, as AST's code does.
    """

    def __init__(self, trunk: AST, settings: ASTSettings, segments: int) -> None:
        patches = trunk.model.patch_embed
        bands, frames = patches.img_size
        asked = {"frames": settings.frames, "mean": settings.fbank_mean, "std": settings.fbank_std}
        given = {key: value for key, value in asked.items() if value is not None}
        geometry = FilterBankGeometry(**({"mel_bins": bands, "frames": frames, **AUDIOSET} | given), pad_first=True)
        if geometry.frames < SIDE:
            raise AVCoreError(
                f"A log-mel picture of {geometry.frames} frames holds no patch of {SIDE}: raise audio.frames."
            )
        grid = _grid(bands, geometry.frames)
        super().__init__(trunk, trunk.layout(grid, segments))
        self.geometry = geometry
        self.register_buffer("positions_1ND", self.fitted(trunk.model.pos_embed.detach()), persistent=False)

    def fitted(self, table_1ND: Tensor) -> Tensor:
        """See `FittedTower.fitted`."""
        model = self.trunk.model
        prefix = model.num_prefix_tokens
        table_1DYX = table_1ND[:, prefix:].transpose(1, 2).unflatten(2, model.patch_embed.grid_size)
        fitted_1ND = fit_positions(table_1DYX, 3, self.layout.stages[0].grid[1]).flatten(2).transpose(1, 2)
        return torch.cat([table_1ND[:, :prefix], fitted_1ND], dim=1)

    def embed(self, image: Tensor) -> Tensor:
        """(M, frames, F) to (M, N, D): class and distillation token, then patches, frequency first."""
        model = self.trunk.model
        picture_M1YX = image[:, None].transpose(2, 3).to(model.patch_embed.proj.weight.dtype)
        return with_prefix(model, model.patch_embed(picture_M1YX), self.positions())


def _grid(bands: int, frames: int) -> tuple[int, int]:
    return (bands - SIDE) // STRIDE + 1, (frames - SIDE) // STRIDE + 1
