"""The conformance kit: what plugin authors test their parts, backbones, heads and readers with.

The names below are imported when they are first used: ``import avcore.testing`` imports neither torch nor pytest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avcore.testing.conformance import check_plugin, checks_for, parametrize_with_checks
    from avcore.testing.report import Report, Result

_WHERE = {
    "Report": "avcore.testing.report",
    "Result": "avcore.testing.report",
    "check_plugin": "avcore.testing.conformance",
    "checks_for": "avcore.testing.conformance",
    "parametrize_with_checks": "avcore.testing.conformance",
}

__all__ = ["Report", "Result", "check_plugin", "checks_for", "parametrize_with_checks"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'avcore.testing' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
