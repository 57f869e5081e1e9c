"""What is true of a clip in each second, as plain data for `objects.json`: the source of any task's labels.

A value of a second is that of its last picture where it changes within the second (places and areas).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .world import Clip


def describe(clip: Clip, size: int) -> dict[str, Any]:
    """Describes a clip for each of its T seconds.

    Args:
        clip: Any clip.
        size: Rows and columns of the pictures, px.

    Returns:
        ``seed``, ``style``, ``category``, ``seen`` and ``heard`` (T mappings from kind to how many of it), and
        ``things``, each with ``kind``, ``radius`` (fraction of the side) and lists of T values: ``seen`` and ``heard``
        (bool), ``seen_since`` and ``heard_since`` (the second in which that began, or null), ``centre`` (from the left
        and from the top, fractions of the side, or null), ``visible`` (px), ``loudness`` (dB, 0 is full scale,
        root mean square of what it sounds like as long as it does, or null). A kind has its make before it, where there
        is one.
    """
    moments = [second + 15 / 16 for second in range(clip.seconds)]
    visible_TK = np.stack([clip.masks(t, size).sum((1, 2)) for t in moments])
    things = [
        {
            "kind": thing.name,
            "radius": round(thing.radius, 4),
            "seen": clip.seen_TK[:, k].tolist(),
            "seen_since": _since(clip.seen_TK[:, k]),
            "heard": clip.sounding_TK[:, k].tolist(),
            "heard_since": _since(clip.sounding_TK[:, k]),
            "centre": [[round(place, 4) for place in thing.centre(t)] if clip.seen(t)[k] else None for t in moments],
            "visible": visible_TK[:, k].tolist(),
            "loudness": [round(thing.voice.loudness, 1) if heard else None for heard in clip.sounding_TK[:, k]],
        }
        for k, thing in enumerate(clip.things)
    ]
    return {
        "seed": clip.seed,
        "style": clip.style,
        "category": clip.category,
        "seen": _counts(clip, clip.seen_TK),
        "heard": _counts(clip, clip.sounding_TK),
        "things": things,
    }


def _counts(clip: Clip, present_TK: NDArray[np.bool_]) -> list[dict[str, int]]:
    return [dict(Counter(clip.things[k].name for k in np.flatnonzero(row))) for row in present_TK]


def _since(present_T: NDArray[np.bool_]) -> list[int | None]:
    since: list[int | None] = []
    for second, present in enumerate(present_T.tolist()):
        before = since[-1] if since else None
        since.append(None if not present else second if before is None else before)
    return since
