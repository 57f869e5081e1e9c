"""A picture of scores against what they cost, as SVG: who is beaten by nobody in both. Standard library only."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Point", "draw_pareto", "front"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 470, 64, 30, 40, 56
FRONT, BEHIND = "#d55e00", "#0072b2"


class Point(NamedTuple):
    """A row of a table: its name, what it costs (above 0), what it scores, and the deviation of that over seeds."""

    name: str
    cost: float
    score: float
    sd: float = 0.0


def front(points: Sequence[Point]) -> list[Point]:
    """Those than which no other costs less or as much and scores more, cheapest first."""
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda one: (one.cost, -one.score)):
        if point.score > best:
            best = point.score
            kept.append(point)
    return kept


def draw_pareto(points: Sequence[Point], cost: str, score: str) -> str:
    """The picture: costs on a logarithmic axis, the front joined by a line.

    Args:
        points: at least one.
        cost, score: what the axes are called.
    """
    logs = [math.log10(point.cost) for point in points]
    low, high = min(logs) - 0.1, max(logs) + 0.3
    ends = [point.score + sign * point.sd for point in points for sign in (-1, 1)]
    step = _step(max(ends) - min(ends))
    bottom_score, top_score = (math.floor(min(ends) / step) - 1) * step, (math.ceil(max(ends) / step) + 1) * step
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x_of(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (right - LEFT)

    def y_of(value: float) -> float:
        return TOP + (top_score - value) / (top_score - bottom_score) * (bottom - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-weight="bold">{escape(score)} against {escape(cost)}</text>',
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333333"/>',
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(cost)}</text>',
    ]
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            tick = digit * 10.0**power
            if low < math.log10(tick) < high:
                parts.append(f'<path d="M{x_of(tick):.1f} {bottom}v5" stroke="#333333"/>')
                place = f'x="{x_of(tick):.1f}" y="{bottom + 19}"'
                parts.append(f'<text {place} text-anchor="middle">{_short(tick)}</text>')
    for number in range(round((top_score - bottom_score) / step) + 1):
        tick = bottom_score + number * step
        parts.append(f'<path d="M{LEFT} {y_of(tick):.1f}H{right}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    best = front(points)
    line = " ".join(f"{x_of(point.cost):.1f},{y_of(point.score):.1f}" for point in best)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{FRONT}" stroke-width="1.5" stroke-dasharray="5 4"/>')
    for point in points:
        x, y, colour = x_of(point.cost), y_of(point.score), FRONT if point in best else BEHIND
        told = f"{point.name}: {point.score:.2f}" + (f" ± {point.sd:.2f}" if point.sd else "")
        lowest, highest = y_of(point.score - point.sd), y_of(point.score + point.sd)
        bar = f'<path d="M{x:.1f} {lowest:.1f}V{highest:.1f}" stroke="{colour}"/>'
        parts.append(
            f"<g><title>{escape(told)}</title>{bar if point.sd else ''}"
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
            f'<text x="{x + 8:.1f}" y="{y - 6:.1f}" font-size="11">{escape(point.name)}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _step(span: float) -> float:
    """A round number of which about six make the span."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 6))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= span / 6)


def _short(value: float) -> str:
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g} {word}"
    return f"{value:g}"
