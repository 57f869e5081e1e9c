"""A val split where the lists have none: clips of train held out by the hash of their names."""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from hashlib import sha256

__all__ = ["held_out"]


def held_out(clips: Iterable[tuple[str, Hashable]], share: float) -> frozenset[str]:
    """Names of the clips that are held out: of each class the nearest number to its ``share``, one at least of two.

    Which they are depends on the names alone: neither on the machine, nor on a seed, nor on the order of the list.

    Args:
        clips: (name, class).
        share: 0 to below 1; 0 holds out none.
    """
    of_class: dict[Hashable, list[str]] = defaultdict(list)
    for name, label in clips:
        of_class[label].append(name)
    chosen: set[str] = set()
    if share > 0:
        for names in of_class.values():
            wanted = max(round(share * len(names)), 1) if len(names) > 1 else 0
            chosen.update(sorted(names, key=_lot)[: min(wanted, len(names) - 1)])
    return frozenset(chosen)


def _lot(name: str) -> bytes:
    return sha256(name.encode()).digest()
