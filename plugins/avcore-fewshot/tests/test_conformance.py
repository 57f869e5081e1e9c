"""The conformance kit of avcore on this plugin, on a handful of clips in the official layouts."""

from collections.abc import Callable
from pathlib import Path

from ave_files import make_ave
from avel_files import make_avel
from llp_files import make_files

from avcore.testing import parametrize_with_checks


def make_own(root: Path) -> Path:
    for name in ("sawing wood", "Vögel"):
        (root / name).mkdir()
        for number in range(4):
            (root / name / f"clip {number}.mp4").touch()
    return root


FILES = {
    "fewshot-ave": make_ave,
    "fewshot-ave-cls": make_ave,
    "fewshot-llp-cls": make_files,
    "fewshot-own-folders": make_own,
    "vggsound-avel": make_avel,
}
TOY = ["visual.backbone=toy_shared"]


@parametrize_with_checks("avcore-fewshot", data=FILES, sets={"fewshot.words": TOY})
def test_conforms(check: Callable[[], None]) -> None:
    check()
