"""The conformance kit of avcore on this plugin, on a handful of clips in two folders."""

from collections.abc import Callable
from pathlib import Path

from avcore.testing import parametrize_with_checks

SETS = {name: ["visual.backbone=toy_shared"] for name in ("coop.words", "coop.adapter", "coop.conditional")}


def make_own(root: Path) -> Path:
    for name in ("sawing wood", "Vögel"):
        (root / name).mkdir()
        for number in range(4):
            (root / name / f"clip {number}.mp4").touch()
    return root


@parametrize_with_checks("avcore-coop", data={"fewshot-own-folders": make_own}, sets=SETS)
def test_conforms(check: Callable[[], None]) -> None:
    check()
