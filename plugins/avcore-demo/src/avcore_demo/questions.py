"""Questions about clips of the style ``asked``, their answers, and which of them are asked.

What is said of a clip follows from what is seen, heard, where, how loud and since when. Only what is clear is asked:
loudness differs by `LOUDER` dB at least, and what is left or right is so in every second, by `APART` at least.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .world import Clip

LOUDER = 2.0
"""How much louder than any other the loudest thing is, dB."""

APART = 0.08
"""How much further to a side than any other the outermost thing is, as a fraction of the picture's side."""

SHARE = 5
"""A type of questions is asked once for so many clips, at most."""

NUMBERS = ("zero", "one", "two", "three")


@dataclass(frozen=True)
class Question:
    """A question about a clip, with its answer.

    Attributes:
        about: What it takes: ``Audio``, ``Visual`` or ``Audio-Visual``.
        what: ``Existential``, ``Counting``, ``Location``, ``Comparative`` or ``Temporal``.
        template: The text; each word with a ``<`` stands for one of `values`.
        values: What takes the place of placeholders, in their order.
        answer: What is right.
        alike: Questions of a template that are alike in this have each answer equally often: what one stream tells by
            itself, such as how many things are seen, then says nothing of the answer.
    """

    about: str
    what: str
    template: str
    values: tuple[str, ...]
    answer: str
    alike: Hashable = None


def questions(clip: Clip) -> Iterator[Question]:
    """Everything that may be asked of a clip."""
    view = _View(clip)
    for template in _TEMPLATES:
        yield from template(view)


