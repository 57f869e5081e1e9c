"""Draw a record of a grid: the score of each row against the parameters that it trains, as an SVG.

    python docs/benchmarks/scatter.py docs/benchmarks/mixes.json docs/assets/mixes.svg --split test --score accuracy

Rows are named ``PROMPTS + FUSION``: the colour tells the fusion, the shape the prompts, and pure methods, whose prompts
and fusion are of one name or one of them ``none``, are hollow. Several seeds of a row become their mean.
"""

import argparse
import json
import math
from html import escape
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 470, 60, 230, 30, 55
COLOURS = ("#666666", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


class Point(NamedTuple):
    """A row of the record."""

    prompts: str
    fusion: str
    trained: int
    score: float

    @property
    def pure(self) -> bool:
        """One method alone, or the head alone."""
        return self.prompts == self.fusion or "none" in (self.prompts, self.fusion)


def points_of(record: Path, split: str, score: str) -> list[Point]:
    """The rows of a record, means over seeds."""
    runs = json.loads(record.read_text())["runs"]
    made = []
    for name in dict.fromkeys(run["row"] for run in runs):
        found = [run for run in runs if run["row"] == name]
        prompts, _, fusion = name.partition(" + ")
        mean = fmean(run["metrics"][split][score] for run in found)
        made.append(Point(prompts, fusion, found[0]["trainable"], mean))
    return made


def mark(shape: int, x: float, y: float, colour: str, *, hollow: bool, size: float = 6) -> str:
    """One of four shapes around a place, px."""
    style = f'stroke="{colour}" stroke-width="2" fill="{"none" if hollow else colour}"'
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {style}/>'
    corners = {
        1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        2: [(0, -1.25), (1.2, 1), (-1.2, 1)],
        3: [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)],
    }[shape]
    text = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in corners)
    return f'<polygon points="{text}" {style}/>'


def draw(points: list[Point], title: str) -> str:
    """The picture."""
    logs = [math.log10(point.trained) for point in points]
    low_x, high_x = min(logs) - 0.08, max(logs) + 0.12
    low_y, high_y = math.floor(min(p.score for p in points)) - 1, math.ceil(max(p.score for p in points)) + 1

    def x_of(value: float) -> float:
        return LEFT + (math.log10(value) - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return TOP + (high_y - value) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)

    prompts = list(dict.fromkeys(point.prompts for point in points))
    fusions = list(dict.fromkeys(point.fusion for point in points))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333333"/>',
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">'
        "trained parameters, head included</text>",
    ]
    for tick in (1e5, 2e5, 3e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2e7):
        if low_x < math.log10(tick) < high_x:
            label = f"{tick / 1e6:g} M" if tick >= 1e6 else f"{tick / 1e3:g} k"
            parts.append(f'<path d="M{x_of(tick):.1f} {bottom}v5" stroke="#333333"/>')
            parts.append(f'<text x="{x_of(tick):.1f}" y="{bottom + 19}" text-anchor="middle">{label}</text>')
    for tick in range(low_y, high_y + 1, max(1, (high_y - low_y) // 6)):
        parts.append(f'<path d="M{LEFT} {y_of(tick):.1f}H{right}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for point in points:
        colour, shape = COLOURS[fusions.index(point.fusion)], prompts.index(point.prompts) % 4
        shown = mark(shape, x_of(point.trained), y_of(point.score), colour, hollow=point.pure)
        name = f"{point.prompts} + {point.fusion}: {point.score:.1f}, {point.trained:,} trained"
        parts.append(f"<g><title>{escape(name)}</title>{shown}</g>")
    y = TOP + 10
    for heading, names in (("prompts", prompts), ("fusion", fusions)):
        parts.append(f'<text x="{right + 30}" y="{y}" font-weight="bold">{heading}</text>')
        for number, name in enumerate(names):
            y += 21
            colour, shape = ("#333333", number % 4) if heading == "prompts" else (COLOURS[number], 0)
            parts.append(mark(shape, right + 38, y - 4, colour, hollow=False))
            parts.append(f'<text x="{right + 52}" y="{y}">{escape(name)}</text>')
        y += 30
    parts.append(f'<text x="{right + 30}" y="{y}">hollow: a method by itself</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Read the record, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--score", default="accuracy")
    given = parser.parse_args()
    points = points_of(given.record, given.split, given.score)
    given.picture.write_text(draw(points, f"{given.score} on {given.split} against what is trained"))


if __name__ == "__main__":
    main()
