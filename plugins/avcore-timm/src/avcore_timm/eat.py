"""EAT (Chen et al. 2024, arXiv:2401.03497) and SSLAM, which is built as EAT is, on timm modules, for sound.

A Vision Transformer over log-mel pictures of 128 bands and 1024 frames of 10 ms, patches of 16 x 16, time first:
x <- LN(x + A(x)), x <- LN(x + M(x)), with a norm before the blocks and none behind them. Shape letters: M
batch, N tokens, D width, F mel bins.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from avcore import compat
from avcore.backbones import Tower
from avcore.errors import AVCoreError
from avcore.specs import FilterBankGeometry, Windows
from avcore_timm.settings import EATSettings
from avcore_timm.sound import fill
from avcore_timm.vit import FittedTower, ViT, ViTBlock, with_prefix

__all__ = ["EAT", "EATTower", "PostNormBlock", "build", "eat_keys"]

SIDE = 16  # of a patch, px
AUDIOSET = {"mean": -4.268, "std": 4.569}  # of its log-mel values

_PRETRAINING = ("_ema", "decoder.", "shared_decoder.", "recon_proj.", "cls_proj.", "encoder_mask", "fc_norm.", "head.")
"""What belongs to the training that the weights come from: teacher, decoder, targets, classifier."""
_NAMES = (
    (r"^local_encoder\.proj\.", "patch_embed.proj."),
    (r"^extra_tokens$", "cls_token"),
    (r"^fixed_positional_encoder\.positions$", "pos_embed"),
    (r"^(?:context_encoder\.norm|pre_norm)\.", "norm_pre."),
)


def build(settings: EATSettings, *, name: str, preset: Mapping[str, Any] | None) -> "EAT":
    """Make an EAT, weights loaded from the file that ``settings.weights`` names.

    Args:
        settings: of the audio stream.
        name: what the user wrote.
        preset: ``width``, ``depth``, ``heads``, and ``mel_bins`` and ``frames`` of the pictures it was trained on.

    Raises:
        AVCoreError: no weights are named, or they do not fit.
    """
    compat.install()
    from timm.layers.norm import LayerNorm
    from timm.models.vision_transformer import VisionTransformer

    if preset is None:
        raise AVCoreError(f"'{name}' has no sizes: choose a preset ('avcore plugins show eat').")
    model = VisionTransformer(
        img_size=(preset["frames"], preset["mel_bins"]),
        patch_size=SIDE,
        in_chans=1,
        num_classes=0,
        embed_dim=preset["width"],
        depth=preset["depth"],
        num_heads=preset["heads"],
        no_embed_class=True,
        final_norm=False,
    )
    # timm's own pre_norm would take the bias of the patches away.
    model.norm_pre = LayerNorm(preset["width"])
    published = "EAT-base_epoch30_pt.pt or SSLAM's checkpoint, as fairseq or Hugging Face has them"
    notices = fill(model.state_dict(), settings.weights, name=name, rename=eat_keys, published=published)
    return EAT(model, name=name, notices=notices)


def eat_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under fairseq's names (``modality_encoders.IMAGE...``) or Hugging Face's, renamed to timm's.

    What only its own training or classifier uses is left out. Names that are neither stay as they are.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^model\.", "", key)
        key = re.sub(r"^modality_encoders\.IMAGE\.", "", key)
        if key.startswith(_PRETRAINING):
            continue
        for pattern, own in _NAMES:
            key = re.sub(pattern, own, key)
        renamed[key] = tensor
    return renamed


class PostNormBlock(ViTBlock):
    """A block with its norms behind the sums: x <- LN(x + MHSA(x)), x <- LN(x + MLP(x))."""

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """The tokens as they are."""
        return x

    def after_sum(self, name: str, x_MND: Tensor) -> Tensor:
        """The norm of the sum."""
        out: Tensor = (self.inner.norm1 if name == "attention" else self.inner.norm2)(x_MND)
        return out


class EAT(ViT):
    """An Efficient Audio Transformer."""

    block: ClassVar[type[ViTBlock]] = PostNormBlock

    def __init__(self, model: nn.Module, *, name: str, notices: tuple[str, ...]) -> None:
        super().__init__(model, preset={}, notices=notices)
        self.name = name

    def tower(self, stream: str, settings: EATSettings, segments: int, windows: Windows | None = None) -> Tower:  # type: ignore[override]
        """See `Backbone.tower`; for ``audio`` only."""
        made = EATTower(self, settings, segments)
        made.freeze()
        return made


class EATTower(FittedTower):
    """The log-mel picture of EAT; its token grid is time x frequency. A shorter one takes the first positions."""

    def __init__(self, trunk: EAT, settings: EATSettings, segments: int) -> None:
        longest, bands = trunk.model.patch_embed.img_size
        asked = {"frames": settings.frames, "mean": settings.fbank_mean, "std": settings.fbank_std}
        given = {key: value for key, value in asked.items() if value is not None}
        geometry = FilterBankGeometry(**({"mel_bins": bands, "frames": longest, **AUDIOSET} | given), pad_first=True)
        if not SIDE <= geometry.frames <= longest:
            raise AVCoreError(
                f"A log-mel picture of {geometry.frames} frames does not fit '{trunk.name}', which has positions for "
                f"{SIDE} to {longest} of them: change audio.frames."
            )
        grid = (geometry.frames // SIDE, bands // SIDE)
        super().__init__(trunk, trunk.layout(grid, segments))
        self.geometry = geometry
        self.register_buffer("positions_1ND", self.fitted(trunk.model.pos_embed.detach()), persistent=False)

    def fitted(self, table_1ND: Tensor) -> Tensor:
        """See `FittedTower.fitted`."""
        return table_1ND[:, : self.layout.stages[0].tokens - 1]

    def embed(self, image: Tensor) -> Tensor:
        """(M, frames, F) to (M, N, D): class token, then patches, time first."""
        model = self.trunk.model
        proj = model.patch_embed.proj
        patches_MDYX = proj(image[:, None].to(proj.weight.dtype))
        return with_prefix(model, patches_MDYX.flatten(2).transpose(1, 2), self.positions())
