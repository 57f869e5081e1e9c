"""The conformance kit of avcore on this plugin, on a handful of its clips."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from avcore.testing import parametrize_with_checks
from avcore_demo.render import ensure


def render(folder: Path, style: str) -> Path:
    return ensure(folder, style=style, size=32, counts={"train": 2, "val": 1, "test": 3})


@parametrize_with_checks("avcore-demo", data={f"demo-{style}": partial(render, style=style) for style in ("s4", "ms3")})
def test_conforms(check: Callable[[], None]) -> None:
    check()
