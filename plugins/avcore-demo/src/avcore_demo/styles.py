"""The styles of clips: which kinds of things take part, and in which second each of them is seen and heard.

A style draws a `Cast` from two generators, one for what is seen and one for what is heard. Everything else of a clip
(places, looks, voices) is drawn afterwards, in the same way for all styles.

Suffixes of arrays: K = things, T = seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from . import KINDS

SECONDS = 5
"""Length of a clip in which something is segmented, s."""

LONG = 10
"""Length of a clip with an event, or of one to be recognised, s."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Cast:
    """Who takes part in a clip.

    Attributes:
        kinds: The kind of each thing: those that are seen, the nearest to the viewer last, then those that never are.
        seen_TK: Which of them are seen in which second, bool.
        sounding_TK: Which of them are heard in which second, bool.
    """

    kinds: list[str]
    seen_TK: Bools
    sounding_TK: Bools

    @property
    def event(self) -> int:
        """The first thing to be seen and heard at once; 0 where there is none."""
        seconds, things = np.nonzero(self.seen_TK & self.sounding_TK)
        return int(things[0]) if len(seconds) else 0

    def with_event(self, kind: str) -> Cast:
        """The same with `kind` as the kind of the event; a thing that had it takes the event's."""
        other = {self.kinds[self.event]: kind, kind: self.kinds[self.event]}
        return replace(self, kinds=[other.get(name, name) for name in self.kinds])


Draw = Callable[[np.random.Generator, np.random.Generator], Cast]


def single(seen: np.random.Generator, heard: np.random.Generator) -> Cast:
    """AVSBench's S4: two to four things are seen, one sounds through the whole clip."""
    kinds = _seen_kinds(seen)
    sounding_TK = np.zeros((SECONDS, len(kinds)), np.bool_)
    sounding_TK[:, heard.integers(len(kinds))] = True
    return Cast(kinds, np.ones_like(sounding_TK), sounding_TK)


def several(seen: np.random.Generator, heard: np.random.Generator) -> Cast:
    """AVSBench's MS3: one or two of three or four things sound at a time, and the set changes.

    Of two things one or both would sound, so that all that is seen would be a good answer for those who do not listen.
    """
    kinds = _seen_kinds(seen, least=3)
    count = len(kinds)
    sounding_TK = np.zeros((SECONDS, count), np.bool_)
    sets = [set(group) for size in (1, 2) for group in combinations(range(count), size)]
    # One or two at a time are equally likely, however many pairs there are.
    weights = np.array([0.5 / (count if len(group) == 1 else len(sets) - count) for group in sets])
    changes = set(heard.choice(np.arange(1, SECONDS), size=heard.integers(1, 4), replace=False).tolist())
    now = int(heard.choice(len(sets), p=weights))
    for second in range(SECONDS):
        if second in changes:
            others = np.where(np.arange(len(sets)) == now, 0, weights)
            now = int(heard.choice(len(sets), p=others / others.sum()))
        sounding_TK[second, list(sets[now])] = True
    return Cast(kinds, np.ones_like(sounding_TK), sounding_TK)


def event(seen: np.random.Generator, heard: np.random.Generator) -> Cast:
    """AVE: one thing is seen over one run of seconds and heard over another; where both hold is the event.

    One or two more are seen and silent, one or two are heard and not seen, over runs of the same law: neither what is
    seen nor what is heard tells the event by itself.
    """
    cast, chosen, shown = _one_of_several(seen, heard)
    for thing in range(shown):
        cast.seen_TK[:, thing] = _meeting_runs(seen)[0]
    cast.seen_TK[:, chosen], cast.sounding_TK[:, chosen] = _meeting_runs(heard)
    for thing in range(shown, len(cast.kinds)):
        cast.sounding_TK[:, thing] = _meeting_runs(heard)[1]
    return cast


def no_event(seen: np.random.Generator, heard: np.random.Generator) -> Cast:
    """As `event`, but what is seen is silent throughout."""
    cast = event(seen, heard)
    cast.sounding_TK[:, cast.seen_TK.any(0)] = False
    return cast


