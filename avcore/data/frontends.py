"""What turns stored pictures and sound into what backbones take in, on the device that the model is on.

Shape letters: B clips, T segments of K pictures each, M = B*T in the order (b t), C channels, S samples, F mel bins, Y
and X image rows and columns.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import compat
from avcore.errors import DataError
from avcore.modules import full_precision
from avcore.specs import AudioGeometry, FilterBankGeometry, ImageGeometry, MelGeometry, Windows

__all__ = ["FilterBank", "ImageFrontEnd", "MelSpectrogram", "SoundFrontEnd"]

# Kaldi's defaults.
FRAME_SECONDS = 0.025
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
FLOOR = torch.finfo(torch.float32).eps
FULL_SCALE = 32768.0  # of a 16-bit sample
QUIETEST = 1e-10  # of the power that decibels are taken of


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
        """Normalise (B, T, 3, Y, X) uint8 to (M, 3, Y, X) float32; (B, T, K, 3, Y, X) to (M, K, 3, Y, X)."""
        return (frames_BT3YX.flatten(0, 1).float() / 255 - self.mean) / self.std


class SoundFrontEnd(_FrontEnd, ABC):
    """Cuts T windows out of each clip and makes of each what the backbone embeds, by `pictures`.

    The base of the front ends of other backbones, which `AudioGeometry.front_end` names. Of two channels each goes its
    way as if it were a clip of its own, and what comes of them lies side by side behind M: (M, 2, ...).

    Args:
        geometry: what the backbone takes.
        windows: which pieces of the sound go with the segments.
        segments: T.

    Attributes:
        between: what is done to the windows before they become pictures, (what the front end was given, its windows as
            `cut` made them) to windows; set for as long as a batch of a training is mixed (``train.augment.mix``).
    """

    log_mel: ClassVar[bool] = False
    """Whether `pictures` makes log-mel pictures (M, frames, F), of which ``train.augment.audio`` may mask rows and
    columns."""

    def __init__(self, geometry: AudioGeometry, windows: Windows, segments: int) -> None:
        super().__init__()
        self.rate = geometry.rate
        self.channels = geometry.channels
        self.windows = windows
        self.segments = segments
        self.between: Callable[[Tensor, Tensor], Tensor] | None = None

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn (B, S) samples, int16 or float in [-1, 1], into what `pictures` makes, in float32 at least.

        Of two channels, (B, 2, S), it makes (M, 2, ...).
        """
        # The meta device, on which shapes are checked, knows no autocast.
        with full_precision(waveform):
            cut = self.cut(waveform)
            if self.between is not None:
                cut = self.between(waveform, cut)
            made = self.pictures(cut.flatten(0, -2))
            return made if self.channels == 1 else made.unflatten(0, (-1, self.channels))

    def cut(self, waveform: Tensor) -> Tensor:
        """The windows of whole clips, prepared: (B, S) to (B, T, samples of a window), (B, 2, S) to (B, T, 2, ...).

        int16 becomes float32 in [-1, 1].
        """
        exact = torch.float64 if waveform.dtype == torch.float64 else torch.float32
        samples = waveform.to(exact) * (1.0 if waveform.is_floating_point() else 1 / FULL_SCALE)
        if self.channels == 1:
            return self._cut(self.prepared(samples))
        cut_BTS = self._cut(self.prepared(samples.flatten(0, 1)))  # of B * C clips
        cut_BTCS: Tensor = cut_BTS.unflatten(0, (-1, self.channels)).transpose(1, 2)
        return cut_BTCS

    def prepared(self, samples_BS: Tensor) -> Tensor:
        """What is done to whole clips, (B, S) to (B, S); nothing by default."""
        return samples_BS

    def _cut(self, samples_BS: Tensor) -> Tensor:
        """(B, S) -> (B, T, samples of a window); sound no longer than the margin goes whole with every segment."""
        total = samples_BS.shape[1]
        if total <= self.windows.margin * self.rate:
            return samples_BS.unsqueeze(1).expand(-1, self.segments, -1)
        starts = np.linspace(0, total - self.windows.margin * self.rate, self.segments, dtype=int)
        length = int(self.rate * self.windows.length)
        return torch.stack([samples_BS[:, start : start + length] for start in starts.tolist()], dim=1)

    @abstractmethod
    def pictures(self, windows_MS: Tensor) -> Tensor:
        """(M, samples of a window) to what `Tower.embed` takes, such as (M, frames, F)."""


