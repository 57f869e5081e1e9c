"""Plugins of a test in place of those that are installed."""

import contextlib
import importlib
from collections.abc import Iterator

import pytest

from avcore.registry import Registry

__all__ = ["LOADERS", "installed"]

LOADERS = (
    *("avcore.runs.start", "avcore.runs.base", "avcore.runs.adapter", "avcore.runs.zeroshot", "avcore.assemble"),
    *("avcore.cli.data", "avcore.cli.options", "avcore.cli.runs"),
)
"""The modules that look up what is installed."""


@contextlib.contextmanager
def installed(registry: Registry) -> Iterator[pytest.MonkeyPatch]:
    """Only what a registry holds is installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LOADERS:
            patch.setattr(importlib.import_module(name), "load_registry", lambda: registry)
        yield patch
