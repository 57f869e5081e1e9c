"""What the tiny vision transformer is trained on: pictures and sounds of other demo worlds, drawn apart.

A picture never comes with its sound: the two are made from different clips, so that nothing can be learned here about
which sound goes with which object.

Suffixes: N examples, Y, X = rows and columns (px), K = kinds, S = samples, F = mel bins, T = filter-bank frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avcore_demo import KINDS
from avcore_demo.sounds import draw_voice, hiss, sing
from avcore_demo.styles import SECONDS
from avcore_demo.world import clip_seed, make_clip

SIZE = 96
RATE = 16000
MEL = 64
TIME = 96


def pictures(purpose: str, clips: int, workers: int) -> tuple[Tensor, Tensor]:
    """Renders two moments of each of `clips` clips.

    Returns:
        Frames, uint8 (N, 3, Y, X); labels, uint8 (N, Y, X): 0 where no object is, else 1 + the index of its kind.
    """
    frames, labels = _collect(_picture_chunk, purpose, clips, workers)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def sounds(purpose: str, scenes: int, workers: int) -> tuple[Tensor, Tensor]:
    """Renders four seconds of each of `scenes` scenes of none, one or two kinds.

    Returns:
        Log-mel filter banks, float16 (N, T, F), not normalised; which kinds sound, bool (N, K).
    """
    banks, kinds = _collect(_sound_chunk, purpose, scenes, workers)
    return torch.from_numpy(banks), torch.from_numpy(kinds)


def filter_bank(wave_S: Tensor) -> Tensor:
    """Kaldi's log-mel filter bank of one second at 16 kHz: (98, F), 25 ms windows every 10 ms."""
    import torchaudio

    bank: Tensor = torchaudio.compliance.kaldi.fbank(
        (wave_S - wave_S.mean())[None],
        htk_compat=True,
        sample_frequency=RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=MEL,
        dither=0.0,
        frame_shift=10,
    )
    return bank


def fit(bank_NTF: Tensor, mean: float, std: float) -> Tensor:
    """Normalises as (x - mean) / (2 std) and cuts or pads with zeros to 96 frames: (N, 96, F)."""
    bank_NTF = (bank_NTF.float() - mean) / (2 * std)
    missing = TIME - bank_NTF.shape[1]
    return torch.nn.functional.pad(bank_NTF, (0, 0, 0, missing))


Job = tuple[str, int, int]


def _collect(
    chunk: Callable[[Job], tuple[NDArray[Any], NDArray[Any]]], purpose: str, count: int, workers: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Runs a chunk function over 0..count in processes; the order is that of the numbers."""
    step = 50
    jobs = [(purpose, first, min(first + step, count)) for first in range(0, count, step)]
    with get_context("spawn").Pool(workers) as pool:
        first, second = zip(*pool.imap(chunk, jobs), strict=True)
    return np.concatenate(first), np.concatenate(second)


def _picture_chunk(job: Job) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    frames, labels = [], []
    for frame, label in _pictures(*job):
        frames.append(frame)
        labels.append(label)
    return np.stack(frames), np.stack(labels)


def _pictures(purpose: str, first: int, last: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    for number in range(first, last):
        seed = clip_seed("pretrain", purpose, "picture", number)
        clip = make_clip(seed)
        codes = np.array([1 + KINDS.index(thing.kind) for thing in clip.things], np.uint8)
        for t in np.random.default_rng(seed).uniform(0, SECONDS, 2):
            frame, masks_KYX = clip.picture(float(t), SIZE)
            yield frame, (masks_KYX * codes[:, None, None]).sum(0, dtype=np.uint8)


def _sound_chunk(job: Job) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    from avcore.compat import install

    install()
    torch.set_num_threads(1)
    purpose, first, last = job
    banks, kinds = [], []
    for number in range(first, last):
        rng = np.random.default_rng(clip_seed("pretrain", purpose, "sound", number))
        chosen = rng.permutation(len(KINDS))[: rng.choice(3, p=[0.08, 0.5, 0.42])]
        wave_S = hiss(rng, SECONDS, RATE)
        for kind in chosen:
            wave_S += sing(draw_voice(KINDS[kind], rng), SECONDS, RATE)
        # Muted clips hold nothing at all, not even the place's noise.
        if not len(chosen) and rng.random() < 0.3:
            wave_S[:] = 0
        present = np.isin(np.arange(len(KINDS)), chosen)
        for start in rng.integers(0, (SECONDS - 1) * RATE, 4):
            window_S = np.clip(wave_S[start : start + RATE], -1, 1)
            banks.append(filter_bank(torch.from_numpy(window_S)).numpy().astype(np.float16))
            kinds.append(present)
    return np.stack(banks), np.stack(kinds)
