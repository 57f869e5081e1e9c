"""Whether what a plugin writes can be called as avcore calls it: asked of signatures, before anything is called."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from avcore.discovery.records import one_line
from avcore.errors import AVCoreError, PluginError

__all__ = ["PluginFailureError", "blamed", "check_build", "check_overrides", "functions_of"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class PluginFailureError(PluginError):
    """A plugin's code raised what it should not; ``__cause__`` is that, whose traceback its author needs."""


def functions_of(base: type) -> dict[str, Any]:
    """The public functions that a class of avcore and those above it define, by name."""
    own = [one for one in reversed(base.__mro__) if one.__module__.partition(".")[0] == "avcore"]
    return {
        name: thing
        for one in own
        for name, thing in vars(one).items()
        if not name.startswith("_") and inspect.isfunction(thing)
    }


def check_overrides(thing: type, base: type, *, plugin: str, of: str) -> None:
    """Refuse a class whose functions cannot be called as those of the class of avcore that it derives from.

    Args:
        thing: a plugin's class.
        base: what it derives from.
        plugin: distribution and version.
        of: what the class is, such as ``part 'mine'``.

    Raises:
        PluginError: names the plugin, the function, and the signature that it must have.
    """
    for name, wanted in functions_of(base).items():
        found = inspect.getattr_static(thing, name)
        if found is not wanted and not _takes(found, wanted):
            raise PluginError(
                f"Plugin {plugin} failed in '{name}' of {of}: {thing.__name__}.{name}{_shown(getattr(thing, name))} "
                f"cannot be called as avcore does: it must be {name}{_shown(wanted)}. Tell its author."
            )


def check_build(build: Any, given: Sequence[str], *, keywords: Iterable[str] = (), plugin: str, of: str) -> None:
    """Refuse a class or function that cannot be called with what avcore makes it of.

    Args:
        build: a plugin's.
        given: names of what is given by position.
        keywords: names of what is given by keyword.
        plugin, of: as in `check_overrides`.

    Raises:
        PluginError: names the plugin, and the signature that it must have.
    """
    named = tuple(keywords)
    if not callable(build) or not _binds(build, len(given), named):
        wanted = ", ".join([*given, *(["*", *named] if named else [])])
        name = getattr(build, "__name__", repr(build))
        raise PluginError(
            f"Plugin {plugin} failed: {name}{_shown(build)}, of which {of} is made, cannot be called as avcore does: "
            f"it must be {name}({wanted}). Tell its author."
        )


@contextmanager
def blamed(plugin: str, function: str, of: str) -> Iterator[None]:
    """What fails inside is told as a plugin's failure; refusals and faults of disks pass as they are.

    Raises:
        PluginFailureError: names the plugin and the function, caused by what was raised.
    """
    try:
        yield
    except (AVCoreError, OSError):
        raise
    except Exception as error:
        failure = one_line(error).rstrip(".")
        raise PluginFailureError(
            f"Plugin {plugin} failed in '{function}' of {of}: {failure}. Tell its author."
        ) from error


def _takes(found: Any, wanted: Any) -> bool:
    parameters = list(inspect.signature(wanted).parameters.values())
    positional = sum(one.kind in _POSITIONAL for one in parameters)
    named = tuple(one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY)
    if isinstance(found, staticmethod | classmethod):
        # Neither takes the instance; the class comes by itself.
        return _binds(found.__func__, positional - isinstance(found, staticmethod), named)
    return callable(found) and _binds(found, positional, named)


def _binds(function: Any, positional: int, keywords: Sequence[str]) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # nothing is known of functions of C
        return True
    try:
        signature.bind(*[None] * positional, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def _shown(function: Any) -> str:
    """A signature without annotations and defaults."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    empty = inspect.Parameter.empty
    bare = [
        one.replace(annotation=empty, default=empty if one.default is empty else ...)
        for one in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)).replace(
        "=Ellipsis", "=..."
    )
