from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Literal

import pytest

from avcore.config import describe
from avcore.config.records import DataConfig, OptimConfig, PlanConfig, TrainConfig
from avcore.config.transforms import AugmentConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Everything:
    """All ways to document a setting.

    Attributes:
        whole: documented
            over two lines.
        number, switch: both of them.
    """

    whole: int = 1
    number: float = 1.0
    switch: bool = False
    text: str = "a"  # a comment
    place: Path | None = None
    choice: Literal["a", "b"] = "a"
    mixed: int | float = field(  # on the first line
        default=0,
        metadata={"help": "metadata first"},
    )
    inner: Inner = field(default_factory=Inner)


def test_settings_describe_themselves() -> None:
    described = {setting.name: setting for setting in describe(Everything)}
    assert described["whole"].help == "documented over two lines."
    assert described["number"].help == described["switch"].help == "both of them."
    assert described["text"].help == "a comment"
    assert described["mixed"].help == "metadata first"
    assert described["choice"].help == ""
    assert described["choice"].type == "one of 'a', 'b'"
    assert described["place"].type == "a path or null"
    assert described["inner"].default == {"depth": 1}


def test_inherited_settings_keep_their_help() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Child(Everything):
        extra: int = 0  # more

    helps = {setting.name: setting.help for setting in describe(Child)}
    assert (helps["extra"], helps["text"]) == ("more", "a comment")


def test_a_class_without_source_has_no_help() -> None:
    (setting,) = describe(make_dataclass("Made", [("length", int, 3)], frozen=True))
    assert (setting.name, setting.default, setting.help) == ("length", 3, "")


@pytest.mark.parametrize("cls", [OptimConfig, TrainConfig, DataConfig, PlanConfig, AugmentConfig])
def test_every_setting_of_the_core_has_help(cls: type) -> None:
    assert [setting.name for setting in describe(cls) if not setting.help] in ([], ["settings"])
