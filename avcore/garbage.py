"""How often Python looks for garbage while a command starts, and from its first model on."""

import gc

__all__ = ["look_as_ever", "look_seldom"]

_SELDOM = (1_000_000, 50, 1000)
"""Objects made before the newest are looked at; how many such looks before older ones are."""

_ever: list[tuple[int, int, int]] = []
"""The thresholds that were set before, while they are others."""


def look_seldom() -> None:
    """For a process that is avcore's own: what imports and models make stays, and looking at it again and again costs.

    That is a fifth of the time to the first step.
    """
    _ever.append(gc.get_threshold())
    gc.set_threshold(*_SELDOM)


def look_as_ever() -> None:
    """After `look_seldom`: what is there is never looked at again, and what comes is looked at as ever."""
    if _ever:
        gc.freeze()
        gc.set_threshold(*_ever.pop())
