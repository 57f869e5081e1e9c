"""What the kinds of the demo world sound like.

Each kind has a timbre and a rhythm of its own; each object of a kind differs in pitch, tempo and loudness. Every second
of a voice holds several of its strokes, so that one second is enough to tell the kind.

Arrays are mono float32, suffix S = samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

LEVEL = 0.07
"""Root mean square of a voice of gain 1 (full scale is 1)."""


@dataclass(frozen=True)
class Voice:
    """How one object sounds.

    Attributes:
        kind: Name of the kind, a key of `SINGERS`.
        pitch: Factor on every frequency, about 0.8 to 1.25.
        tempo: Factor on the number of strokes per second, about 0.8 to 1.25.
        gain: Factor on the loudness, about 0.63 to 1.6 (-4 to 4 dB).
        seed: What the details of each stroke follow from.
        ring: At which pitch (Hz) its body rings with it, 0 if it does not.
    """

    kind: str
    pitch: float
    tempo: float
    gain: float
    seed: int
    ring: float = 0.0

    @property
    def loudness(self) -> float:
        """Root mean square while it sounds, dB; 0 is full scale."""
        return 20 * float(np.log10(LEVEL * self.gain))


def draw_voice(kind: str, rng: np.random.Generator) -> Voice:
    """Draws an object's voice."""
    pitch, tempo = np.exp(rng.uniform(-0.22, 0.22, 2))
    gain = 10 ** (rng.uniform(-4, 4) / 20)
    return Voice(kind, float(pitch), float(tempo), float(gain), int(rng.integers(2**63)))


def sing(voice: Voice, seconds: float, rate: int) -> Samples:
    """Renders a voice for `seconds` s at `rate` Hz, from its beginning."""
    rng = np.random.default_rng(voice.seed)
    wave_S = SINGERS[voice.kind](voice, rng, round(seconds * rate), rate)
    if voice.ring:
        wave_S = wave_S + _ringing(wave_S, voice.ring, rate)
    loudness = float(np.sqrt(np.mean(wave_S**2))) + 1e-9
    return (wave_S * (LEVEL * voice.gain / loudness)).astype(np.float32)


def hiss(rng: np.random.Generator, seconds: float, rate: int) -> Samples:
    """Renders the low background noise of a place, -54 to -40 dB, its spectrum falling by a drawn slope."""
    level = 10 ** (rng.uniform(-54, -40) / 20)
    noise_S = _noise(rng, round(seconds * rate), rate, 60, 0.48 * rate, slope=rng.uniform(0.2, 0.9))
    return (noise_S * level).astype(np.float32)


def _noise(
    rng: np.random.Generator, count: int, rate: int, low: float, high: float, slope: float = 0.0
) -> NDArray[np.float64]:
    """Noise of root mean square 1 between `low` and `high` Hz, its amplitude falling as frequency ** -slope."""
    bins = np.fft.rfftfreq(count, 1 / rate)
    shape = np.maximum(bins, 20.0) ** -slope
    # A sixth of an octave of fade at each side: a hard edge would ring.
    shape *= np.clip((bins / low - 0.89) / 0.22, 0, 1) * np.clip((1.11 - bins / high) / 0.22, 0, 1)
    spectrum = shape * (rng.standard_normal(len(bins)) + 1j * rng.standard_normal(len(bins)))
    noise_S = np.fft.irfft(spectrum, count)
    return np.asarray(noise_S / (np.sqrt(np.mean(noise_S**2)) + 1e-12))


def _strokes(rng: np.random.Generator, seconds: float, per_second: float, jitter: float) -> list[tuple[float, float]]:
    """Times (s) and strengths of strokes at a steady tempo, each displaced by up to `jitter` of a period."""
    period = 1 / per_second
    starts = np.arange(-rng.uniform(0, 1) * period, seconds, period)
    starts = starts + rng.uniform(-jitter, jitter, len(starts)) * period
    strengths = rng.uniform(0.7, 1, len(starts))
    return list(zip(starts.tolist(), strengths.tolist(), strict=True))