def choose(clips: list[tuple[str, Clip]]) -> list[tuple[str, Question]]:
    """What is asked of the clips of a split: of each template each answer equally often.

    Args:
        clips: Names and clips.

    Returns:
        Names of clips and what is asked of them, in the order of the clips.
    """
    asked: dict[tuple[str, str], dict[str, _Groups]] = defaultdict(dict)
    for number, (_, clip) in enumerate(clips):
        for question in sorted(questions(clip), key=lambda one: _shuffled(clip.seed, one)):
            templates = asked[question.about, question.what]
            groups = templates.setdefault(question.template, defaultdict(lambda: defaultdict(list)))
            groups[question.alike][question.answer].append((number, question))
    chosen = [
        one
        for templates in asked.values()
        for groups in templates.values()
        for one in _balanced(groups, len(clips) // SHARE // len(templates))
    ]
    chosen.sort(key=lambda one: (one[0], _shuffled(clips[one[0]][1].seed, one[1])))
    return [(clips[number][0], question) for number, question in chosen]


def _shuffled(*names: object) -> bytes:
    return hashlib.blake2b(repr(names).encode(), digest_size=8).digest()


_Groups = dict[Hashable, dict[str, list[tuple[int, Question]]]]
"""Numbers of clips and questions of a template, by what they are alike in and by their answers."""


def _balanced(groups: _Groups, most: int) -> list[tuple[int, Question]]:
    """About `most` questions of a template, and in each group each answer equally often."""
    answers = {answer for group in groups.values() for answer in group}
    rows = [
        list(row)
        for group in groups.values()
        if len(group) == len(answers)
        for row in zip(
            *(sorted(group[answer], key=lambda one: _shuffled(*one)) for answer in sorted(answers)), strict=False
        )
    ]
    rows.sort(key=lambda row: _shuffled(*row))
    return [one for row in rows[: max(most // len(answers), 1)] for one in row]


class _View:
    """What the templates need to know of a clip; things are numbers."""

    def __init__(self, clip: Clip) -> None:
        self.kinds = [thing.kind for thing in clip.things]
        self.seen = np.flatnonzero(clip.seen_TK.any(0)).tolist()
        self.heard = np.flatnonzero(clip.sounding_TK.any(0)).tolist()
        self.both = [thing for thing in self.seen if thing in self.heard]
        self.voices = [thing for thing in self.heard if thing not in self.seen]
        self.begin = clip.sounding_TK.argmax(0).tolist()
        self.loudness = [round(thing.voice.loudness, 1) for thing in clip.things]
        moments = [second + 15 / 16 for second in range(clip.seconds)]
        self.across = [[round(thing.centre(t)[0], 4) for t in moments] for thing in clip.things]

    def most(self, things: list[int], values: Sequence[float], by: float) -> int | None:
        """The one of several whose value is above that of all others, by so much at least; None where there is none."""
        if len(things) < 2:
            return None
        first, second = sorted(things, key=lambda thing: -values[thing])[:2]
        return first if round(values[first] - values[second], 1) >= by else None

    def outermost(self, sign: int) -> int | None:
        """The one of several seen things that is furthest to the right (1) or left (-1) in every second."""
        for thing in self.seen if len(self.seen) > 1 else ():
            gaps = [
                sign * (own - other)
                for rival in self.seen
                if rival != thing
                for own, other in zip(self.across[thing], self.across[rival], strict=True)
            ]
            if min(gaps) >= APART:
                return thing
        return None


def _heard(view: _View) -> Iterator[Question]:
    number = NUMBERS[len(view.heard)]
    yield Question("Audio", "Counting", "How many things were heard in the entire video?", (), number)
    longest = view.most(view.heard, [-begin for begin in view.begin], by=1)
    if longest is not None:
        yield Question("Audio", "Comparative", "Which thing sounds the longest?", (), view.kinds[longest])
    loudest = view.most(view.heard, view.loudness, by=LOUDER)
    if loudest is not None:
        yield Question("Audio", "Comparative", "Which thing is the loudest?", (), view.kinds[loudest])


def _seen(view: _View) -> Iterator[Question]:
    number = NUMBERS[len(view.seen)]
    yield Question("Visual", "Counting", "How many types of things appeared in the entire video?", (), number)
    if len(view.seen) == 1:
        yield Question("Visual", "Location", "What kind of thing is it?", (), view.kinds[view.seen[0]])
    for side, sign in (("leftest", -1), ("rightest", 1)):
        thing = view.outermost(sign)
        if thing is not None:
            template = "What kind of thing is the <LRer> thing?"
            yield Question("Visual", "Location", template, (side,), view.kinds[thing])


def _there(view: _View) -> Iterator[Question]:
    if len(view.seen) == 1:
        answer = "yes" if view.both else "no"
        template = "Is the thing in the video sounding?"
        yield Question("Audio-Visual", "Existential", template, (), answer, alike=len(view.heard))
    if len(view.heard) == 1:
        answer = "yes" if view.voices else "no"
        yield Question("Audio-Visual", "Existential", "Is there a voiceover?", (), answer, alike=len(view.seen))


def _counted(view: _View) -> Iterator[Question]:
    if len(view.both) < 3:
        counts = len(view.seen), len(view.heard)
        template = "How many things are sounding in the video?"
        yield Question("Audio-Visual", "Counting", template, (), NUMBERS[len(view.both)], alike=counts)


def _placed(view: _View) -> Iterator[Question]:
    if len(view.both) == 1 < min(len(view.seen), len(view.heard)):
        template = "Which thing in the video is the sound coming from?"
        yield Question("Audio-Visual", "Location", template, (), view.kinds[view.both[0]])


def _compared(view: _View) -> Iterator[Question]:
    longest = view.most(view.both, [-begin for begin in view.begin], by=1)
    if longest is not None:
        template = "Which thing in the video sounds the longest?"
        yield Question("Audio-Visual", "Comparative", template, (), view.kinds[longest])
    loudest = view.most(view.both, view.loudness, by=LOUDER)
    if loudest is not None:
        template = "Which thing in the video is the loudest?"
        yield Question("Audio-Visual", "Comparative", template, (), view.kinds[loudest])


def _timed(view: _View) -> Iterator[Question]:
    for word, sign in (("first", -1), ("last", 1)):
        thing = view.most(view.both, [sign * begin for begin in view.begin], by=1)
        if thing is not None:
            template = "What is the <TH> thing in the video that comes in?"
            yield Question("Audio-Visual", "Temporal", template, (word,), view.kinds[thing])


_TEMPLATES: tuple[Callable[[_View], Iterator[Question]], ...] = (
    _heard,
    _seen,
    _there,
    _counted,
    _placed,
    _compared,
    _timed,
)
