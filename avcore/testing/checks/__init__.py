"""The checks of the conformance kit, by what they look at. Imports no torch until they are collected.

A check is a function of one case (a part, a backbone, the package, ...) with a name and one line that says what it asks
for. It raises AssertionError with a message for the plugin's author, or `Skipped` with a reason.
"""

import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from avcore.errors import AVCoreError

__all__ = ["CHECKS", "CheckDefinition", "Skipped", "check", "load_checks", "refusal"]

CaseT = TypeVar("CaseT")


# pytest knows this class: a check that raises it is skipped.
class Skipped(unittest.SkipTest):
    """A check cannot be run here; the message says why."""


@dataclass(frozen=True)
class CheckDefinition:
    """A check before it is applied to a plugin.

    Attributes:
        kind: what it looks at: ``package``, ``settings``, ``part``, ``backbone``, ``head``, ``task``, ``data set``,
            ``method``.
        name: the second half of the check's id.
        function: takes the case.
    """

    kind: str
    name: str
    function: Callable[[Any], None]

    @property
    def asks(self) -> str:
        """One line that says what it asks for."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


CHECKS: list[CheckDefinition] = []
"""All checks, in the order in which they run."""


def check(kind: str, name: str) -> Callable[[Callable[[CaseT], None]], Callable[[CaseT], None]]:
    """Register the function below as a check."""

    def register(function: Callable[[CaseT], None]) -> Callable[[CaseT], None]:
        CHECKS.append(CheckDefinition(kind, name, function))
        return function

    return register


def refusal(attempt: Callable[[], object]) -> str | None:
    """The message of the AVCoreError that a call raises; None if it raises none. Other exceptions pass."""
    try:
        attempt()
    except AVCoreError as error:
        return str(error)
    return None


def load_checks() -> list[CheckDefinition]:
    """All checks; imports the modules that hold them, and torch with them."""
    from avcore.testing.checks import (  # noqa: F401 - each registers its checks
        backbone_blocks,
        backbones,
        config,
        datasets,
        heads,
        methods,
        packaging,
        part_forward,
        part_state,
        part_training,
        tasks,
        texts,
    )

    return CHECKS
