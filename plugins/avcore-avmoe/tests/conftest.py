"""Models with AVMoE."""

from collections.abc import Callable
from typing import Any

import pytest

import avcore_ave
import avcore_avmoe
import avcore_avvp
import avcore_dgsct
import avcore_timm
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.model import AVModel
from avcore.registry import Registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    modules = {
        "avcore-timm": avcore_timm,
        "avcore-avmoe": avcore_avmoe,
        "avcore-dgsct": avcore_dgsct,
        "avcore-ave": avcore_ave,
        "avcore-avvp": avcore_avvp,
    }
    return Registry.from_modules(modules)


@pytest.fixture(scope="session")
def published(registry: Registry) -> Callable[..., AVModel]:
    """``published(task)``: the shapes of the model that the recipe of a task makes."""

    def made(task: str, **options: Any) -> AVModel:
        resolved = resolve_config(registry, method="avmoe", task=task, need_data=False, **options)
        return assemble(resolved.config, registry, meta=True)

    return made
