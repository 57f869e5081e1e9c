import re
import subprocess
import sys

import pytest
import torch

from avcore import compat
from avcore.data.frontends import FilterBank, ImageFrontEnd
from avcore.specs import FilterBankGeometry, ImageGeometry, Windows
from avcore.testing.golden import assert_close, load_case

ONE_SECOND = Windows(length=1.0, margin=1.1)
GOLDEN_OUTPUTS = (
    "lavish_ave_swin",
    "lavish_ave_vit",
    "lavish_avs",
    "lavish_avqa",
    "stgcma_clip_ave",
    "stgcma_swin_ave",
    "lavish_ave_swin_short",
    "lavish_ave_vit_short",
)


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    made = torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ((made - 0.3) * 0.5).to(dtype)


def kaldi(window: torch.Tensor, geometry: FilterBankGeometry) -> torch.Tensor:
    compat.install()
    import torchaudio.compliance.kaldi

    made = torchaudio.compliance.kaldi.fbank(
        window.unsqueeze(0),
        htk_compat=True,
        sample_frequency=geometry.rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=geometry.mel_bins,
        dither=0.0,
        frame_shift=geometry.shift_ms,
    )
    return (made - geometry.mean) / (2 * geometry.std)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rate", "bins", "shift"), [(16000, 128, 10.0), (16000, 192, 5.2), (32000, 64, 10.0)])
def test_filter_bank_is_kaldis(rate: int, bins: int, shift: float, dtype: torch.dtype) -> None:
    geometry = FilterBankGeometry(rate=rate, mel_bins=bins, shift_ms=shift, frames=40)
    waveform_BS = noise(2, 3 * rate, dtype=dtype)
    pictures = FilterBank(geometry, Windows(length=0.3, margin=0.4), segments=4)(waveform_BS)
    assert pictures.dtype == dtype
    centred = waveform_BS - waveform_BS.mean(dim=1, keepdim=True)
    starts = [0, int(2.6 * rate / 3), int(2.6 * rate * 2 / 3), int(2.6 * rate)]
    expected = [kaldi(clip[start : start + int(0.3 * rate)], geometry)[:40] for clip in centred for start in starts]
    for picture, reference in zip(pictures, expected, strict=True):
        assert_close(picture[: len(reference)], reference, 1e-4 if dtype == torch.float32 else 1e-9)
        assert picture[len(reference) :].eq(0).all()
    assert len(expected[0]) < 40 or shift == 5.2, "one of the cases must pad, the other cut"


def test_sixteen_bit_samples_are_fractions_of_full_scale() -> None:
    bank = FilterBank(FilterBankGeometry(), ONE_SECOND, segments=10)
    samples = (noise(1, 160000) * 32767).to(torch.int16)
    torch.testing.assert_close(bank(samples), bank(samples.float() / 32768))


def test_sound_shorter_than_a_frame_is_the_mean() -> None:
    assert FilterBank(FilterBankGeometry(), ONE_SECOND, segments=2)(noise(3, 399)).eq(0).all()


def test_zeros_can_be_appended_before_the_normalisation() -> None:
    waveform = noise(2, 32000)
    usual = FilterBank(FilterBankGeometry(frames=130), ONE_SECOND, segments=2)(waveform)
    padded = FilterBank(FilterBankGeometry(frames=130, pad_first=True), ONE_SECOND, segments=2)(waveform)
    assert torch.equal(padded[:, :98], usual[:, :98])
    assert usual[:, 98:].eq(0).all()
    torch.testing.assert_close(padded[:, 98:], torch.full((4, 32, 128), 4.1426 / 6.4002, dtype=torch.float64))
    cut = FilterBank(FilterBankGeometry(frames=50, pad_first=True), ONE_SECOND, segments=2)(waveform)
    assert torch.equal(cut, usual[:, :50])


def test_lower_precision_does_not_reach_the_filter_bank() -> None:
    waveform = noise(1, 48000, dtype=torch.float32)
    bank = FilterBank(FilterBankGeometry(), ONE_SECOND, segments=3)
    exact = bank(waveform)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bank(waveform), exact)
    assert torch.equal(bank.to(torch.bfloat16)(waveform), exact)
    assert not bank.state_dict()


def test_pictures_are_normalised_by_channel() -> None:
    frames = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8)
    front = ImageFrontEnd(ImageGeometry(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))).to(torch.bfloat16)
    made = front(frames)
    assert made.shape == (6, 3, 8, 8)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made[4, 1], (frames[1, 1, 1].float() / 255 - 0.2) / 0.6)


def described(text: str) -> tuple[float, float, float, float, int]:
    """Window (s), shift (ms), mean, std and T as the description of an output gives them; silence means the usual."""

    def number(pattern: str, usual: float) -> float:
        found = re.search(pattern, text)
        return float(found[1]) if found else usual

    usual = FilterBankGeometry()
    return (
        number(r"([\d.]+) s\b", 1.0),
        number(r"([\d.]+) ms", usual.shift_ms),
        number(r"(-\d+\.\d+)/\d", usual.mean),
        number(r"-\d+\.\d+/(\d+\.\d+)", usual.std),
        int(number(r"(?:of|all) (\d+)", 10)),
    )


@pytest.mark.golden
@pytest.mark.parametrize("output", GOLDEN_OUTPUTS, ids=lambda output: f"c1_fbank-{output}")
def test_golden(output: str) -> None:
    tensors, meta = load_case("c1_fbank")
    reference = tensors[f"out/{output}"]
    text = meta["outputs"][output.removesuffix("_short")]
    length, shift, mean, std, segments = described(text)
    frames, bins = reference.shape[1:]
    geometry = FilterBankGeometry(mel_bins=bins, shift_ms=shift, frames=frames, mean=mean, std=std)
    bank = FilterBank(geometry, Windows(length=length, margin=length + 0.1), segments=segments)

    if output.endswith("_short"):
        pictures = bank(tensors["in/wave_short"].double())
        assert len(pictures) == segments
        assert_close(pictures, pictures[:1].expand_as(pictures), 1e-9)
        assert_close(pictures[:1], reference, 2e-4, floor=0)
        return
    pictures = bank(tensors["in/wave"].double())
    named = re.search(r"in/segments_\w+", text)
    chosen = tensors[named[0]] if named else torch.arange(segments)
    assert_close(pictures[chosen[: len(reference)]], reference, 2e-4, floor=0)


def test_a_front_end_made_on_the_meta_device_leaves_torchaudio_usable() -> None:
    script = (
        "import torch\n"
        "from avcore.data.frontends import FilterBank\n"
        "from avcore.specs import FilterBankGeometry\n"
        "from avcore.specs import Windows\n"
        "with torch.device('meta'):\n"
        "    FilterBank(FilterBankGeometry(), Windows(length=1.0, margin=1.1), segments=2)\n"
        "from torchaudio.compliance import kaldi\n"
        "assert kaldi.fbank(torch.randn(1, 8000)).isfinite().all()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