class FilterBank(SoundFrontEnd):
    """Kaldi's log-mel filter bank of each segment, for all clips of a batch at once, as AST and LAVISH use it.

    The mean of the whole clip is removed, T windows are cut out of it, and each becomes a picture time x mel: frames of
    25 ms without their mean, pre-emphasis 0.97, Hann window, power spectrum of the next power of two, triangular mel
    filters from 20 Hz to half the rate, natural logarithm floored at float32's epsilon. It is normalised as
    (value - mean) / (2 * std) and only then zero-padded or cut to ``frames`` rows, so that padding equals the mean,
    unless the geometry pads first.

    Args:
        geometry: rate, bands, frame shift, normalisation and height of the picture.
        windows: which pieces of the sound go with the segments.
        segments: T.
    """

    log_mel = True
    taper: Tensor
    mel: Tensor

    def __init__(self, geometry: FilterBankGeometry, windows: Windows, segments: int) -> None:
        super().__init__(geometry, windows, segments)
        self.geometry = geometry
        self.size = int(geometry.rate * FRAME_SECONDS)
        self.shift = int(geometry.rate * geometry.shift_ms * 0.001)
        self.fft = 2 ** math.ceil(math.log2(self.size))
        taper = torch.hann_window(self.size, periodic=False, dtype=torch.float64)
        self.register_buffer("taper", taper, persistent=False)
        self.register_buffer("mel", _mel_filters(geometry, self.fft), persistent=False)

    def prepared(self, samples_BS: Tensor) -> Tensor:
        """Take the mean out."""
        return samples_BS - samples_BS.mean(dim=1, keepdim=True)

    def pictures(self, windows_MS: Tensor) -> Tensor:
        """(M, samples of a window) to (M, frames, F)."""
        logs_MRF = self._logs(windows_MS)
        if self.geometry.pad_first:
            return self._normalised(self._padded(logs_MRF))
        return self._padded(self._normalised(logs_MRF))

    def _logs(self, windows_MS: Tensor) -> Tensor:
        """(M, samples of a window) -> (M, rows, F), as many rows as there are frames of sound, or as are wanted."""
        geometry, exact = self.geometry, windows_MS.dtype
        rows = min(max(0, 1 + (windows_MS.shape[1] - self.size) // self.shift), geometry.frames)
        if rows == 0:
            return windows_MS.new_zeros(len(windows_MS), 0, geometry.mel_bins)
        frames_MRS = windows_MS.unfold(1, self.size, self.shift)[:, :rows]
        frames_MRS = frames_MRS - frames_MRS.mean(dim=2, keepdim=True)
        before_MRS = torch.cat([frames_MRS[..., :1], frames_MRS[..., :-1]], dim=2)
        frames_MRS = (frames_MRS - PRE_EMPHASIS * before_MRS) * self.taper.to(exact)
        power_MRK = torch.fft.rfft(frames_MRS, n=self.fft).abs().square()
        bands_MRF: Tensor = power_MRK @ self.mel.to(exact)
        return bands_MRF.clamp_min(FLOOR).log()

    def _normalised(self, logs_MRF: Tensor) -> Tensor:
        return (logs_MRF - self.geometry.mean) / (2 * self.geometry.std)

    def _padded(self, rows_MRF: Tensor) -> Tensor:
        return F.pad(rows_MRF, (0, 0, 0, self.geometry.frames - rows_MRF.shape[1]))


class MelSpectrogram(SoundFrontEnd):
    """The log-mel spectrogram of each segment in dB, for all clips of a batch at once, as HTS-AT (arXiv:2202.00874).

    T windows are cut out of each clip; one shorter than ``repeat_seconds`` is repeated and cut to that length. Then
    power spectra of ``fft`` samples under a periodic Hann window, centred on every ``hop``-th sample (the sound is
    mirrored at its ends), triangular filters on Slaney's mel scale, each of area 1, and 10 log10 floored at 1e-10.
    There are 1 + S // hop frames.

    Args:
        geometry: rate, spectra, bands and length.
        windows: which pieces of the sound go with the segments.
        segments: T.

    Attributes:
        taper: the Hann window, (fft,) float64.
        mel: the filters, (fft // 2 + 1, F) float64.
    """

    log_mel = True
    taper: Tensor
    mel: Tensor

    def __init__(self, geometry: MelGeometry, windows: Windows, segments: int) -> None:
        super().__init__(geometry, windows, segments)
        self.geometry = geometry
        self.register_buffer("taper", torch.hann_window(geometry.fft, dtype=torch.float64), persistent=False)
        self.register_buffer("mel", _slaney_filters(geometry), persistent=False)

    def pictures(self, windows_MS: Tensor) -> Tensor:
        """(M, samples of a window) to (M, frames, F)."""
        geometry, exact = self.geometry, windows_MS.dtype
        spectra_MKR = torch.stft(
            self._repeated(windows_MS),
            geometry.fft,
            hop_length=geometry.hop,
            window=self.taper.to(exact),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power_MRK = spectra_MKR.abs().square().transpose(1, 2)
        return 10 * (power_MRK @ self.mel.to(exact)).clamp_min(QUIETEST).log10()

    def _repeated(self, windows_MS: Tensor) -> Tensor:
        samples = windows_MS.shape[1]
        wanted = max(samples, round((self.geometry.repeat_seconds or 0.0) * self.rate))
        if wanted <= self.geometry.fft // 2:
            raise DataError(
                f"A piece of sound of {samples} samples at {self.rate} Hz is too short for spectra of "
                f"{self.geometry.fft} samples: raise data.window_seconds or audio.repeat_seconds."
            )
        return windows_MS.repeat(1, math.ceil(wanted / samples))[:, :wanted]


def _mel_filters(geometry: FilterBankGeometry, fft: int) -> Tensor:
    """Kaldi's triangles as (FFT bins, F) float64; the bin at half the rate counts nowhere."""
    compat.install()
    # Models are first built on the meta device, and tensors that a module makes at its first import would stay there.
    with torch.device("cpu"):
        from torchaudio.compliance.kaldi import get_mel_banks

    bands, _ = get_mel_banks(geometry.mel_bins, fft, geometry.rate, LOW_HZ, 0.0, 100.0, -500.0, 1.0)
    return F.pad(bands, (0, 1)).T.double().contiguous()


def _slaney_filters(geometry: MelGeometry) -> Tensor:
    """librosa's default triangles as (FFT bins, F) float32."""
    compat.install()
    with torch.device("cpu"):
        from torchaudio.functional import melscale_fbanks

        # The function looks at the values that it makes, which the meta device has none of.
        filters: Tensor = melscale_fbanks(
            n_freqs=geometry.fft // 2 + 1,
            f_min=geometry.low_hz,
            f_max=geometry.high_hz,
            n_mels=geometry.mel_bins,
            sample_rate=geometry.rate,
            norm="slaney",
            mel_scale="slaney",
        )
    return filters.to(torch.empty(0).device)
