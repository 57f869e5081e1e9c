"""Both streams of a pair through a sub-layer side by side: at each frozen map they wait for each other.

Shape letters: M = B*T, W windows, N tokens, D width.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor

from avcore.backbones.base import Phases, Point, Projection

__all__ = ["Meeting", "run_together"]

MAPS = ("qkv", "proj", "fc1", "fc2")
"""The order in which a block comes to its maps."""

Meeting = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor | None]]
"""What is added when all streams stand at one map: (its name, its input in each stream) to increments."""

T = TypeVar("T")


def run_together(
    runs: Mapping[str, Phases[T]],
    projections: Mapping[str, Projection | None],
    tokens: Mapping[str, int],
    meet: Meeting,
) -> dict[str, T]:
    """Run the same sub-layer of several streams.

    Args:
        runs: of each stream, not begun yet.
        projections: the increments that each stream's own parts give.
        tokens: N of each stream: what stands behind them at a map are rows that are carried on, invisible to ``meet``.
        meet: called where all streams stand at the map of one name.

    Returns:
        What the sub-layer adds to each stream.
    """
    found: dict[str, T] = {}
    waiting: dict[str, Point] = {}
    sent: dict[str, Tensor | None] = dict.fromkeys(runs)
    while sent or waiting:
        for stream, increment in sent.items():
            reached = runs[stream].send(increment)
            while isinstance(reached, Point) and not reached.tokens:
                reached = runs[stream].send(_own(projections[stream], reached))
            if isinstance(reached, Point):
                waiting[stream] = reached
            else:
                found[stream] = reached
        if not waiting:
            break
        name = MAPS[min([MAPS.index(point.name) for point in waiting.values()])]
        here = {stream: point for stream, point in waiting.items() if point.name == name}
        sent = {stream: _own(projections[stream], point) for stream, point in here.items()}
        if len(here) == len(runs):
            seen = {stream: _visible(point.x, tokens[stream]) for stream, point in here.items()}
            for stream, made in meet(name, seen).items():
                if made is not None:
                    made = _behind(made, here[stream].x)
                    before = sent[stream]
                    sent[stream] = made if before is None else before + made
        waiting = {stream: point for stream, point in waiting.items() if stream not in here}
    return found


def _own(project: Projection | None, point: Point) -> Tensor | None:
    return None if project is None else project(point.name, point.x)


def _visible(x: Tensor, tokens: int) -> Tensor:
    return x[:, :tokens] if x.dim() == 3 and x.shape[1] > tokens else x


def _behind(made: Tensor, x: Tensor) -> Tensor:
    """An increment of the real tokens, with zeros for what is carried behind them."""
    more = x.shape[1] - made.shape[1] if x.dim() == 3 else 0
    return F.pad(made, (0, 0, 0, more)) if more else made
