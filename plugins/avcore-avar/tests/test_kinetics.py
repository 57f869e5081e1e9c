"""The lists of Kinetics-Sounds: indices, classes, and what is held out as val."""

from pathlib import Path

from avcore.testing.golden import real_data
from avcore_avar.classes import LISTS
from avcore_avar.config import AVARTaskConfig, KineticsSoundsConfig
from avcore_avar.kinetics import KineticsSounds
from avcore_avar.kinetics_lists import settings_in
from avcore_avar.task import AVARTask


def reader(root: Path, *, task: AVARTask | None = None, **settings: object) -> KineticsSounds:
    return KineticsSounds(KineticsSoundsConfig(**settings), root, task)


def test_the_lists_of_classes() -> None:
    assert [len(names) for names in LISTS.values()] == [31, 32, 34]
    assert all(names == tuple(sorted(set(names))) for names in LISTS.values())
    assert set(LISTS["ks-32"]) - set(LISTS["ks-31"]) == {"strumming_guitar"}
    assert AVARTaskConfig(classes=("ks-32",)).classes == LISTS["ks-32"]


def test_small_real_files() -> None:
    root = real_data("mini", "KS")
    names = settings_in(root)["task_options.classes"]
    assert names[:3] == ["bird", "cat", "cattle"]
    data = reader(root, task=AVARTask(AVARTaskConfig(classes=tuple(names))))
    sizes = {split: len(data.clips(split)) for split in data.splits}
    assert sizes == {"train": 81, "val": 9, "test": 45}
    clip = data.clips("test")[0]
    assert (clip.name, clip.group, int(data.target(clip)["label"])) == ("9t1xO5ubnJ0_000280_000290", "frog", 4)
    assert clip.frames.is_file()
