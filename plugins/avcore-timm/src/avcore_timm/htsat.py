"""HTS-AT (Chen et al. 2022, arXiv:2202.00874): timm's Swin Transformer behind a mel front end, for sound.

The front end of the core gives decibels, `MelSpectrogram`; what follows has weights or belongs to the geometry of this
encoder and stands here. Shape letters: M batch, N tokens, D width, R frames, F mel bins, Y and X rows and columns.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from avcore import compat
from avcore.backbones import Tower, without_blocks
from avcore.errors import AVCoreError
from avcore.specs import MelGeometry, Windows
from avcore_timm.settings import HTSATSettings
from avcore_timm.sound import fill
from avcore_timm.swin import Swin, SwinTower
from avcore_timm.weights import swin_keys

__all__ = ["HTSAT", "BandNorm", "HTSATTower", "build", "htsat_keys", "make_body", "named"]

_LEFT_OUT = ("spectrogram_extractor.", "logmel_extractor.", "tscam_conv.", "head.")
"""Constants of the front end, and the classifier, whose place avcore's heads take."""


def build(settings: HTSATSettings, *, name: str, preset: Mapping[str, Any] | None) -> "HTSAT":
    """Make an HTS-AT, weights loaded from the file that ``settings.weights`` names.

    27,534,488 frozen parameters at the published size, 128 of them the normalisation's. The published 31.325 M further
    hold 1,083,456 constants of the spectrogram, which are computed here, and the 2,707,199 of the classifier.

    Args:
        settings: of the audio stream.
        name: what the user wrote.
        preset: ``mel_bins``, ``side`` of the folded picture in px, ``width`` of the first stage, ``depths`` and
            ``heads`` of all stages, ``window`` in tokens; optional ``seconds`` up to which sound is repeated, 0.

    Raises:
        AVCoreError: no weights are named, or they do not fit.
    """
    if preset is None:
        raise AVCoreError(f"'{name}' has no sizes: choose a preset ('avcore plugins show htsat').")
    model, bands = make_body(preset)
    notices = fill(
        named(bands, model),
        settings.weights,
        name=name,
        rename=htsat_keys,
        published="HTSAT_AudioSet_Saved_1.ckpt of HTS-Audio-Transformer",
    )
    return HTSAT(model, bands, name=name, preset=preset, notices=notices, attention=settings.attention)


def make_body(preset: Mapping[str, Any]) -> tuple[nn.Module, "BandNorm"]:
    """timm's Swin Transformer and the normalisation before it, in the sizes of a preset as `build` takes it."""
    compat.install()
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        img_size=preset["side"],
        patch_size=4,
        in_chans=1,
        num_classes=0,
        embed_dim=preset["width"],
        depths=preset["depths"],
        num_heads=preset["heads"],
        window_size=preset["window"],
    )
    return model, BandNorm(preset["mel_bins"])


def named(bands: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of both, not copies: published names of the normalisation, timm's of the rest."""
    own = {f"bn0.{key}": tensor for key, tensor in bands.state_dict(keep_vars=True).items()}
    return own | without_blocks(model)


def htsat_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of HTS-AT under their published names, with or without ``sed_model.``, renamed to those of its tower.

    ``bn0`` keeps its name, the rest becomes timm 1.0's Swin: merging begins a stage instead of ending one. The
    constants of the spectrogram, the classifier (``tscam_conv``, ``head``) and what follows from the sizes are left
    out. Unknown names stay as they are.
    """
    plain = {key.removeprefix("sed_model."): tensor for key, tensor in tensors.items()}
    return swin_keys({key: tensor for key, tensor in plain.items() if not key.startswith(_LEFT_OUT)})


class BandNorm(nn.BatchNorm2d):
    """The frozen normalisation of each mel band by running statistics.

    Its weights are moved and never cast down: decibels reach -100, where bfloat16 counts in halves.
    """

    def forward(self, logs_MRF: Tensor) -> Tensor:
        """(M, R, F) in dB to (M, R, F)."""
        kind = logs_MRF.dtype
        assert self.running_mean is not None
        assert self.running_var is not None
        scale_F = self.weight.to(kind) * (self.running_var.to(kind) + self.eps).rsqrt()
        return (logs_MRF - self.running_mean.to(kind)) * scale_F + self.bias.to(kind)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self


class HTSAT(Swin):
    """An HTS-AT: Swin's blocks, and the normalisation of the mel bands before them."""

    def __init__(self, model: Any, bands: BandNorm, **given: Any) -> None:
        super().__init__(model, **given)
        self.bn0 = bands
        self.freeze()

    def mel(self, seconds: float) -> MelGeometry:
        """The spectrograms that it takes, of sound repeated up to ``seconds``."""
        return MelGeometry(mel_bins=self.bn0.num_features, repeat_seconds=seconds)

    def tower(self, stream: str, settings: HTSATSettings, segments: int, windows: Windows | None = None) -> Tower:  # type: ignore[override]
        """See `Backbone.tower`; for ``audio`` only."""
        made = HTSATTower(self, settings, segments)
        made.freeze()
        return made


class HTSATTower(SwinTower):
    """Log-mel spectrograms in dB, folded into a square picture."""

    trunk: HTSAT
    geometry: MelGeometry

    def __init__(self, trunk: HTSAT, settings: HTSATSettings, segments: int) -> None:
        super().__init__(trunk, segments)
        side = trunk.model.patch_embed.img_size[0]
        seconds = trunk.preset.get("seconds", 0.0) if settings.repeat_seconds is None else settings.repeat_seconds
        self.geometry = trunk.mel(seconds)
        self.pieces = side // self.geometry.mel_bins
        self.frames = side * self.pieces
        self._check_length(1 + round(seconds * self.geometry.rate) // self.geometry.hop)

    def weights(self) -> Mapping[str, Tensor]:
        """Published names of the normalisation, timm's of the rest."""
        return named(self.trunk.bn0, self.trunk.model)

    def embed(self, image: Tensor) -> Tensor:
        """(M, R, F) in dB to (M, N, D).

        Raises:
            AVCoreError: the sound is longer than the picture.
        """
        patches = self.trunk.model.patch_embed
        picture_MYX = self.fold(self.trunk.bn0(image))
        out: Tensor = patches(picture_MYX[:, None].to(patches.proj.weight.dtype))
        return out.flatten(1, 2)

    def fold(self, bands_MRF: Tensor) -> Tensor:
        """(M, R, F) to a square (M, Y, X): stretched along time, cut into pieces, piled up along frequency.

        Raises:
            AVCoreError: there are more frames than the picture holds.
        """
        frames = bands_MRF.shape[1]
        self._check_length(frames)
        if frames < self.frames:
            size = (self.frames, bands_MRF.shape[2])
            bands_MRF = F.interpolate(bands_MRF[:, None], size=size, mode="bicubic", align_corners=True)[:, 0]
        pieces_MPRF: Tensor = bands_MRF.unflatten(1, (self.pieces, -1))
        return pieces_MPRF.transpose(2, 3).flatten(1, 2)

    def _check_length(self, frames: int) -> None:
        if frames > self.frames:
            seconds = self.frames * self.geometry.hop / self.geometry.rate
            raise AVCoreError(
                f"A segment of {frames} frames does not fit '{self.trunk.name}', which holds {self.frames} "
                f"({seconds:.2f} s): lower data.window_seconds or audio.repeat_seconds."
            )
