"""What a broken plugin fails."""

import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sound_world import write

from avcore.testing.cases import PartCase
from avcore.testing.cases.parts import PLAIN
from avcore.testing.checks import Skipped
from avcore.testing.conformance import checks_of
from avcore.testing.subject import Subject

Failing = Callable[..., dict[str, str]]

LIGHT = """
    from avcore.hookspecs import hookimpl
    from avcore.specs import PromptSpec

    @hookimpl
    def avcore_prompts():
        return [PromptSpec(name="mine", build="avcore_mine.modules:Mine", summary="something")]
    """
METADATA = """\
Metadata-Version: 2.4
Name: avcore-mine
Version: 1.2
License-Expression: MIT
License-File: LICENSE
Requires-Dist: avcore>=0.1,<9
Requires-Dist: torch
"""

# Each takes longer than all others together.
SLOW = frozenset({"compile", "meta device", "layout without weights"})


@pytest.fixture(scope="session")
def failing(make_plugin: Callable[..., SimpleNamespace]) -> Failing:
    """``failing("part", prompts=[spec])`` runs the checks of a kind on a plugin that declares these.

    It returns the name of each check that fails with what it says. Slow ones run where ``slow`` names them; parts are
    tried on one plain backbone, or ``everywhere``.
    """

    def run(
        kind: str,
        *,
        slow: Iterable[str] = (),
        everywhere: bool = False,
        data: Mapping[str, Any] | None = None,
        sets: Mapping[str, Any] | None = None,
        **declared: list[Any],
    ) -> dict[str, str]:
        subject = Subject.of_module(make_plugin(**declared), "broken", data=data or {}, sets=sets or {})
        found = {}
        for check in checks_of(subject):
            name, case = check.definition.name, check.case
            if check.definition.kind != kind or name in SLOW - set(slow):
                continue
            if isinstance(case, PartCase) and not everywhere:
                # Shares the models that the case has made.
                case = replace(case, classes=(PLAIN,))
            with contextlib.suppress(Skipped):
                try:
                    check.definition.function(case)
                except AssertionError as error:
                    found[name] = str(error)
        return found

    return run


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a sound distribution ``avcore-mine`` on the path, but for what is given."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(
        light: str = "",
        *,
        offers: str = LIGHT,
        typed: bool = True,
        modules: str = "import torch\n",
        entry: str = "mine = avcore_mine",
        without: str = "",
        instead: str = "",
    ) -> None:
        package, info = tmp_path / "avcore_mine", tmp_path / "avcore_mine-1.2.dist-info"
        package.mkdir()
        info.mkdir()
        (package / "__init__.py").write_text(textwrap.dedent(light) + textwrap.dedent(offers))
        (package / "modules.py").write_text(modules)
        if typed:
            (package / "py.typed").touch()
        lines = [line for line in METADATA.splitlines(keepends=True) if not without or without not in line]
        (info / "METADATA").write_text("".join(lines) + instead)
        (info / "entry_points.txt").write_text(f"[avcore.plugins]\n{entry}\n")
        (info / "RECORD").write_text("avcore_mine/__init__.py,,\navcore_mine/modules.py,,\n")

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "avcore_mine"]:
        del sys.modules[name]


@pytest.fixture
def world_files(tmp_path: Path) -> Path:
    """The clips of `sound_world`."""
    return write(tmp_path)


@pytest.fixture
def failing_of_all(failing: Failing, world_files: Path) -> Failing:
    """What a world fails of the checks of heads, tasks and data sets: ``head: NAME`` to what it says."""

    def run(**declared: list[Any]) -> dict[str, str]:
        kinds = ("head", "task", "data set")
        found = [(kind, failing(kind, data={"files": world_files}, **declared)) for kind in kinds]
        return {f"{kind}: {name}": text for kind, failed in found for name, text in failed.items()}

    return run
