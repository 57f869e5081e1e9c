"""What the kinds of the demo world look like.

A kind is a family of shapes, of textures and of colour ranges; the ranges of different kinds overlap, so that colour
alone does not tell the kind. A painter works in an object's own coordinates: u to the right, v down, both 1 at the
object's radius. It returns the signed distance to the outline (negative inside, in radii) and the colours.

Arrays are float32, suffixes Y, X = pixels, 3 = red, green, blue in 0..1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_HUES: dict[str, list[tuple[float, float, float, float]]] = {
    # Hue from, hue to, saturation, value; one row is drawn for each object.
    "drum": [(0.97, 1.03, 0.78, 0.80), (0.56, 0.63, 0.72, 0.75), (0.34, 0.42, 0.65, 0.62), (0.08, 0.11, 0.75, 0.88)],
    "bell": [(0.11, 0.14, 0.72, 0.95), (0.04, 0.07, 0.65, 0.85), (0.53, 0.60, 0.22, 0.88), (0.30, 0.40, 0.35, 0.72)],
    "bird": [(0.54, 0.60, 0.70, 0.88), (0.98, 1.02, 0.72, 0.88), (0.12, 0.15, 0.75, 0.97), (0.74, 0.80, 0.50, 0.82)],
    "engine": [(0.56, 0.62, 0.22, 0.70), (0.03, 0.06, 0.55, 0.72), (0.46, 0.52, 0.48, 0.62), (0.12, 0.14, 0.60, 0.80)],
    "flute": [(0.06, 0.09, 0.62, 0.78), (0.56, 0.62, 0.12, 0.90), (0.20, 0.25, 0.55, 0.75), (0.98, 1.02, 0.60, 0.62)],
    "rattle": [(0.86, 0.92, 0.62, 0.90), (0.47, 0.51, 0.68, 0.78), (0.05, 0.08, 0.80, 0.95), (0.70, 0.76, 0.55, 0.80)],
}


@dataclass(frozen=True)
class Look:
    """How one object looks.

    Attributes:
        base: Main colour.
        accent: Second colour.
        detail: How fine the texture is, 0..1.
        shape: Where the object lies between the extremes of its family, 0..1.
        flip: 1 or -1; -1 mirrors left and right.
    """

    base: tuple[float, float, float]
    accent: tuple[float, float, float]
    detail: float
    shape: float
    flip: float


def draw_look(kind: str, rng: np.random.Generator) -> Look:
    """Draws an object's look."""
    low, high, saturation, value = _HUES[kind][rng.integers(len(_HUES[kind]))]
    hue = rng.uniform(low, high)
    saturation, value = saturation * rng.uniform(0.85, 1.1), value * rng.uniform(0.88, 1.05)
    base = colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1))
    # Near the other side of the colour circle and pale: it stands out on every base.
    accent = colorsys.hsv_to_rgb((hue + rng.uniform(0.4, 0.62)) % 1, rng.uniform(0.12, 0.45), rng.uniform(0.88, 1))
    return Look(base, accent, float(rng.random()), float(rng.random()), float(rng.choice([-1.0, 1.0])))


def paint(kind: str, look: Look, u_YX: Floats, v_YX: Floats, turn: float) -> tuple[Floats, Floats]:
    """Paints one object.

    Args:
        kind: A key of `PAINTERS`.
        look: The object's look.
        u_YX: Coordinate to the right, in radii.
        v_YX: Coordinate downwards, in radii.
        turn: Angle of what turns in the object (the engine's wheel), radians.

    Returns:
        Distance to the outline (Y, X), in radii, negative inside; colours (Y, X, 3) without light.
    """
    canvas = _Canvas(look, u_YX * np.float32(look.flip), v_YX)
    distance_YX = PAINTERS[kind](canvas, turn)
    return distance_YX, canvas.colour_YX3


class _Canvas:
    """Coordinates of one object and its picture so far, filled with the base colour."""

    def __init__(self, look: Look, u_YX: Floats, v_YX: Floats) -> None:
        self.look, self.u, self.v = look, u_YX, v_YX
        self.colour_YX3 = np.empty((*u_YX.shape, 3), np.float32)
        self.colour_YX3[:] = look.base
        # Half a pixel, in radii: how wide an edge inside the object fades.
        self.pixel = float(abs(u_YX[0, 1] - u_YX[0, 0]) + abs(v_YX[0, 1] - v_YX[0, 0])) / 2 + 1e-6

    def fill(self, distance_YX: Floats, colour: tuple[float, float, float], opacity: float = 1.0) -> None:
        """Lays a colour over where the distance is negative."""
        cover_YX = np.clip(0.5 - distance_YX / (2 * self.pixel), 0, 1) * np.float32(opacity)
        self.colour_YX3 += cover_YX[..., None] * (np.asarray(colour, np.float32) - self.colour_YX3)

    def shade(self, factor_YX: Floats) -> None:
        """Multiplies the colours, for grain and roundness."""
        self.colour_YX3 *= factor_YX[..., None]

    def ellipse(self, x: float, y: float, a: float, b: float) -> Floats:
        """Distance to an ellipse around (x, y), nearly."""
        return np.asarray((np.hypot((self.u - x) / a, (self.v - y) / b) - 1) * min(a, b), np.float32)

    def box(self, x: float, y: float, a: float, b: float, corner: float = 0.0) -> Floats:
        """Distance to a box around (x, y) with half sides `a` and `b` and round corners."""
        du, dv = np.abs(self.u - x) - (a - corner), np.abs(self.v - y) - (b - corner)
        outside = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
        return np.asarray(outside + np.minimum(np.maximum(du, dv), 0) - corner, np.float32)


