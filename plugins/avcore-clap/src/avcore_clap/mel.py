"""The front end of CLAP (arXiv:2211.06687): HTS-AT's log-mel spectrogram in dB at 48 kHz, on either mel scale."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from avcore import compat
from avcore.data.frontends import MelSpectrogram
from avcore.specs import MelGeometry, Windows

__all__ = ["ClapGeometry", "ClapSpectrogram"]


@dataclass(frozen=True, kw_only=True)
class ClapGeometry(MelGeometry):
    """A `MelGeometry` that names its filters.

    ``slaney``: librosa's triangles, each of area 1, as CLAP without fusion was trained on; ``htk``: torchaudio's, each
    of height 1 on HTK's scale, as with fusion.
    """

    front_end: ClassVar[str] = "avcore_clap.mel:ClapSpectrogram"
    rate: int = 48000
    hop: int = 480
    filters: Literal["slaney", "htk"] = "slaney"


class ClapSpectrogram(MelSpectrogram):
    """See `MelSpectrogram` and `ClapGeometry`."""

    def __init__(self, geometry: ClapGeometry, windows: Windows, segments: int) -> None:
        super().__init__(geometry, windows, segments)
        if geometry.filters == "htk":
            self.register_buffer("mel", _htk_filters(geometry), persistent=False)


def _htk_filters(geometry: ClapGeometry) -> Tensor:
    """(FFT bins, mel bins) float32."""
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
        )
    return filters.to(torch.empty(0).device)