def _add(out_S: NDArray[np.float64], stroke_S: NDArray[np.float64], start: float, strength: float, rate: int) -> None:
    """Adds a stroke that begins at `start` s; parts outside are cut."""
    first = round(start * rate)
    begin, end = max(first, 0), min(first + len(stroke_S), len(out_S))
    if begin < end:
        out_S[begin:end] += strength * stroke_S[begin - first : end - first]


def _ringing(wave_S: NDArray[np.float64], pitch: float, rate: int) -> NDArray[np.float64]:
    """Two partials that every stroke excites and that fade within about a tenth of a second."""
    step = max(rate // 100, 1)
    loud = np.sqrt(np.add.reduceat(wave_S**2, np.arange(0, len(wave_S), step)) / step)
    for now in range(1, len(loud)):
        loud[now] = max(loud[now], 0.88 * loud[now - 1])
    time_S = np.arange(len(wave_S)) / rate
    loud_S = np.interp(time_S, (np.arange(len(loud)) + 0.5) * step / rate, loud)
    tone_S = np.sin(2 * np.pi * pitch * time_S) + 0.5 * np.sin(2 * np.pi * 1.41 * pitch * time_S)
    return np.asarray(0.9 * loud_S * tone_S)


def _table(amplitudes: list[float]) -> NDArray[np.float64]:
    """One period of a sum of harmonics."""
    phase = np.arange(2048) * (2 * np.pi / 2048)
    return np.asarray(sum(a * np.sin((n + 1) * phase + 0.7 * n * n) for n, a in enumerate(amplitudes)))


def _tone(table: NDArray[np.float64], pitch_S: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Plays a period at a pitch (Hz) that changes from sample to sample."""
    cycles_S = np.cumsum(pitch_S) / rate
    return table[((cycles_S % 1.0) * len(table)).astype(np.int64) % len(table)]


def _drum(voice: Voice, rng: np.random.Generator, count: int, rate: int) -> NDArray[np.float64]:
    """A membrane: a falling low tone with a short slap of noise, three or four times a second."""
    time_S = np.arange(round(0.32 * rate)) / rate
    low = 75 * voice.pitch
    tone_S = np.sin(2 * np.pi * (low * time_S + 0.9 * low * 0.035 * (1 - np.exp(-time_S / 0.035))))
    second_S = 0.4 * np.sin(2 * np.pi * 1.59 * low * time_S) * np.exp(-time_S / 0.05)
    slap_S = 0.35 * _noise(rng, len(time_S), rate, 250, 1600) * np.exp(-time_S / 0.012)
    stroke_S = (tone_S + second_S) * np.exp(-time_S / 0.085) + slap_S
    out_S = np.zeros(count)
    for start, strength in _strokes(rng, count / rate, 3.6 * voice.tempo, 0.12):
        _add(out_S, stroke_S, start, strength, rate)
    return out_S


def _bell(voice: Voice, rng: np.random.Generator, count: int, rate: int) -> NDArray[np.float64]:
    """Metal: inharmonic partials, the high ones fading first, about twice a second."""
    time_S = np.arange(round(1.1 * rate)) / rate
    strike_S = np.zeros(len(time_S))
    for ratio, amplitude, decay in _PARTIALS:
        pitch = 640 * voice.pitch * ratio * (1 + rng.uniform(-0.01, 0.01))
        strike_S += amplitude * np.sin(2 * np.pi * pitch * time_S + rng.uniform(0, 6)) * np.exp(-time_S / decay)
    strike_S *= 1 - np.exp(-time_S / 0.0008)
    out_S = np.zeros(count)
    for start, strength in _strokes(rng, count / rate, 2.3 * voice.tempo, 0.06):
        _add(out_S, strike_S, start, strength, rate)
    return out_S


_PARTIALS = [
    (0.5, 0.5, 0.7),
    (1.0, 1.0, 0.45),
    (1.19, 0.7, 0.4),
    (1.5, 0.45, 0.3),
    (2.0, 0.8, 0.26),
    (2.74, 0.5, 0.18),
    (3.76, 0.35, 0.1),
    (5.1, 0.3, 0.06),
]


def _bird(voice: Voice, rng: np.random.Generator, count: int, rate: int) -> NDArray[np.float64]:
    """Whistled sweeps between 2.5 and 6 kHz, six a second, now and then a trill instead."""
    out_S = np.zeros(count)
    base = 3600 * voice.pitch
    sweeps = rng.uniform(-0.35, 0.35, 3)
    for start, strength in _strokes(rng, count / rate, 6 * voice.tempo, 0.15):
        time_S = np.arange(round(rng.uniform(0.07, 0.12) * rate)) / rate
        part_S = np.linspace(0, 1, len(time_S))
        pitch_S = base * (1 + rng.choice(sweeps) * (part_S - 0.5) * 2)
        if rng.random() < 0.3:
            pitch_S = pitch_S * (1 + 0.12 * np.sin(2 * np.pi * 45 * time_S))
        chirp_S = np.sin(2 * np.pi * np.cumsum(np.minimum(pitch_S, 0.46 * rate)) / rate)
        _add(out_S, chirp_S * np.sin(np.pi * part_S) ** 0.7, start, strength, rate)
    return out_S


def _engine(voice: Voice, rng: np.random.Generator, count: int, rate: int) -> NDArray[np.float64]:
    """A steady buzz of many harmonics that throbs and wanders, with a rumble of low noise."""
    time_S = np.arange(count) / rate
    wander_S = 1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * time_S + rng.uniform(0, 6))
    harmonics = min(40, int(0.45 * rate / (110 * voice.pitch)))
    table = _table([1 / (n + 1) ** 0.75 * rng.uniform(0.5, 1) for n in range(harmonics)])
    buzz_S = _tone(table, 88 * voice.pitch * wander_S, rate)
    throb_S = 1 + 0.45 * np.sin(2 * np.pi * np.cumsum(13 * voice.tempo * wander_S) / rate)
    return np.asarray(throb_S * (buzz_S / np.std(buzz_S) + 0.35 * _noise(rng, count, rate, 80, 2400, slope=0.5)))


def _flute(voice: Voice, rng: np.random.Generator, count: int, rate: int) -> NDArray[np.float64]:
    """A melody of soft tones with vibrato and breath, two or three notes a second."""
    notes = 520 * voice.pitch * 2 ** (np.array([0, 2, 4, 7, 9, 12]) / 12)
    pitch_S, loud_S = np.full(count, notes[0]), np.zeros(count)
    starts = [min(max(start, 0.0), count / rate) for start, _ in _strokes(rng, count / rate, 2.6 * voice.tempo, 0.15)]
    for start, end in zip(starts, [*starts[1:], count / rate], strict=True):
        first, last = round(start * rate), round(end * rate)
        pitch_S[first:last] = rng.choice(notes)
        part_S = np.linspace(0, 1, max(last - first, 0))
        loud_S[first:last] = np.minimum(1, np.minimum(part_S / 0.12, (1 - part_S) / 0.15))
    time_S = np.arange(count) / rate
    pitch_S = pitch_S * (1 + 0.012 * np.sin(2 * np.pi * 5.2 * time_S))
    tone_S = _tone(_table([1, 0.32, 0.12, 0.03]), pitch_S, rate)
    return np.asarray(loud_S * (tone_S + 0.06 * _noise(rng, count, rate, 900, 5000)))


def _rattle(voice: Voice, rng: np.random.Generator, count: int, rate: int) -> NDArray[np.float64]:
    """Seeds in a shell: short bursts of high noise, eight a second, every second one louder."""
    out_S = np.zeros(count)
    grains_S = _noise(rng, count, rate, 2600 * voice.pitch, min(7400 * voice.pitch, 0.46 * rate))
    time_S = np.arange(round(0.09 * rate)) / rate
    shake_S = (1 - np.exp(-time_S / 0.006)) * np.exp(-time_S / 0.022)
    for number, (start, strength) in enumerate(_strokes(rng, count / rate, 8 * voice.tempo, 0.1)):
        _add(out_S, shake_S, start, strength * (1.0 if number % 2 else 0.55), rate)
    return out_S * grains_S


SINGERS: dict[str, Callable[[Voice, np.random.Generator, int, int], NDArray[np.float64]]] = {
    "drum": _drum,
    "bell": _bell,
    "bird": _bird,
    "engine": _engine,
    "flute": _flute,
    "rattle": _rattle,
}
"""The kinds and the functions that render them: (voice, generator, samples, rate in Hz) to samples of any loudness."""
