"""Whose code an exception comes from."""

import traceback
from collections.abc import Iterable

from avcore.discovery.records import FOUNDATIONS, LoadedPlugin

__all__ = ["culprit"]


def culprit(error: BaseException, plugins: Iterable[LoadedPlugin]) -> LoadedPlugin | None:
    """The plugin in whose code an exception was raised, or that called what raised it; None if no plugin took part."""
    owners: dict[str, LoadedPlugin] = {}
    for plugin in plugins:
        builds = [spec.build for specs in plugin.specs.values() for spec in specs]
        for reference in (plugin.module, *builds):
            owners[reference.partition(":")[0].partition(".")[0]] = plugin
    for package in ("", "avcore", *FOUNDATIONS):
        owners.pop(package, None)
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        found = owners.get(package, found)
    return found
