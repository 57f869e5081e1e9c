"""Charts as SVG text: curves and scatter plots, without a library and without a script. Standard library only."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Mark", "chart", "escaped", "panels"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 620, 330, 62, 170, 30, 46  # px
LEGEND = 16  # names that the legend has room for
NAME = 24  # letters of a name in the legend
HUES = 137.5  # degrees between two colours, so that neighbours in the legend differ


def escaped(text: object) -> str:
    """For a page or a picture; what neither may hold (control characters, halves of characters) is replaced."""
    return escape("".join(letter if letter.isprintable() or letter in " \n\t" else "�" for letter in str(text)))


class Mark(NamedTuple):
    """A place in a chart, what is shown where the pointer rests on it, and how far y is uncertain."""

    x: float
    y: float
    tells: str = ""
    sd: float = 0.0


def chart(
    series: Mapping[str, Sequence[Mark]],
    title: str,
    x: str,
    y: str,
    *,
    lines: bool = False,
    joined: Sequence[Mark] = (),
    log_x: bool = False,
    scales: bool = True,
) -> str:
    """A chart as one ``<svg>`` element, each series in its colour; every text is escaped.

    Args:
        series: name -> its marks; those that are not finite, or not positive with ``log_x``, are left out.
        title, x, y: what is written above, below and beside it.
        lines: join the marks of a series in their order instead of drawing each.
        joined: places that a dashed line joins, such as a front.
        log_x: a logarithmic axis.
        scales: numbers at the axes; without them places mean something only beside each other (t-SNE).
    """
    shown = {
        name: [one for one in marks if math.isfinite(one.y) and math.isfinite(one.x) and (one.x > 0 or not log_x)]
        for name, marks in series.items()
    }
    every = [one for marks in shown.values() for one in marks]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escaped(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">{escaped(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333333"/>',
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escaped(x)}</text>',
        f'<text x="14" y="{(TOP + bottom) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + bottom) / 2:.0f})">{escaped(y)}</text>',
    ]
    if not every:
        out.append(f'<text x="{LEFT + 20}" y="{TOP + 30}">nothing to draw</text>')
        return "\n".join([*out, "</svg>"])
    along = _Axis([math.log10(one.x) if log_x else one.x for one in every], LEFT, right)
    up = _Axis([one.y + sign * one.sd for one in every for sign in (-1, 1)], bottom, TOP)

    def place_of(mark: Mark) -> tuple[float, float]:
        return along.at(math.log10(mark.x) if log_x else mark.x), up.at(mark.y)

    if scales:
        for value, place in up.ticks():
            out.append(f'<path d="M{LEFT} {place:.1f}H{right}" stroke="#e2e2e2"/>')
            out.append(f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value, place in along.ticks():
            label = f"{10**value:.3g}" if log_x else f"{value:g}"
            out.append(f'<path d="M{place:.1f} {bottom}v4" stroke="#333333"/>')
            out.append(f'<text x="{place:.1f}" y="{bottom + 17}" text-anchor="middle">{label}</text>')
    if joined:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(place_of, joined))
        out.append(f'<polyline points="{path}" fill="none" stroke="#777777" stroke-dasharray="5 4"/>')
    for number, (name, marks) in enumerate(shown.items()):
        colour = f"hsl({(210 + number * HUES) % 360:.0f} 65% 42%)"
        places = [place_of(one) for one in marks]
        if lines and places:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if not lines or len(places) == 1:
            for (a, b), one in zip(places, marks, strict=True):
                if one.sd:
                    ends = f"{up.at(one.y - one.sd):.1f}V{up.at(one.y + one.sd):.1f}"
                    out.append(f'<path d="M{a:.1f} {ends}" stroke="{colour}"/>')
                told = f"<title>{escaped(one.tells or name)}</title>"
                out.append(
                    f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}" fill-opacity="0.8">{told}</circle>'
                )
        if number < LEGEND:
            high = TOP + 8 + number * 16
            out.append(f'<rect x="{right + 14}" y="{high - 8}" width="10" height="10" fill="{colour}"/>')
            short = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
            out.append(f'<text x="{right + 29}" y="{high + 1}" font-size="11">{escaped(short)}</text>')
    if len(shown) > LEGEND:
        rest = f"and {len(shown) - LEGEND} more"
        out.append(f'<text x="{right + 29}" y="{TOP + 9 + LEGEND * 16}" font-size="11">{rest}</text>')
    return "\n".join([*out, "</svg>"])


def panels(charts: Sequence[str], columns: int = 2) -> str:
    """Several charts as one ``<svg>``, line by line."""
    wide, high = WIDTH * min(columns, len(charts)), HEIGHT * math.ceil(len(charts) / columns)
    placed = [
        one.replace("<svg ", f'<svg x="{number % columns * WIDTH}" y="{number // columns * HEIGHT}" ', 1)
        for number, one in enumerate(charts)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">'
    return "\n".join([head, *placed, "</svg>"])


class _Axis:
    """Numbers to places between two ends, px, with a little room at both."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = min(values), max(values)
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        self.low, self.high, self.start, self.stop = low - room, high + room, start, stop

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[tuple[float, float]]:
        """About five round numbers, and where they are."""
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * many for many in (1, 2, 5, 10) if unit * many >= rough)
        first = math.ceil(self.low / step)
        return [
            (round(number * step, 12), self.at(number * step))
            for number in range(first, math.floor(self.high / step) + 1)
        ]
