"""The front end gives what ``ClapFeatureExtractor`` of transformers gives, for sounds that fill 10 s evenly."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from claps import SOUND, sound
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.specs import Windows, resolve
from avcore_clap import SOUND_PRESETS
from avcore_clap.mel import ClapGeometry, ClapSpectrogram
from avcore_clap.settings import ClapSettings
from avcore_clap.sound import build

FILTERS = {"slaney": "rand_trunc", "htk": "fusion"}
"""Which filters go with which of transformers' ways to shorten sound, that is, with which models."""


@cache
def wave(seconds: float) -> Any:
    times = np.arange(round(seconds * 48000)) / 48000
    noise = np.random.default_rng(0).standard_normal(len(times))
    return 0.3 * np.sin(2 * np.pi * 440 * times * (1 + times)) + 0.01 * noise


@cache
def theirs(filters: str, seconds: float) -> Any:
    """(frames, bands) in dB."""
    from transformers import ClapFeatureExtractor

    made = ClapFeatureExtractor(frequency_min=50, frequency_max=14000, truncation=FILTERS[filters])
    return made(wave(seconds), sampling_rate=48000, return_tensors="np")["input_features"][0, 0]


def ours(filters: Any, seconds: float, repeat: float = 10.0, kind: torch.dtype = torch.float64) -> Tensor:
    front = ClapSpectrogram(
        ClapGeometry(filters=filters, repeat_seconds=repeat), Windows(length=seconds, margin=seconds), 1
    )
    made: Tensor = front(torch.from_numpy(wave(seconds))[None].to(kind))[0]
    return made


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_a_second_is_repeated_to_ten(filters: str, kind: torch.dtype) -> None:
    expected = theirs(filters, 1.0)
    assert expected.shape == (1001, 64)
    assert np.ptp(expected) > 30
    # In dB; their filters and ours are rounded differently.
    assert np.abs(ours(filters, 1.0, kind=kind).numpy() - expected).max() < 1e-3
    other = next(one for one in FILTERS if one != filters)
    assert np.abs(ours(other, 1.0).numpy() - expected).max() > 5


def test_what_does_not_fill_ten_seconds_evenly_ends_otherwise() -> None:
    """transformers repeats whole sounds and adds silence; here the last one is cut."""
    gap = np.abs(ours("slaney", 3.0).numpy() - theirs("slaney", 3.0)).max(1)
    assert gap[:899].max() < 1e-3
    assert gap[910:].min() > 5


def test_without_repeating_a_second_is_a_second() -> None:
    assert ours("slaney", 1.0, repeat=0.0).shape == (101, 64)


def test_the_presets_and_the_setting_reach_the_front_end() -> None:
    def geometry(name: str, **given: Any) -> Any:
        settings = ClapSettings(**given)
        with torch.device("meta"):
            return build(settings, name=name, preset=SOUND_PRESETS[name]).tower("audio", settings, 1).geometry

    published = ClapGeometry(
        **{"rate": 48000, "hop": 480, "fft": 1024, "mel_bins": 64, "low_hz": 50.0, "high_hz": 14000.0},  # type: ignore[arg-type]
        repeat_seconds=10.0,
    )
    assert geometry("clap_unfused") == published
    assert geometry("clap_fused").filters == "htk"
    assert geometry("clap_unfused", repeat_seconds=0.0).repeat_seconds == 0
    assert resolve(published.front_end) is ClapSpectrogram


def test_sound_above_ten_seconds_is_refused() -> None:
    tower = sound(preset={**SOUND_PRESETS["test_clap"]})
    with pytest.raises(AVCoreError, match=r"does not fit 'small', which holds 128 \(1\.28 s\)"):
        tower.embed(torch.zeros(1, 129, 32, dtype=torch.float64))
    with pytest.raises(AVCoreError, match=r"lower data\.window_seconds or audio\.repeat_seconds"):
        sound(preset=SOUND, repeat_seconds=2.0)
