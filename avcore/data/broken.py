"""Clips that cannot be read: what is done about them, which they are, and how many there may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from avcore.errors import DataError

__all__ = ["BrokenClips", "BrokenPolicy"]

BrokenPolicy = Literal["stop", "replace", "leave_out"]
"""``stop`` raises; ``replace`` takes another clip, to train on; ``leave_out`` takes one that counts in no score."""


@dataclass
class BrokenClips:
    """The broken clips of a split, found so far.

    Args:
        split: its name.
        total: clips in it.
        limit: the share of them, 0 to 1, that may be broken.

    Attributes:
        causes: the name of each broken clip and what is wrong with it.
    """

    split: str
    total: int
    limit: float
    causes: dict[str, str] = field(default_factory=dict)

    def add(self, found: Mapping[str, str]) -> dict[str, str]:
        """Take in names and causes; returns those that are new.

        Raises:
            AVCoreError: more are broken than may be.
        """
        new = {name: cause for name, cause in found.items() if name not in self.causes}
        self.causes |= new
        if len(self.causes) > self.limit * self.total:
            count, (name, cause) = len(self.causes), list(self.causes.items())[-1]
            raise DataError(
                f"{count} of {self.total} clips of split '{self.split}' cannot be read: {count / self.total:.1%} "
                f"where data.broken_limit allows {self.limit:.1%}. 'avcore data verify' lists all; mend them, take "
                f"them off the list of clips, or raise the limit. The last: clip {name}: {cause}"
            )
        return new
