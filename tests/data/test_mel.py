"""The front end of HTS-AT against its definition, torchaudio and the reference's own tensors."""

import pytest
import torch

from avcore import compat
from avcore.data.frontends import MelSpectrogram
from avcore.errors import AVCoreError
from avcore.specs import MelGeometry, Windows
from avcore.testing.golden import assert_close, load_case

WHOLE = Windows(length=10.0, margin=10.0)


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    made = torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ((made - 0.3) * 0.5).to(dtype)


def torchaudios(windows: torch.Tensor, geometry: MelGeometry) -> torch.Tensor:
    compat.install()
    from torchaudio.transforms import MelSpectrogram as Reference

    made = Reference(
        sample_rate=geometry.rate,
        n_fft=geometry.fft,
        hop_length=geometry.hop,
        f_min=geometry.low_hz,
        f_max=geometry.high_hz,
        n_mels=geometry.mel_bins,
        norm="slaney",
        mel_scale="slaney",
    ).to(windows.dtype)(windows)
    return 10 * made.clamp_min(1e-10).log10().transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "geometry", [MelGeometry(), MelGeometry(rate=16000, fft=512, hop=160, mel_bins=32, high_hz=8e3)]
)
def test_bands_are_torchaudios_in_decibels(geometry: MelGeometry, dtype: torch.dtype) -> None:
    front = MelSpectrogram(geometry, Windows(length=10.0, margin=10.0), segments=1)
    waveform_BS = noise(2, 10 * geometry.rate, dtype=dtype)
    made = front(waveform_BS)
    assert made.dtype == dtype
    assert_close(made, torchaudios(waveform_BS, geometry), 1e-6, floor=0)


def test_windows_are_cut_and_repeated_up_to_the_length_asked_for() -> None:
    geometry = MelGeometry(repeat_seconds=1.0)
    waveform_BS = noise(2, 64000)
    made = MelSpectrogram(geometry, Windows(length=0.4, margin=0.4), segments=3)(waveform_BS)
    pieces = [clip[start : start + 12800].repeat(3)[:32000] for clip in waveform_BS for start in (0, 25600, 51200)]
    assert made.shape == (6, 101, 64)
    assert_close(made, torchaudios(torch.stack(pieces), geometry), 1e-6, floor=0)


def test_windows_that_are_long_enough_stay_as_they_are() -> None:
    windows = Windows(length=0.4, margin=0.4)
    waveform_BS = noise(1, 64000)
    plain = MelSpectrogram(MelGeometry(repeat_seconds=None), windows, segments=3)(waveform_BS)
    assert plain.shape == (3, 41, 64)
    assert torch.equal(MelSpectrogram(MelGeometry(repeat_seconds=0.2), windows, segments=3)(waveform_BS), plain)


def test_silence_is_a_hundred_decibels_below_one() -> None:
    front = MelSpectrogram(MelGeometry(), Windows(length=1.0, margin=1.0), segments=1)
    assert front(torch.zeros(1, 32000, dtype=torch.int16)).eq(-100).all()


def test_sixteen_bit_samples_are_fractions_of_full_scale() -> None:
    front = MelSpectrogram(MelGeometry(), WHOLE, segments=1)
    samples = (noise(1, 32000) * 32767).to(torch.int16)
    torch.testing.assert_close(front(samples), front(samples.float() / 32768))


def test_lower_precision_does_not_reach_the_spectrogram() -> None:
    waveform = noise(1, 32000, dtype=torch.float32)
    front = MelSpectrogram(MelGeometry(), WHOLE, segments=1)
    exact = front(waveform)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(front(waveform), exact)
    assert torch.equal(front.to(torch.bfloat16)(waveform), exact)
    assert not front.state_dict()


def test_shapes_are_known_on_the_meta_device() -> None:
    with torch.device("meta"):
        front = MelSpectrogram(MelGeometry(), Windows(length=1.0, margin=1.0), segments=5)
        made = front(torch.zeros(2, 160000, dtype=torch.int16))
    assert made.is_meta
    assert made.shape == (10, 1001, 64)


def test_a_piece_too_short_for_one_spectrum_is_refused() -> None:
    front = MelSpectrogram(MelGeometry(repeat_seconds=None), Windows(length=0.01, margin=0.01), segments=2)
    with pytest.raises(AVCoreError, match=r"320 samples at 32000 Hz is too short .* audio\.repeat_seconds"):
        front(noise(1, 32000))


@pytest.mark.golden
@pytest.mark.parametrize("case", ["c1_htsat_mel"])
def test_golden(case: str) -> None:
    tensors, _ = load_case(case)
    frames, bins = tensors["out/segment_logmel"].shape
    seconds = (frames - 1) * MelGeometry.hop / MelGeometry.rate
    geometry = MelGeometry(mel_bins=bins, repeat_seconds=seconds)
    front = MelSpectrogram(geometry, Windows(length=seconds, margin=seconds), segments=1)
    logs_MRF = front(tensors["in/segment_1s"][None].double())
    assert_close(logs_MRF[0], tensors["out/segment_logmel"], 1e-5, floor=0)
    assert_close(front.mel, tensors["weights/logmel_extractor.melW"], 1e-5, floor=0)
