"""Each check of a distribution and of settings is failed by one that is wrong in that one way."""

from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest

from avcore import PromptSpec, TaskSpec
from avcore.errors import AVCoreError
from avcore.testing import checks_for
from avcore.testing.checks import Skipped
from avcore.testing.toys import at_hand

Failing = Callable[..., dict[str, str]]

Make = Callable[..., None]


def failing_package() -> dict[str, str]:
    found = {}
    for check in checks_for("avcore-mine"):
        if check.definition.kind == "package":
            try:
                check()
            except AssertionError as error:
                found[check.definition.name] = str(error)
            except Skipped:
                found[check.definition.name] = "skipped"
    return {name: text for name, text in found.items() if text != "skipped"}


def test_a_sound_package_fails_nothing(make: Make) -> None:
    make()
    assert failing_package() == {}


def broken(**given: Any) -> dict[str, Any]:
    return given


@pytest.mark.parametrize(
    ("given", "check", "says"),
    [
        (broken(without="avcore>=", instead="Requires-Dist: avcore>=0.1\n"), "requirement of avcore", "upper bound"),
        (broken(without="avcore>="), "requirement of avcore", "does not require avcore"),
        (broken(without="torch"), "declared dependencies", "modules.py, line 1, imports 'torch'"),
        (broken(typed=False), "typed", "add the empty file avcore_mine/py.typed"),
        (broken(without="License-Expression"), "licence", "names no licence"),
        (broken(without="License-File"), "licence", "no licence text"),
        (broken(light="import numpy\n", instead="Requires-Dist: numpy\n"), "light import", "imports numpy"),
        (
            broken(light="import time\nstart = time.process_time()\nwhile time.process_time() < start + 0.4: pass\n"),
            "import time",
            "more than 300 ms",
        ),
        (
            broken(light="import socket\nsocket.socket(type=socket.SOCK_DGRAM).connect(('127.0.0.1', 9))\n"),
            "import without network",
            "socket.connect",
        ),
        (
            broken(light="from pathlib import Path\n(Path(__file__).parent / 'seen').write_text('x')\n"),
            "import without files",
            "seen",
        ),
        (
            broken(light="import threading\nthreading.Thread(target=int).start()\n"),
            "import without processes",
            "a thread",
        ),
        (broken(light="import os\nos.environ['MINE'] = '1'\n"), "import without traces", "os.environ"),
        (broken(light="import random\nrandom.random()\n"), "import without traces", "state of random"),
    ],
)
def test_a_broken_package_fails_one_check(
    make: Make, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], check: str, says: str
) -> None:
    monkeypatch.setenv("MINE", "")
    make(**given)
    found = failing_package()
    assert list(found) == [check], found
    assert says in found[check]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (broken(entry="mine = avcore_mine\nother = avcore_mine"), "2 entry points"),
        (broken(light="raise RuntimeError('not today')\n"), "not today"),
        (broken(entry="mine = avcore_mine.nowhere"), "nowhere"),
    ],
)
def test_a_package_that_does_not_load_says_why_and_nothing_else_is_looked_at(
    make: Make, given: dict[str, Any], says: str
) -> None:
    make(**given)
    assert {check.definition.kind for check in checks_for("avcore-mine")} == {"package"}
    assert says in failing_package()["entry point"]


def test_a_distribution_that_is_not_installed_is_named(make: Make) -> None:
    with pytest.raises(AVCoreError, match="avcore-nime"):
        checks_for("avcore-nime")


# --------------------------------------------------------------------------------------------------------------------
# Settings


@dataclass(frozen=True, kw_only=True)
class Sound:
    length: int = 3  # rows of a block
    sides: tuple[int, ...] = field(default=(1, 2), metadata={"help": "of something"})


@dataclass(frozen=True, kw_only=True)
class Silent(Sound):
    width: int = 3


@dataclass(frozen=True, kw_only=True)
class Strange(Sound):
    how: Any = field(default_factory=object, metadata={"help": "no text, no number"})


@dataclass(frozen=True, kw_only=True)
class Changing(Sound):
    def __post_init__(self) -> None:
        object.__setattr__(self, "length", self.length + 1)


@pytest.mark.parametrize(
    ("config", "summary", "check", "says"),
    [
        (Sound, "", "documented", "no summary"),
        (Sound, "one line\nand another", "documented", "several lines"),
        (Silent, "rows", "documented", "width"),
        (Strange, "rows", "settings round trip", "cannot be written"),
        (Changing, "rows", "settings round trip", "'length'"),
    ],
)
def test_broken_settings_fail_one_check(failing: Failing, config: type, summary: str, check: str, says: str) -> None:
    spec = at_hand(PromptSpec, name="mine", thing=None, config=config, summary=summary)
    found = failing("settings", prompts=[spec])
    assert list(found) == [check], found
    assert says in found[check]


def offering(name: str, metavar: object) -> type:
    help_of = {"help": "something", "option": metavar}
    return make_dataclass("Offering", [(name, int, field(default=1, metadata=help_of))], frozen=True, kw_only=True)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (offering("shots", True), "metadata's 'option' is True; it is what help calls the value"),
        (offering("text_audio", "N"), "'avcore run' has one of that name: rename it"),
    ],
)
def test_an_option_that_cannot_be_one_fails_one_check(failing: Failing, config: type, says: str) -> None:
    spec = TaskSpec(name="mine", build="mine:Task", config=config, head="mine", summary="s")
    found = failing("settings", tasks=[spec])
    assert list(found) == ["options"], found
    assert says in found["options"]


def test_options_are_of_tasks_and_data_sets(failing: Failing) -> None:
    config = offering("shots", "N")
    part = at_hand(PromptSpec, name="mine", thing=None, config=config, summary="s")
    assert "only tasks and data sets can" in failing("settings", prompts=[part])["options"]
    task = TaskSpec(name="mine", build="mine:Task", config=config, head="mine", summary="s")
    assert failing("settings", tasks=[task]) == {}


def test_sound_settings_fail_nothing(failing: Failing) -> None:
    assert failing("settings", prompts=[at_hand(PromptSpec, name="mine", thing=None, config=Sound, summary="s")]) == {}