def recognition(seen: np.random.Generator, heard: np.random.Generator) -> Cast:
    """Recognition: of two or three things that are seen one is heard, and one or two more are heard and not seen."""
    cast, chosen, shown = _one_of_several(seen, heard)
    cast.seen_TK[:, :shown] = True
    cast.sounding_TK[:, [chosen, *range(shown, len(cast.kinds))]] = True
    return cast


def parsing(seen: np.random.Generator, heard: np.random.Generator) -> Cast:
    """Parsing: one to three things, each seen over a run of seconds, or heard over one, or both over different ones."""
    kinds = _kinds(seen)[: int(seen.integers(1, 4))]
    # What is never seen comes last.
    roles = sorted(heard.choice(["both", "seen", "unseen"], len(kinds)).tolist(), key=lambda role: role == "unseen")
    cast = Cast(kinds, np.zeros((LONG, len(kinds)), np.bool_), np.zeros((LONG, len(kinds)), np.bool_))
    for thing, role in enumerate(roles):
        runs = _meeting_runs(heard, shortest=3)
        if role != "unseen":
            cast.seen_TK[:, thing] = runs[0]
        if role != "seen":
            cast.sounding_TK[:, thing] = runs[1]
    return cast


def asked(seen: np.random.Generator, heard: np.random.Generator) -> Cast:
    """Question answering: one to three things are seen throughout, one to three heard, of which some are seen too.

    What is heard begins with the clip or at its half, and goes on to the end.
    """
    shown, sounding = (1 + int(rng.choice(3, p=(0.2, 0.4, 0.4))) for rng in (seen, heard))
    most = min(shown, sounding)
    both = int(heard.integers(1, most + 1)) if heard.random() > 0.5 / most else 0
    kinds = _kinds(seen)[: shown + sounding - both]
    cast = Cast(kinds, np.zeros((LONG, len(kinds)), np.bool_), np.zeros((LONG, len(kinds)), np.bool_))
    cast.seen_TK[:, :shown] = True
    late = heard.integers(2, size=sounding)
    chosen = [*heard.permutation(shown)[:both].tolist(), *range(shown, len(kinds))]
    # Something is heard from the beginning on.
    for thing, half in zip(chosen, late - late.min(), strict=True):
        cast.sounding_TK[int(half) * (LONG // 2) :, thing] = True
    return cast


STYLES: dict[str, Draw] = {
    "s4": single,
    "ms3": several,
    "event": event,
    "no_event": no_event,
    "recognition": recognition,
    "parsing": parsing,
    "asked": asked,
}
"""The styles by name."""


def _kinds(rng: np.random.Generator) -> list[str]:
    return [KINDS[i] for i in rng.permutation(len(KINDS))]


def _seen_kinds(rng: np.random.Generator, least: int = 2) -> list[str]:
    count = int(rng.integers(least, 5))
    return _kinds(rng)[:count]


def _one_of_several(seen: np.random.Generator, heard: np.random.Generator) -> tuple[Cast, int, int]:
    """Two or three kinds to be seen, then one or two not to be; which of the first is heard too, and their number."""
    shown = int(seen.integers(2, 4))
    kinds = _kinds(seen)[: shown + int(heard.integers(1, 3))]
    shape = (LONG, len(kinds))
    return Cast(kinds, np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)), int(heard.integers(shown)), shown


def _meeting_runs(rng: np.random.Generator, shortest: int = 6) -> tuple[Bools, Bools]:
    """Two runs of up to 9 seconds, bool (T,) each, that share at least two seconds and are not the same."""
    while True:
        runs = np.zeros((2, LONG), np.bool_)
        for run_T in runs:
            length = int(rng.integers(shortest, LONG))
            start = int(rng.integers(LONG - length + 1))
            run_T[start : start + length] = True
        if runs.all(0).sum() >= 2 and (runs[0] != runs[1]).any():
            return runs[0], runs[1]
