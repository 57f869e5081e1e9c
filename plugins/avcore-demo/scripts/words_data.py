"""What the towers that know words are trained on: pictures and sounds of other worlds, and sentences that are true.

A picture never comes with its sound: the two are made from different clips, and sentences stand between them.

A thing, and what a sentence says of one, is a row of four numbers: its make, its kind, and two more, which are side and
size of what is seen, and loudness of what is heard. -1 in a sentence says nothing; -2 in a thing is nothing there is a
word for.

Suffixes: N examples, M sentences, K things, A what is said of one, Y, X = rows and columns (px), T = frames of a filter
bank, F = its bins.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pretrain_data import RATE, SIZE, filter_bank
from torch import Tensor

from avcore_demo import KINDS, UNKNOWN
from avcore_demo.makes import MAKES, known_makes, made_of
from avcore_demo.world import Clip, clip_seed, make_clip

THINGS = 4
WINDOW = round(0.97 * RATE)
SAYS_NOTHING, HAS_NONE = -1, -2
SIDES, SIZES, LOUDNESSES = ("left", "right"), ("small", "large"), ("quiet", "loud")

SEEN = ("a photo of a {}", "a photo of a {}", "a picture of a {}", "there is a {}", "a {}")
HEARD = ("The sounds of {}", "The sounds of {}", "the sound of a {}", "one hears a {}", "a {}")
WORDS = (
    *("thing", "on", "the", *MAKES, *KINDS, *SIDES, *SIZES, *LOUDNESSES),
    *(word for template in (*SEEN, *HEARD) for word in template.replace("{}", "").lower().split()),
)
"""All words of the sentences, some of them twice."""

Examples = tuple[Tensor, Tensor]


def pictures(purpose: str, clips: int, workers: int, *, alone: bool = False) -> Examples:
    """Renders two moments of each of `clips` clips of one to four things.

    Args:
        purpose: Goes into the seeds. Of "train" no thing is one of `UNKNOWN`.
        clips: How many.
        workers: Processes.
        alone: Only one thing in each.

    Returns:
        Frames, uint8 (N, 3, Y, X); things, int8 (N, K, A).
    """
    frames, things = _collect(_seen, purpose, clips, workers, alone)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(things)


def sounds(purpose: str, clips: int, workers: int, *, alone: bool = False) -> Examples:
    """Renders eight seconds of each of `clips` clips of one to three voices: filter banks float16 (N, T, F), things."""
    banks, things = _collect(_heard, purpose, clips, workers, alone)
    return torch.from_numpy(banks), torch.from_numpy(things)


def sentences(things_NKA: Tensor, rng: np.random.Generator, *, seen: bool) -> tuple[list[str], Tensor]:
    """A sentence that is true of each example: N of them, and what they say (N, A)."""
    made, said = [], []
    for things_KA in things_NKA.tolist():
        thing = things_KA[rng.integers(sum(row[0] != HAS_NONE for row in things_KA))]
        # Which of what could be said is: most often make and kind, each also without the other.
        chances = rng.random(4) < (0.85, 0.85, 0.2, 0.2)
        if not chances[:2].any():
            chances[:2] = True
        says = [value if chosen and value >= 0 else SAYS_NOTHING for value, chosen in zip(thing, chances, strict=True)]
        made.append(sentence(says, rng, seen=seen))
        said.append(says)
    return made, torch.tensor(said)


def sentence(says: list[int], rng: np.random.Generator, *, seen: bool) -> str:
    """The words for what is said of one thing."""
    make, kind, third, fourth = says
    before = [] if fourth < 0 else [(SIZES if seen else LOUDNESSES)[fourth]]
    words = [*before, *([] if make < 0 else [[*MAKES][make]]), "thing" if kind < 0 else KINDS[kind]]
    where = [] if third < 0 else ["on", "the", SIDES[third]]
    return str(rng.choice(SEEN if seen else HEARD)).format(" ".join([*words, *where]))


def true_of(said_MA: Tensor, things_NKA: Tensor) -> Tensor:
    """Which sentences are true of which examples, bool (N, M)."""
    said, things = said_MA[None, :, None], things_NKA[:, None]
    return ((said == SAYS_NOTHING) | (said == things)).all(-1).any(-1)


Job = tuple[str, int, int, bool]


def _collect(
    chunk: Callable[[Job], tuple[NDArray[Any], NDArray[Any]]], purpose: str, count: int, workers: int, alone: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    step = 50
    jobs = [(purpose, first, min(first + step, count), alone) for first in range(0, count, step)]
    with get_context("spawn").Pool(workers) if len(jobs) > 1 else nullcontext() as pool:
        examples, things = zip(*(pool.imap if pool else map)(chunk, jobs), strict=True)
    return np.concatenate(examples), np.concatenate(things)


def _seen(job: Job) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    purpose, first, last, alone = job
    frames, things = [], []
    for number in range(first, last):
        clip, rng = _world(purpose, "picture", number, "s4", 1 if alone else THINGS)
        for t in rng.uniform(0, clip.seconds, 2):
            frames.append(clip.frame(float(t), SIZE))
            rows = [
                (_code(thing.centre(float(t))[0], 0.42, 0.58), _code(thing.radius, 0.15, 0.19)) for thing in clip.things
            ]
            things.append(_things(clip, rows))
    return np.stack(frames), np.stack(things)


def _heard(job: Job) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    from avcore.compat import install

    install()
    torch.set_num_threads(1)
    purpose, first, last, alone = job
    banks, things = [], []
    for number in range(first, last):
        clip, rng = _world(purpose, "sound", number, "recognition", 1 if alone else 3)
        clip = replace(clip, sounding_TK=np.ones_like(clip.sounding_TK))
        wave_S = clip.waveform(RATE)
        told = _things(clip, [(HAS_NONE, _code(thing.voice.gain, 0.8, 1.25)) for thing in clip.things])
        for start in rng.integers(0, len(wave_S) - WINDOW, 8):
            bank = filter_bank(torch.from_numpy(wave_S[start : start + WINDOW]))
            banks.append(bank.numpy().astype(np.float16))
            things.append(told)
    return np.stack(banks), np.stack(things)


def _world(purpose: str, what: str, number: int, style: str, most: int) -> tuple[Clip, np.random.Generator]:
    """A clip with at most so many things, each of some make; those that are seen, the same that are heard."""
    seed = clip_seed("words", purpose, what, number)
    rng = np.random.default_rng(seed)
    clip = make_clip(seed, style)
    kept = int(rng.integers(1, min(len(clip.things), most) + 1))
    things = []
    for thing in clip.things[:kept]:
        makes = known_makes(thing.kind) if purpose == "train" else [*MAKES]
        things.append(made_of(thing, str(rng.choice(makes)), rng))
    return replace(
        clip, things=tuple(things), seen_TK=clip.seen_TK[:, :kept], sounding_TK=clip.sounding_TK[:, :kept]
    ), rng


def _things(clip: Clip, rest: list[tuple[int, int]]) -> NDArray[np.int8]:
    rows = np.full((THINGS, 4), HAS_NONE, np.int8)
    for row, thing, more in zip(rows, clip.things, rest, strict=False):
        row[:] = [[*MAKES].index(thing.make), KINDS.index(thing.kind), *more]
    return rows


def _code(value: float, low: float, high: float) -> int:
    """0 below `low`, 1 above `high`, and between them nothing there is a word for."""
    return 0 if value < low else 1 if value > high else HAS_NONE


def is_unknown(things_NKA: Tensor) -> Tensor:
    """Whether the first thing of each example is one of `UNKNOWN`, bool (N,)."""
    names = [f"{[*MAKES][make]} {KINDS[kind]}" for make, kind, *_ in things_NKA[:, 0].tolist()]
    return torch.tensor([name in UNKNOWN for name in names])
