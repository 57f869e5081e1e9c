"""What turns stored pictures and sound into what backbones take in, on the device that the model is on.

Shape letters: B clips, T segments, M = B*T in the order (b t), S samples, F mel bins, Y and X image rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avcore import compat
from avcore.specs import FilterBankGeometry, ImageGeometry
from avcore.tasks import Windows

__all__ = ["FilterBank", "ImageFrontEnd"]

# Kaldi's defaults.
FRAME_SECONDS = 0.025
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
FLOOR = torch.finfo(torch.float32).eps
FULL_SCALE = 32768.0  # of a 16-bit sample


class _FrontEnd(nn.Module):
    """A module whose constants move with the model but are never cast: a model in bf16 still needs exact filters."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self


class ImageFrontEnd(_FrontEnd):
    """Pictures normalised as (value / 255 - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, geometry: ImageGeometry) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(geometry.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(geometry.std).view(3, 1, 1), persistent=False)

    def forward(self, frames_BT3YX: Tensor) -> Tensor:
        """Normalise (B, T, 3, Y, X) uint8 to (M, 3, Y, X) float32."""
        return (frames_BT3YX.flatten(0, 1).float() / 255 - self.mean) / self.std


class FilterBank(_FrontEnd):
    """Kaldi's log-mel filter bank of each segment, for all clips of a batch at once, as AST and LAVISH use it.

    The mean of the whole clip is removed, T windows are cut out of it, and each becomes a picture time x mel: frames of
    25 ms without their mean, pre-emphasis 0.97, Hann window, power spectrum of the next power of two, triangular mel
    filters from 20 Hz to half the rate, natural logarithm floored at float32's epsilon. It is normalised as
    (value - mean) / (2 * std) and only then zero-padded or cut to ``frames`` rows, so that padding equals the mean.

    Args:
        geometry: rate, bands, frame shift, normalisation and height of the picture.
        windows: which pieces of the sound go with the segments.
        segments: T.
    """

    taper: Tensor
    mel: Tensor

    def __init__(self, geometry: FilterBankGeometry, windows: Windows, segments: int) -> None:
        super().__init__()
        self.geometry = geometry
        self.windows = windows
        self.segments = segments
        self.size = int(geometry.rate * FRAME_SECONDS)
        self.shift = int(geometry.rate * geometry.shift_ms * 0.001)
        self.fft = 2 ** math.ceil(math.log2(self.size))
        taper = torch.hann_window(self.size, periodic=False, dtype=torch.float64)
        self.register_buffer("taper", taper, persistent=False)
        self.register_buffer("mel", _mel_filters(geometry, self.fft), persistent=False)

    def forward(self, waveform_BS: Tensor) -> Tensor:
        """Turn (B, S) samples, int16 or float in [-1, 1], into (M, frames, F), in float32 at least."""
        # The meta device, on which shapes are checked, knows no autocast.
        with torch.autocast("cpu" if waveform_BS.is_meta else waveform_BS.device.type, enabled=False):
            exact = torch.float64 if waveform_BS.dtype == torch.float64 else torch.float32
            scale = 1.0 if waveform_BS.is_floating_point() else 1 / FULL_SCALE
            samples_BS = waveform_BS.to(exact) * scale
            samples_BS = samples_BS - samples_BS.mean(dim=1, keepdim=True)
            return self._pictures(self._cut(samples_BS).flatten(0, 1))

    def _cut(self, samples_BS: Tensor) -> Tensor:
        """(B, S) -> (B, T, samples of a window); sound no longer than the margin goes whole with every segment."""
        rate, total = self.geometry.rate, samples_BS.shape[1]
        if total <= self.windows.margin * rate:
            return samples_BS.unsqueeze(1).expand(-1, self.segments, -1)
        starts = np.linspace(0, total - self.windows.margin * rate, self.segments, dtype=int)
        length = int(rate * self.windows.length)
        return torch.stack([samples_BS[:, start : start + length] for start in starts.tolist()], dim=1)

    def _pictures(self, windows_MS: Tensor) -> Tensor:
        """(M, samples of a window) -> (M, frames, F)."""
        geometry, exact = self.geometry, windows_MS.dtype
        rows = min(max(0, 1 + (windows_MS.shape[1] - self.size) // self.shift), geometry.frames)
        picture_MRF = windows_MS.new_zeros(len(windows_MS), geometry.frames, geometry.mel_bins)
        if rows == 0:
            return picture_MRF
        frames_MRS = windows_MS.unfold(1, self.size, self.shift)[:, :rows]
        frames_MRS = frames_MRS - frames_MRS.mean(dim=2, keepdim=True)
        before_MRS = torch.cat([frames_MRS[..., :1], frames_MRS[..., :-1]], dim=2)
        frames_MRS = (frames_MRS - PRE_EMPHASIS * before_MRS) * self.taper.to(exact)
        power_MRK = torch.fft.rfft(frames_MRS, n=self.fft).abs().square()
        logs_MRF = (power_MRK @ self.mel.to(exact)).clamp_min(FLOOR).log()
        picture_MRF[:, :rows] = (logs_MRF - geometry.mean) / (2 * geometry.std)
        return picture_MRF


def _mel_filters(geometry: FilterBankGeometry, fft: int) -> Tensor:
    """Kaldi's triangles as (FFT bins, F) float64; the bin at half the rate counts nowhere."""
    compat.install()
    # Models are first built on the meta device, and tensors that a module makes at its first import would stay there.
    with torch.device("cpu"):
        from torchaudio.compliance.kaldi import get_mel_banks

    bands, _ = get_mel_banks(geometry.mel_bins, fft, geometry.rate, LOW_HZ, 0.0, 100.0, -500.0, 1.0)
    return nn.functional.pad(bands, (0, 1)).T.double().contiguous()
