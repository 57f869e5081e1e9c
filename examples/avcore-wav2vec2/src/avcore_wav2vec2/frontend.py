"""What the backbone embeds: the waveform of each segment. Shape letters: M = B*T clips and segments, S samples."""

import torch.nn.functional as F
from torch import Tensor

from avcore import AVCoreError, SoundFrontEnd, Windows
from avcore_wav2vec2.settings import WaveformGeometry

__all__ = ["WaveformFrontEnd"]


class WaveformFrontEnd(SoundFrontEnd):
    """The window of each segment, all brought to one length.

    Args:
        geometry: rate, length and normalisation.
        windows: which pieces of the sound go with the segments.
        segments: T.

    Raises:
        AVCoreError: a window is longer than what the backbone listens to.
    """

    def __init__(self, geometry: WaveformGeometry, windows: Windows, segments: int) -> None:
        super().__init__(geometry, windows, segments)
        self.geometry = geometry
        if int(geometry.rate * windows.length) > geometry.samples:
            raise AVCoreError(
                f"A segment has {windows.length} s of sound (data.window_seconds), of which this backbone would hear "
                f"{geometry.seconds} s: --set audio.seconds={windows.length}."
            )

    def pictures(self, windows_MS: Tensor) -> Tensor:
        """(M, samples of a window) to (M, samples that the backbone takes)."""
        kept_MS = windows_MS[:, : self.geometry.samples]
        if self.geometry.normalise:
            kept_MS = F.layer_norm(kept_MS, kept_MS.shape[1:])
        return F.pad(kept_MS, (0, self.geometry.samples - kept_MS.shape[1]))