_DARK = (0.13, 0.11, 0.14)
_CREAM = (0.97, 0.93, 0.83)
_BEAK = (0.98, 0.66, 0.16)


def _both(*distances: Floats) -> Floats:
    return np.asarray(np.minimum.reduce(distances), np.float32)


def _drum(c: _Canvas, turn: float) -> Floats:
    """A barrel with a pale skin on top, hoops, and laces in zigzag."""
    half, tall = 0.8 + 0.14 * c.look.shape, 0.74 - 0.16 * c.look.shape
    body = _both(c.box(0, 0.06, half, tall - 0.1), c.ellipse(0, tall - 0.04, half, 0.24))
    skin = c.ellipse(0, 0.12 - tall, half, 0.27)
    c.shade(np.asarray(1.08 - 0.55 * (c.u / half) ** 2, np.float32))
    laces = 2.0 + round(2 * c.look.detail)
    zigzag = np.abs(np.abs((c.u / half * laces) % 2 - 1) * 2 - 1)
    curve = 0.2 * np.sqrt(np.clip(1 - (c.u / half) ** 2, 0, 1))
    height = (c.v - curve - 0.1) / (tall * 0.62)
    c.fill(np.asarray(np.abs(height - zigzag + 0.35) * 0.3 - 0.055, np.float32), c.look.accent)
    for level in (0.34 - tall, tall - 0.24):
        c.fill(np.asarray(np.abs(c.v - level - curve) - 0.075, np.float32), c.look.accent)
    c.fill(skin, c.look.accent)
    c.fill(np.asarray(skin + 0.07, np.float32), _CREAM)
    c.fill(c.ellipse(0.02, 0.12 - tall, half * 0.45, 0.1), (0.86, 0.8, 0.68), 0.6)
    return _both(body, skin)


def _bell(c: _Canvas, turn: float) -> Floats:
    """A flared cup of bright metal with engraved bands, a loop above and a clapper below."""
    part = np.clip((c.v + 0.72) / 1.36, 0, 1)
    width = 0.34 + 0.16 * c.look.shape + 0.12 * part + (0.42 - 0.12 * c.look.shape) * part**3.2
    cup = np.maximum(np.abs(c.u) - width, np.abs(c.v + 0.04) - 0.68) * np.float32(0.9)
    dome = c.ellipse(0, -0.68, 0.36 + 0.16 * c.look.shape, 0.2)
    loop = np.abs(c.ellipse(0, -0.92, 0.13, 0.13)) - np.float32(0.055)
    clapper = c.ellipse(0, 0.72, 0.2, 0.19)
    across = np.clip(c.u / width, -1, 1)
    shine = 0.55 * np.exp(-(((across + 0.38) / 0.22) ** 2))
    c.shade(np.asarray(0.72 + shine - 0.3 * np.clip(across, 0, 1), np.float32))
    bands = 8 + 5 * c.look.detail
    curve = 0.07 * (1 - across**2)
    groove = np.cos((c.v - curve) * bands) > 0.82
    c.shade(np.where(groove & (np.abs(c.v) < 0.55), np.float32(0.72), np.float32(1)))
    c.fill(np.asarray(np.abs(c.v - curve - 0.5) - 0.06, np.float32), c.look.accent, 0.75)
    c.fill(np.asarray(np.maximum(clapper, 0.62 - c.v), np.float32), (0.3, 0.22, 0.16))
    return _both(np.asarray(cup, np.float32), dome, np.asarray(loop, np.float32), clapper)


