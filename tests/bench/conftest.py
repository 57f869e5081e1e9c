from collections.abc import Callable
from typing import Any

import pytest

from avcore.config import RunConfig, resolve_config
from avcore.registry import load_registry


@pytest.fixture
def tiny() -> Callable[..., RunConfig]:
    """A run on the demo's backbone, two seconds of AVE."""

    def made(method: str, *sets: str, **given: Any) -> RunConfig:
        sets = ("data.segments=2", "train.batch_size=2", *sets)
        options = {"method": method, "task": "ave", "visual": "demo_vit", "sets": sets, "need_data": False, **given}
        return resolve_config(load_registry(), **options).config

    return made
