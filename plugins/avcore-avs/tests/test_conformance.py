"""The conformance kit of avcore on this plugin, on a handful of clips of the demo, which has AVSBench's layouts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from avcore.testing import parametrize_with_checks
from avcore_demo.render import ensure

SMALL = ["head.size=32", "head.width=8", "head.output_widths=[8,4]", "head.projected=[]"]
SETS = {"avs": SMALL, "avs-ms3": SMALL, "avsbench-s4": ["data.size=32"], "avsbench-ms3": ["data.size=32"]}


def render(folder: Path, layout: str) -> Path:
    return ensure(folder, layout=layout, size=32, counts={"train": 2, "val": 1, "test": 3})


DATA = {f"avsbench-{layout}": partial(render, layout=layout) for layout in ("s4", "ms3")}


@parametrize_with_checks("avcore-avs", data=DATA, sets=SETS)
def test_conforms(check: Callable[[], None]) -> None:
    check()
