"""A picture of scores against what they cost, as SVG: who is beaten by nobody in both. Standard library only."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from avcore.report.charts import Mark, chart

__all__ = ["Point", "draw_pareto", "front"]


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
        points: at least one, their names unlike.
        cost, score: what the axes are called.
    """
    series = {}
    for point in points:
        told = f"{point.name}: {point.score:.2f}" + (f" ± {point.sd:.2f}" if point.sd else "")
        series[point.name] = [Mark(point.cost, point.score, told, point.sd)]
    joined = [Mark(point.cost, point.score) for point in front(points)]
    return chart(series, f"{score} against {cost}", cost, score, log_x=True, joined=joined)
