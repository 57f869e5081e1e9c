"""The conformance kit of avcore on this plugin, on a handful of its clips."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from avcore.config.leaves import flatten
from avcore.specs import DatasetSpec
from avcore.testing import parametrize_with_checks
from avcore_demo import avcore_datasets
from avcore_demo.provide import LAYOUTS
from avcore_demo.render import ensure


def render(folder: Path, layout: str) -> Path:
    return ensure(folder, layout=layout, size=32, counts={"train": 12, "val": 2, "test": 3})


@pytest.mark.parametrize("spec", avcore_datasets(), ids=lambda spec: spec.name)
def test_a_demo_names_no_method(spec: DatasetSpec) -> None:
    assert not [key for key in flatten(spec.defaults) if key.split(".")[0] in ("parts", "prompts", "fusions", "method")]


DATA = {spec.name: partial(render, layout=LAYOUTS[spec.tasks[0]]) for spec in avcore_datasets()}


@parametrize_with_checks("avcore-demo", data=DATA)
def test_conforms(check: Callable[[], None]) -> None:
    check()
