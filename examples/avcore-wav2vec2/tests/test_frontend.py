"""The waveform of each segment, cut where avcore's own front ends cut."""

import pytest
import torch
from torch import Tensor

from avcore import AVCoreError, SoundFrontEnd, Windows
from avcore_wav2vec2.frontend import WaveformFrontEnd
from avcore_wav2vec2.settings import WaveformGeometry

CLIP = Windows(length=1.0, margin=1.1)


class Bare(SoundFrontEnd):
    """The windows as the core cuts them."""

    def pictures(self, windows_MS: Tensor) -> Tensor:
        return windows_MS


@pytest.mark.parametrize("samples", [32000, 39999, 17600, 12345], ids=str)
def test_windows_are_those_of_the_core(samples: int) -> None:
    waveform_BS = torch.randn(2, samples) * 0.1
    expected_MS = Bare(WaveformGeometry(), CLIP, segments=3)(waveform_BS)
    found_MS = WaveformFrontEnd(WaveformGeometry(), CLIP, segments=3)(waveform_BS)
    assert found_MS.shape == (6, 16000)
    length = min(16000, expected_MS.shape[1])
    assert torch.equal(found_MS[:, :length], expected_MS[:, :length])
    assert not found_MS[:, length:].any()


def test_integers_become_numbers_up_to_one() -> None:
    waveform_BS = torch.tensor([[-32768, 16384, 0, 8192]], dtype=torch.int16)
    front = WaveformFrontEnd(WaveformGeometry(seconds=4 / 16000), Windows(length=2 / 16000, margin=1.0), segments=1)
    assert front(waveform_BS).tolist() == [[-1.0, 0.5, 0.0, 0.25]]


def test_every_segment_is_normalised_before_it_is_padded() -> None:
    waveform_BS = torch.randn(1, 32000) * torch.linspace(0.01, 1, 32000) + 0.3
    short = Windows(length=0.5, margin=0.5)
    found_MS = WaveformFrontEnd(WaveformGeometry(normalise=True), short, segments=3)(waveform_BS)
    sound_MS = found_MS[:, :8000]
    torch.testing.assert_close(sound_MS.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(sound_MS.std(1), torch.ones(3), rtol=0, atol=0.02)
    assert not found_MS[:, 8000:].any()
    silence_MS = WaveformFrontEnd(WaveformGeometry(normalise=True), short, segments=3)(torch.zeros(1, 32000))
    assert not silence_MS.any()


def test_windows_that_would_not_be_heard_whole_are_refused() -> None:
    with pytest.raises(AVCoreError, match=r"1\.95 s of sound .* would hear 1\.0 s: --set audio\.seconds=1\.95"):
        WaveformFrontEnd(WaveformGeometry(), Windows(length=1.95, margin=2.05), segments=5)
