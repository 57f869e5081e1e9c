"""The conformance kit of avcore on this plugin, its heads on a handful of clips of the data sets that they are for."""

from collections.abc import Callable
from pathlib import Path

from ave_files import make_ave
from llp_files import make_files

from avcore.testing import parametrize_with_checks
from avcore_demo.render import ensure


def render(folder: Path) -> Path:
    return ensure(folder, layout="s4", size=32, counts={"train": 1, "val": 1, "test": 3})


SETS = {
    "dgsct.fewshot": ["visual.backbone=toy_shared"],
    "dgsct.avs": ["head.size=32", "head.width=8", "head.audio_width=8", "head.output_widths=[8,4]", "data.size=32"],
}


@parametrize_with_checks(
    "avcore-dgsct", data={"ave": make_ave, "fewshot-ave": make_ave, "avsbench-s4": render, "llp": make_files}, sets=SETS
)
def test_conforms(check: Callable[[], None]) -> None:
    check()
