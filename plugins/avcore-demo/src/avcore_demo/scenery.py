"""Backgrounds of the demo world: calm textured places, one per clip, the same place at every picture size."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def background(seed: int, size: int) -> Floats:
    """Paints the place that follows from `seed`.

    Args:
        seed: Any integer.
        size: Rows and columns, px.

    Returns:
        Colours (Y, X, 3), 0..1.
    """
    rng = np.random.default_rng(seed)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    y_YX, x_YX = (a.astype(np.float32) for a in np.meshgrid(axis, axis, indexing="ij"))
    place = _PLACES[rng.integers(len(_PLACES))]
    colour_YX3 = place(rng, y_YX, x_YX)
    # A soft vignette keeps the eye on the middle.
    colour_YX3 *= (1.06 - 0.5 * ((x_YX - 0.5) ** 2 + (y_YX - 0.5) ** 2))[..., None]
    return np.clip(colour_YX3, 0, 1).astype(np.float32)


def _noise(rng: np.random.Generator, y_YX: Floats, x_YX: Floats, rows: float, columns: float) -> Floats:
    """Smooth noise in -1..1 with so many bumps along each side."""
    lattice = rng.uniform(-1, 1, (int(rows) + 3, int(columns) + 3)).astype(np.float32)
    y, x = y_YX * rows + rng.random(), x_YX * columns + rng.random()
    top, left = y.astype(np.int64), x.astype(np.int64)
    down, right = y - top, x - left
    down, right = down * down * (3 - 2 * down), right * right * (3 - 2 * right)
    upper = lattice[top, left] * (1 - right) + lattice[top, left + 1] * right
    lower = lattice[top + 1, left] * (1 - right) + lattice[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _clouds(rng: np.random.Generator, y_YX: Floats, x_YX: Floats, cells: float) -> Floats:
    """Three octaves of noise, in about -1..1."""
    octaves = [_noise(rng, y_YX, x_YX, cells * 2**n, cells * 2**n) * np.float32(0.55**n) for n in range(3)]
    return np.asarray(sum(octaves), np.float32)


def _hue(rng: np.random.Generator, saturation: float, value: float, hue: float | None = None) -> Floats:
    """A colour near the given saturation and value."""
    hue = rng.random() if hue is None else hue + rng.uniform(-0.04, 0.04)
    saturation, value = saturation * rng.uniform(0.75, 1.25), value * rng.uniform(0.88, 1.12)
    return np.asarray(colorsys.hsv_to_rgb(hue % 1, saturation, min(value, 1)), np.float32)


def _mix(first: Floats, second: Floats, share_YX: Floats) -> Floats:
    share = np.clip(share_YX, 0, 1)[..., None]
    return np.asarray(first * (1 - share) + second * share, np.float32)


def _hills(rng: np.random.Generator, y_YX: Floats, x_YX: Floats) -> Floats:
    """A sky with clouds above three ridges, each darker than the one behind it."""
    sky = rng.choice([0.55, 0.6, 0.08, 0.9])
    colour = _mix(_hue(rng, 0.34, 0.9, sky), _hue(rng, 0.14, 0.98, sky + 0.05), y_YX * 1.6)
    cloud = _clouds(rng, y_YX, x_YX, 4)
    colour = _mix(colour, np.full(3, 0.97, np.float32), 0.7 * np.clip(cloud - 0.15, 0, 1))
    land = rng.choice([0.25, 0.33, 0.45, 0.62])
    for ridge in range(3):
        level = 0.42 + 0.2 * ridge + 0.09 * _noise(rng, np.zeros_like(y_YX), x_YX, 1, 2.5 + ridge)
        grain = 1 + 0.09 * _noise(rng, y_YX, x_YX, 30, 24)
        tone = _hue(rng, 0.24 + 0.08 * ridge, 0.74 - 0.13 * ridge, land) * grain[..., None]
        colour = _mix(colour, tone, (y_YX - level) * 60)
    return colour


def _planks(rng: np.random.Generator, y_YX: Floats, x_YX: Floats) -> Floats:
    """Boards of wood with grain and dark joints."""
    boards = rng.integers(4, 7)
    across, along = (y_YX, x_YX) if rng.random() < 0.5 else (x_YX, y_YX)
    number = (across * boards).astype(np.int64)
    tones = rng.uniform(0.86, 1.1, boards + 1).astype(np.float32)[number]
    grain = _noise(rng, across + 0.02 * _noise(rng, along, across, 4, 4), along, 46, 4)
    joint = np.abs((across * boards) % 1 - 0.5) > 0.47
    base = _hue(rng, 0.38, 0.66, 0.08) if rng.random() < 0.6 else _hue(rng, 0.12, 0.72)
    return np.asarray(base * (tones * (1 + 0.11 * grain) * np.where(joint, 0.62, 1))[..., None], np.float32)


def _tiles(rng: np.random.Generator, y_YX: Floats, x_YX: Floats) -> Floats:
    """A floor of tiles in two tones, turned by some angle."""
    turn, count = rng.uniform(-0.6, 0.6), rng.uniform(3.5, 6.5)
    u = (x_YX * np.cos(turn) + y_YX * np.sin(turn)) * count + 20
    v = (y_YX * np.cos(turn) - x_YX * np.sin(turn)) * count + 20
    first = _hue(rng, 0.2, 0.78)
    second = first * rng.uniform(0.76, 0.88) + 0.06 * _hue(rng, 0.5, 0.8)
    odd = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    colour = _mix(first, second.astype(np.float32), odd)
    joint = np.maximum(np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)) > 0.46
    stain = 1 + 0.1 * _clouds(rng, y_YX, x_YX, 5)
    return np.asarray(colour * (stain * np.where(joint, 0.82, 1))[..., None], np.float32)


def _waves(rng: np.random.Generator, y_YX: Floats, x_YX: Floats) -> Floats:
    """Sand or water: warped ripples."""
    hue = rng.choice([0.1, 0.53, 0.58, 0.42])
    warp = 0.05 * _clouds(rng, y_YX, x_YX, 3)
    ripple = np.sin((y_YX + warp + 0.25 * rng.uniform(-1, 1) * x_YX) * rng.uniform(38, 60))
    colour = _mix(_hue(rng, 0.34, 0.66, hue), _hue(rng, 0.22, 0.9, hue), 0.5 + 0.28 * ripple + 1.6 * warp)
    return np.asarray(colour * (1 + 0.04 * _noise(rng, y_YX, x_YX, 40, 40))[..., None], np.float32)


def _dusk(rng: np.random.Generator, y_YX: Floats, x_YX: Floats) -> Floats:
    """A dark blurred place with soft round lights."""
    hue = rng.choice([0.62, 0.7, 0.95, 0.45])
    colour = _mix(_hue(rng, 0.45, 0.26, hue), _hue(rng, 0.4, 0.46, hue + 0.1), 0.5 + 0.6 * _clouds(rng, y_YX, x_YX, 2))
    for _ in range(rng.integers(8, 15)):
        x, y, radius = rng.random(), rng.random(), rng.uniform(0.02, 0.07)
        far = np.hypot(x_YX - x, y_YX - y)
        disc = np.clip((radius - far) / 0.012 + 0.5, 0, 1) * rng.uniform(0.12, 0.34)
        colour = _mix(colour, _hue(rng, 0.4, 0.95), disc)
    return colour


def _meadow(rng: np.random.Generator, y_YX: Floats, x_YX: Floats) -> Floats:
    """Grass, leaves or moss: patches with short upright strokes and small flowers."""
    hue = rng.choice([0.22, 0.28, 0.36, 0.12])
    patch = _clouds(rng, y_YX, x_YX, 3)
    colour = _mix(_hue(rng, 0.42, 0.5, hue), _hue(rng, 0.36, 0.72, hue + 0.03), 0.5 + 0.5 * patch)
    colour *= (1 + 0.16 * _noise(rng, y_YX, x_YX, 14, 44))[..., None]
    petal = _hue(rng, 0.35, 0.96)
    for _ in range(rng.integers(6, 16)):
        far = np.hypot(x_YX - rng.random(), y_YX - rng.random())
        colour = _mix(colour, petal, np.clip((0.013 - far) / 0.01 + 0.5, 0, 1))
    return colour


_PLACES: list[Callable[[np.random.Generator, Floats, Floats], Floats]] = [
    _hills,
    _planks,
    _tiles,
    _waves,
    _dusk,
    _meadow,
]
