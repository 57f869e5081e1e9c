"""Makes of things: what something is made of, as its colour shows and what rings with its voice lets hear.

A make and a kind are chosen apart, so that a thing can be named whose two words are known from other things alone.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from . import KINDS, KNOWN, UNKNOWN
from .world import Clip, Thing

__all__ = ["MAKES", "Make", "dress", "known_makes", "made_of"]


@dataclass(frozen=True)
class Make:
    """What all things of a make have in common.

    Attributes:
        hue, saturation, value: Ranges of the main colour.
        ring: Range of the pitch that rings with a voice, Hz.
    """

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    ring: tuple[float, float]


MAKES: dict[str, Make] = {
    "golden": Make((0.12, 0.15), (0.75, 0.95), (0.88, 1.0), (1800, 2050)),
    "wooden": Make((0.04, 0.08), (0.50, 0.70), (0.38, 0.52), (245, 275)),
    "iron": Make((0.55, 0.68), (0.05, 0.14), (0.45, 0.62), (660, 740)),
    "glass": Make((0.48, 0.55), (0.35, 0.55), (0.85, 1.0), (4700, 5300)),
}
"""The makes by name."""


def known_makes(kind: str) -> list[str]:
    """The makes in which things of a kind were among the training of the towers that know words (`UNKNOWN`)."""
    return [make for make in MAKES if f"{make} {kind}" not in UNKNOWN]


def made_of(thing: Thing, make: str, rng: np.random.Generator) -> Thing:
    """The same thing, made of something: its name and colours change, and what rings with its voice."""
    chosen = MAKES[make]
    hue, saturation, value, ring = (
        float(rng.uniform(*span)) for span in (chosen.hue, chosen.saturation, chosen.value, chosen.ring)
    )
    look = replace(
        thing.look,
        base=colorsys.hsv_to_rgb(hue, saturation, value),
        accent=colorsys.hsv_to_rgb(hue, saturation * 0.35, min(1.0, value * 1.15)),
    )
    return replace(thing, make=make, look=look, voice=replace(thing.voice, ring=ring))


def dress(clip: Clip, number: int) -> Clip:
    """The clip with every thing one of `KNOWN` or `UNKNOWN`.

    Each kind is in both. Of what is seen and heard, clips whose `number` has an even number of whole rounds of the
    kinds in it have one of the first, the others one of the second; of the rest it is drawn.
    """
    rng = np.random.default_rng(np.random.SeedSequence(clip.seed).spawn(6)[5])
    groups = [{kind: make for make, kind in map(str.split, group)} for group in (KNOWN, UNKNOWN)]
    things = []
    for thing in clip.things:
        drawn = int(rng.integers(2))
        group = groups[number // len(KINDS) % 2 if thing.kind == clip.category else drawn]
        things.append(made_of(thing, group[thing.kind], rng))
    return replace(clip, things=tuple(things))
