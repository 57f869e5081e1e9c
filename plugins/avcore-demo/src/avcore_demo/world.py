"""The demo world: clips of some seconds in which several things are seen and some of them are heard.

Everything about a clip follows from one integer and a style (`styles`). What sounds is drawn apart from how many things
there are, where they are, how large they are and in which order they lie over one another: to look does not tell it.

Suffixes of arrays: Y, X = picture rows and columns, 3 = red, green, blue, K = objects, T = seconds, S = samples.
Places and sizes are fractions of the picture's side, times are s.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .looks import Look, draw_look, paint
from .scenery import background
from .sounds import Voice, draw_voice, hiss, sing
from .styles import STYLES, Cast

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Thing:
    """One object of a clip.

    Attributes:
        kind: Name of its kind, one of `KINDS`.
        radius: Half its size, as a fraction of the picture's side.
        x: Where it is on average, from the left.
        y: Where it is on average, from the top.
        swing: How far it moves to each side, right and down.
        pace: How often it does, Hz, right and down.
        start: Phase of that at 0 s, radians, right and down.
        tilt: Mean angle, radians.
        rock: How far it rocks about that, radians.
        look: Shape, texture and colours.
        voice: How it sounds when it does.
        make: Name of what it is made of (`makes`), if it has one.
    """

    kind: str
    radius: float
    x: float
    y: float
    swing: tuple[float, float]
    pace: tuple[float, float]
    start: tuple[float, float]
    tilt: float
    rock: float
    look: Look
    voice: Voice
    make: str = ""

    @property
    def name(self) -> str:
        """Its make, if it has one, and its kind."""
        return f"{self.make} {self.kind}".lstrip()

    def centre(self, t: float) -> tuple[float, float]:
        """Where it is at `t` s: from the left, from the top."""
        right, down = (
            swing * float(np.sin(2 * np.pi * pace * t + start))
            for swing, pace, start in zip(self.swing, self.pace, self.start, strict=True)
        )
        return self.x + right, self.y + down


@dataclass(frozen=True)
class Clip:
    """A clip of `seconds` s.

    Attributes:
        seed: What it was made from.
        style: A name in `styles.STYLES`.
        things: The objects, the nearest to the viewer last.
        seen_TK: Which of them are seen in which second, bool.
        sounding_TK: Which of them are heard in which second, bool.
        place: Seed of the background.
        quiet: Seed of the background noise.
    """

    seed: int
    style: str
    things: tuple[Thing, ...]
    seen_TK: Bools
    sounding_TK: Bools
    place: int
    quiet: int
    _backgrounds: dict[int, Floats] = field(default_factory=dict, repr=False, compare=False)

    @property
    def seconds(self) -> int:
        """Length, s."""
        return len(self.seen_TK)

    def frame(self, t: float, size: int) -> Bytes:
        """The picture at `t` s, uint8 (Y, X, 3), `size` px on each side."""
        return self.picture(t, size)[0]

    def masks(self, t: float, size: int) -> Bools:
        """The visible part of each object at `t` s, bool (K, Y, X); they do not overlap."""
        return self.picture(t, size)[1]

    def sounding_mask(self, t: float, size: int) -> Bools:
        """The visible part of what sounds at `t` s, bool (Y, X)."""
        return np.asarray(self.masks(t, size)[self.sounding(t)].any(axis=0))

    def sounding(self, t: float) -> Bools:
        """Which objects sound at `t` s, bool (K,)."""
        return np.asarray(self.sounding_TK[self._second(t)])

    def seen(self, t: float) -> Bools:
        """Which objects are in the picture at `t` s, bool (K,)."""
        return np.asarray(self.seen_TK[self._second(t)])

    def _second(self, t: float) -> int:
        return min(max(int(t), 0), self.seconds - 1)

    def picture(self, t: float, size: int) -> tuple[Bytes, Bools]:
        """The picture and the masks at `t` s: uint8 (Y, X, 3) and bool (K, Y, X)."""
        if size not in self._backgrounds:
            self._backgrounds[size] = background(self.place, size)
        colour_YX3 = self._backgrounds[size].copy()
        masks_KYX = np.zeros((len(self.things), size, size), np.bool_)
        for index in np.flatnonzero(self.seen(t)):
            _lay(colour_YX3, masks_KYX, int(index), self.things[index], t, size)
        return (colour_YX3 * 255 + 0.5).astype(np.uint8), masks_KYX

    def waveform(self, rate: int = 16000) -> Floats:
        """The sound, float32 (S,) in -1..1, `seconds` s at `rate` Hz."""
        wave_S = hiss(np.random.default_rng(self.quiet), self.seconds, rate)
        for index, sounding_T in enumerate(self.sounding_TK.T):
            if sounding_T.any():
                wave_S += sing(self.things[index].voice, self.seconds, rate) * _gate(sounding_T, rate)
        return np.clip(wave_S, -1, 1)

    @property
    def category(self) -> str:
        """Name of the first to be seen and heard at once, else of the first thing."""
        cast = Cast([thing.name for thing in self.things], self.seen_TK, self.sounding_TK)
        return cast.kinds[cast.event]


def clip_seed(*names: object) -> int:
    """A seed from names and numbers, the same everywhere, different for different ones."""
    digest = hashlib.blake2b("/".join(str(name) for name in names).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def make_clip(seed: int, style: str = "s4", kind: str | None = None) -> Clip:
    """Makes the clip that follows from `seed`, in one of `styles.STYLES`; `kind` is that of what is seen and heard."""
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; it must be one of {', '.join(STYLES)}")
    layout, looks, sounding, voices, rest = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5))
    cast = STYLES[style](layout, sounding)
    if kind is not None:
        cast = cast.with_event(kind)
    shown = int(cast.seen_TK.any(0).sum())
    radii, places, swings = _arrange(layout, max(shown, 1))
    things = tuple(
        Thing(
            kind=kind,
            radius=float(radii[k]),
            x=float(places[k, 0]),
            y=float(places[k, 1]),
            swing=(float(swings[k, 0]), float(swings[k, 1])),
            pace=(float(layout.uniform(0.08, 0.25)), float(layout.uniform(0.08, 0.25))),
            start=(float(layout.uniform(0, 6.28)), float(layout.uniform(0, 6.28))),
            tilt=float(layout.uniform(-1.3, 1.3) if kind == "flute" else layout.uniform(-0.3, 0.3)),
            rock=float(layout.uniform(0.02, 0.2)),
            look=draw_look(kind, looks),
            voice=draw_voice(kind, voices),
        )
        # What is never seen has a place too, which says nothing.
        for k, kind in zip([*range(shown), *[0] * (len(cast.kinds) - shown)], cast.kinds, strict=True)
    )
    place, quiet = (int(number) for number in rest.integers(2**62, size=2))
    return Clip(seed, style, things, cast.seen_TK, cast.sounding_TK, place, quiet)


def _arrange(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], ...]:
    """Draws radii (K,), places (K, 2) and swings (K, 2) with as little overlap as this clip allows."""
    radii = np.exp(rng.uniform(np.log(0.12), np.log(0.23), count))
    swings = rng.uniform(0.015, 0.075, (count, 2))
    room = np.minimum(radii[:, None] * 0.95 + swings, 0.49)
    tries = rng.uniform(room, 1 - room, (40, count, 2))
    gaps = np.full(40, np.inf)
    for i, j in combinations(range(count), 2):
        far = np.hypot(*np.moveaxis(tries[:, i] - tries[:, j], -1, 0))
        gaps = np.minimum(gaps, far / (radii[i] + radii[j]))
    # Some clips may overlap more than others; none hides a thing.
    enough = np.flatnonzero(gaps >= rng.choice([0.75, 1.05], p=[0.3, 0.7]))
    return radii, tries[enough[0] if len(enough) else int(gaps.argmax())], swings


def _gate(sounding_T: Bools, rate: int) -> Floats:
    """One factor per sample (S,), with fades of 20 ms inside the seconds that sound, against clicks."""
    gate_S = np.repeat(sounding_T.astype(np.float32), rate)
    fade = max(rate // 50, 1)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    for second in np.flatnonzero(sounding_T):
        if second and not sounding_T[second - 1]:
            gate_S[second * rate : second * rate + fade] = ramp
        if second + 1 < len(sounding_T) and not sounding_T[second + 1]:
            gate_S[(second + 1) * rate - fade : (second + 1) * rate] = ramp[::-1]
    return gate_S


def _lay(colour_YX3: Floats, masks_KYX: Bools, index: int, thing: Thing, t: float, size: int) -> None:
    """Lays one object with its shadow over the picture and cuts it out of the masks of those behind it."""
    x, y = thing.centre(t)
    reach = 1.4 * thing.radius
    top, bottom = max(int((y - reach) * size), 0), min(int((y + reach) * size) + 2, size)
    left, right = max(int((x - reach) * size), 0), min(int((x + reach) * size) + 2, size)
    rows = ((np.arange(top, bottom) + 0.5) / size - y) / thing.radius
    columns = ((np.arange(left, right) + 0.5) / size - x) / thing.radius
    down_YX, right_YX = (a.astype(np.float32) for a in np.meshgrid(rows, columns, indexing="ij"))
    angle = thing.tilt + thing.rock * np.sin(2 * np.pi * thing.pace[0] * 1.3 * t + thing.start[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u_YX, v_YX = right_YX * cos + down_YX * sin, down_YX * cos - right_YX * sin
    distance_YX, paint_YX3 = paint(thing.kind, thing.look, u_YX, v_YX, turn=4 * thing.pace[1] * t + thing.start[0])
    inside_YX = np.clip(-distance_YX / 0.2, 0, 1)
    light_YX = (0.66 + 0.34 * np.sqrt(inside_YX)) * (1.02 - 0.13 * (right_YX * 0.6 + down_YX))
    paint_YX3 *= light_YX[..., None]
    paint_YX3 += (0.2 * np.exp(-((right_YX + 0.36) ** 2 + (down_YX + 0.42) ** 2) / 0.09))[..., None]
    pixels = thing.radius * size
    cover_YX = np.clip(0.5 - distance_YX * pixels, 0, 1)
    region = colour_YX3[top:bottom, left:right]
    shift = max(round(0.13 * pixels), 1)
    shadow_YX = np.zeros_like(cover_YX)
    shadow_YX[shift:, shift:] = np.clip(0.45 - distance_YX / 0.35, 0, 1)[:-shift, :-shift] * 0.42
    region *= (1 - shadow_YX)[..., None]
    region += cover_YX[..., None] * (np.clip(paint_YX3, 0, 1) - region)
    mask_YX = cover_YX >= 0.5
    masks_KYX[:index, top:bottom, left:right] &= ~mask_YX
    masks_KYX[index, top:bottom, left:right] = mask_YX