def _bird(c: _Canvas, turn: float) -> Floats:
    """A round body with feather scales, a wing, a fanned tail, a beak and an eye."""
    plump = 0.44 + 0.12 * c.look.shape
    body = c.ellipse(-0.02, 0.14, 0.62, plump)
    head = c.ellipse(0.46, -0.34, 0.34, 0.32)
    along, across = -(c.u + 0.42), c.v - 0.02 + 0.35 * (c.u + 0.42)
    tail = np.maximum(np.abs(across) - 0.1 - 0.22 * along, np.abs(along - 0.3) - 0.3).astype(np.float32)
    beak = np.maximum(np.abs(c.v + 0.3) * 1.6 + (c.u - 1.08) * 0.8, 0.7 - c.u).astype(np.float32)
    scale = 5 + 3 * c.look.detail
    row = np.floor(c.v * scale)
    arc = ((c.u * scale + 0.5 * (row % 2)) % 1 - 0.5) ** 2 * 2 + (c.v * scale - row)
    c.shade(np.where(arc % 1 < 0.34, np.float32(0.8), np.float32(1.05)))
    c.fill(c.ellipse(0.2, 0.4, 0.42, 0.26), _CREAM, 0.75)
    wing = c.ellipse(-0.14, 0.08, 0.4, 0.26 + 0.06 * c.look.shape)
    c.fill(wing, c.look.accent)
    stripes = np.cos((c.u + 0.5 * c.v) * (14 + 6 * c.look.detail)) > 0.2
    c.fill(np.where(stripes, wing + np.float32(0.05), np.float32(1)).astype(np.float32), c.look.base, 0.8)
    c.fill(tail, c.look.accent, 0.55)
    c.fill(head, c.look.base)
    c.fill(np.where(head > 0, beak, np.float32(1)).astype(np.float32), _BEAK)
    c.fill(c.ellipse(0.55, -0.42, 0.12, 0.12), (1, 1, 1))
    c.fill(c.ellipse(0.58, -0.42, 0.075, 0.075), _DARK)
    return _both(body, head, tail, beak)


def _engine(c: _Canvas, turn: float) -> Floats:
    """A toothed wheel of brushed metal with bolts, an inner ring and a dark hub."""
    far = np.hypot(c.u, c.v)
    angle = np.arctan2(c.v, c.u) + np.float32(turn)
    teeth = 7 + round(3 * c.look.detail)
    outline = (far - 0.83 - 0.1 * np.tanh(3.2 * np.cos(teeth * angle))) * np.float32(0.8)
    c.shade(np.asarray(1 + 0.09 * np.sin(far * 42) + 0.16 * np.cos(2 * angle - 2 * turn + 0.8), np.float32))
    c.fill(np.asarray(np.abs(far - 0.7) - 0.035, np.float32), _DARK, 0.55)
    bolts = 5 + round(2 * c.look.shape)
    sector = (angle * np.float32(bolts / (2 * np.pi))) % 1 - 0.5
    bolt = np.hypot(far - 0.54, sector * np.float32(2 * np.pi / bolts) * far) - 0.085
    c.fill(np.asarray(bolt, np.float32), _DARK, 0.8)
    c.fill(np.asarray(far - 0.36, np.float32), c.look.accent)
    c.fill(np.asarray(far - 0.25, np.float32), c.look.base, 0.8)
    c.fill(np.asarray(far - 0.14, np.float32), _DARK)
    return np.asarray(outline, np.float32)


def _flute(c: _Canvas, turn: float) -> Floats:
    """A long tube with a grain, dark holes in a row, and bands at its ends."""
    half = 0.23 + 0.06 * c.look.shape
    tube = c.box(0, 0, 1.12, half, corner=half * 0.8)
    c.shade(np.asarray(0.78 + 0.5 * np.exp(-(((c.v / half + 0.4) / 0.42) ** 2)) - 0.2 * (c.v > 0.5 * half), np.float32))
    c.shade(np.asarray(1 + 0.07 * np.sin(c.v * 55 + 2 * np.sin(c.u * 5)), np.float32))
    for place in (-0.9, 0.52, 0.92):
        c.fill(np.asarray(np.abs(c.u - place) - 0.06, np.float32), c.look.accent)
    step = 0.27 - 0.04 * c.look.detail
    for hole in range(5):
        c.fill(c.ellipse(0.3 - step * hole, -0.1 * half, 0.085, 0.09), _DARK)
    c.fill(c.ellipse(0.72, -0.1 * half, 0.1, 0.07), _DARK)
    return tube


def _rattle(c: _Canvas, turn: float) -> Floats:
    """A shell with diamonds in a grid on a wooden handle."""
    head = c.ellipse(0, -0.36, 0.56 + 0.08 * c.look.shape, 0.62 - 0.06 * c.look.shape)
    handle = c.box(0, 0.62, 0.13, 0.46, corner=0.1)
    knob = c.ellipse(0, 1.02, 0.19, 0.13)
    fine = 6 + 3 * c.look.detail
    bulge = 1 + 0.35 * (c.u**2 + (c.v + 0.36) ** 2)
    mesh = np.abs(np.sin(c.u * bulge * fine)) + np.abs(np.cos((c.v + 0.36) * bulge * fine))
    c.fill(np.asarray((mesh - 0.75) * 0.12, np.float32), c.look.accent)
    c.fill(np.asarray(np.abs(c.v + 0.36) - 0.07, np.float32), _DARK, 0.7)
    c.fill(np.where(head > 0, _both(handle, knob), np.float32(1)).astype(np.float32), (0.62, 0.42, 0.24))
    c.fill(np.where(head > 0, np.abs(c.v - 0.32) - 0.07, np.float32(1)).astype(np.float32), c.look.accent)
    return _both(head, handle, knob)


PAINTERS: dict[str, Callable[[_Canvas, float], Floats]] = {
    "drum": _drum,
    "bell": _bell,
    "bird": _bird,
    "engine": _engine,
    "flute": _flute,
    "rattle": _rattle,
}
"""The kinds and the functions that paint them."""
