"""The conformance kit: what plugin authors test their parts, backbones, heads and readers with.

The names below are imported when they are first used: ``import avcore.testing`` imports neither torch nor pytest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avcore.testing.backbones import ToyBackbones
    from avcore.testing.conformance import check_plugin, checks_for, parametrize_with_checks
    from avcore.testing.golden import assert_close
    from avcore.testing.graphs import capture, tokens_for
    from avcore.testing.report import Report, Result
    from avcore.testing.texts import ToyTexts
    from avcore.testing.toys import ToyPlugin, create_model, make_batch, make_model

_HOMES = {
    "avcore.testing.backbones": ("ToyBackbones",),
    "avcore.testing.conformance": ("check_plugin", "checks_for", "parametrize_with_checks"),
    "avcore.testing.golden": ("assert_close",),
    "avcore.testing.graphs": ("capture", "tokens_for"),
    "avcore.testing.report": ("Report", "Result"),
    "avcore.testing.texts": ("ToyTexts",),
    "avcore.testing.toys": ("ToyPlugin", "create_model", "make_batch", "make_model"),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Report",
    "Result",
    "ToyBackbones",
    "ToyPlugin",
    "ToyTexts",
    "assert_close",
    "capture",
    "check_plugin",
    "checks_for",
    "create_model",
    "make_batch",
    "make_model",
    "parametrize_with_checks",
    "tokens_for",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'avcore.testing' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
