"""VGGSound-AVEL: a table of clips with a label for each second."""

from pathlib import Path
from typing import Any

import pytest
from avel_files import TABLE, make_avel

import avcore_avar
import avcore_ave
import avcore_avvp
import avcore_fewshot
from avcore.config import resolve_config
from avcore.errors import DataError
from avcore.registry import Registry
from avcore.specs import ClipSettings
from avcore.testing.backbones import ToyBackbones
from avcore.testing.texts import ToyTexts
from avcore_ave.config import AVETaskConfig
from avcore_ave.task import AVETask
from avcore_fewshot.avel import VGGSoundAVEL

MODULES = {"ave": avcore_ave, "avar": avcore_avar, "avvp": avcore_avvp, "few": avcore_fewshot}
REGISTRY = Registry.from_modules({**MODULES, "toys": ToyBackbones(), "texts": ToyTexts()})


def opened(root: Path, **given: Any) -> VGGSoundAVEL:
    return VGGSoundAVEL(ClipSettings(**given), root)


def test_labels_of_seconds(tmp_path: Path) -> None:
    reader = opened(make_avel(tmp_path))
    assert reader.classes == ("singing, choir", "barking", "rain")  # as listed
    assert [clip.name for clip in reader.clips("train")] == ["000007", "abc_000030"]
    first = reader.clips("train")[0]
    assert (first.frames, first.group) == (tmp_path / "videos" / "000007.mp4", "barking")
    assert reader.target(first)["labels"].tolist() == [1, 1, 3, 1, 3, 3, 3, 3, 3, 3]
    assert [len(reader.clips(split)) for split in ("val", "test")] == [1, 1]
    (tmp_path / "VggsoundAVEL40kCategories.txt").unlink()
    assert opened(tmp_path).classes == ("barking", "singing, choir")


@pytest.mark.parametrize("task", ["fewshot-ave", "ave"])
def test_it_is_known_by_its_table(task: str, tmp_path: Path) -> None:
    given = {"prompts": "none", "fusions": "none", "visual": "toy_shared", "data": make_avel(tmp_path)}
    text = None if task == "ave" else "toy_text"
    config = resolve_config(REGISTRY, task=task, text=text, **given).config  # type: ignore[arg-type]
    assert config.data.dataset == "vggsound-avel"
    assert config.task_options.classes == ("singing, choir", "barking", "rain")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("label,split", "labels,split", r"line 1 names no column 'label'"),
        ("[0, 0,", "[2, 0,", r"line 3 has the label '\[2, 0, .*' ?, which is no list of 0 and 1"),
        ("[1, 1, 0, 1, 0,", "[1, 1,", r"line 2 has 7 labels, and data.segments is 10"),
        (",val", ",dev", r"line 4 has the split 'dev', which is none of train, val, test"),
        ("abc_000030", "7", r"line 3 lists '000007' again, which stands in line 2"),
        ("barking,7", "bark,7", r"line 2 has the class 'bark', which 'VggsoundAVEL40kCategories.txt' lacks"),
        ('"singing, choir",abc', "singing, choir,abc", r"line 3 has 5 cells for 4 columns; a list stands in double"),
        (",abc_000030", ",", r"line 3 names no clip or no class"),
        ('0]",train', "0],train", r"line 2 is no row of category, video_id, label, split \(unexpected end of data\)"),
        (TABLE[TABLE.index("\n") :], "", r"lists no clip"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, says: str, tmp_path: Path) -> None:
    make_avel(tmp_path, TABLE.replace(old, new, 1))
    with pytest.raises(DataError, match=says):
        opened(tmp_path)


def test_numbers_with_a_point_and_further_columns(tmp_path: Path) -> None:
    """As they are where a spreadsheet or pandas wrote the table."""
    table = 'index,split,label,video_id,category\n0,train,"[1.0, 0.0]",17.0,rain\n'
    reader = opened(make_avel(tmp_path, table), segments=2)
    assert [clip.name for clip in reader.clips("train")] == ["000017"]
    assert reader.target(reader.clips("train")[0])["labels"].tolist() == [2, 3]


def test_a_class_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    (make_avel(tmp_path) / "VggsoundAVEL40kCategories.txt").write_text("singing, choir\nbarking\nbarking\n")
    with pytest.raises(DataError, match=r"Categories\.txt' must name each class once"):
        opened(tmp_path)


def test_other_classes_and_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no vggsound-avel\*.csv: --data names a folder with one"):
        opened(tmp_path)
    make_avel(tmp_path)
    task = AVETask(AVETaskConfig(classes=("a", "b")))
    with pytest.raises(DataError, match=r"has 3 classes, and task_options\.classes 2 others"):
        VGGSoundAVEL(ClipSettings(), tmp_path, task)
    with pytest.raises(DataError, match="no split 'dev'"):
        opened(tmp_path).clips("dev")
    (tmp_path / "vggsound-avel100k.csv").touch()
    with pytest.raises(DataError, match=r"several of vggsound-avel\*.csv"):
        opened(tmp_path)
