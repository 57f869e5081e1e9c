"""Every fenced block of code in the README, the documentation and the plugins' READMEs is run or checked.

The blocks of one page run in order, in one temporary directory that begins with a copy of ``examples/``:

* ``bash``: every command is `avcore ...` or ``python examples/...`` and runs, or it is one of `COVERED`, which
  ``.ci/run`` runs itself;
* ``python``: executed; the blocks of a page share their names;
* ``yaml``, ``toml``, ``json``: parsed;
* ``text``: shown, not run.

Some pages begin with files of a person (`PREPARED`): real ones where ``$AVCORE_TEST_DATA`` has them.

The demo has a few clips of each split then; ``make run`` in ``.ci/run`` trains on all of them.

``<!-- not run: reason -->`` on the line above a block excuses it. A block without a language, or with another, is an
error.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from own_videos import own_videos

from avcore_demo.layouts import LAYOUTS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "contract.md"}),  # that one is generated
    *sorted((ROOT / "plugins").glob("*/README.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]

# Performed by .ci/run, directly or through the Makefile; `test_covered_commands_are_performed` looks.
COVERED = (
    "make run",
    "make test",
    "make lint",
    "make docs",
    "make wheels",
    "python3 -m venv .venv",
    ".venv/bin/pip install -r requirements.txt",
    ".venv/bin/avcore run --plugin copl --task avs",
    "avcore run --plugin copl --task avs",
)
# Of the demo's splits; examples/own_loop.py takes ten steps of four clips.
CLIPS = {"train": 40, "val": 6, "test": 6}
PREPARED: dict[str, Callable[[Path], None]] = {"docs/own-clips.md": own_videos}
# What comes before any of it.
PREPARATION = re.compile(r"git clone \S+( \S+)?|cd \S+|(source|\.) \.venv/bin/activate")
# Words alone: what only a shell understands is not run.
RUNNABLE = re.compile(r"(avcore\b|python examples/\w+\.py\b)[^|&;<>$`*~]*")

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
EXCUSE = re.compile(r"<!-- not run: (?P<reason>\S.*?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its first line of code, its language, its text, and why it is not run, if so."""

    line: int
    language: str
    text: str
    excuse: str = ""


def blocks_of(page: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown page in order."""
    lines = page.splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        number += 1
        if not opening:
            continue
        start, indent, fence = number, len(opening["indent"]), opening["fence"]
        while number < len(lines) and not re.fullmatch(rf" *{fence[0]}{{{len(fence)},}} *", lines[number]):
            number += 1
        assert number < len(lines), f"The block that opens at line {start} is never closed."
        above = EXCUSE.fullmatch(lines[start - 2].strip()) if start > 1 else None
        language = opening["info"].strip().partition(" ")[0]
        text = "\n".join(line[min(indent, len(line) - len(line.lstrip())) :] for line in lines[start:number])
        yield Block(start + 1, language, text, above["reason"] if above else "")
        number += 1


def commands_of(text: str) -> list[str]:
    """The commands of a shell block, continued lines joined, comments dropped."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def commands_to_run(text: str) -> list[str]:
    """The commands that a page's test has to run itself.

    Raises:
        AssertionError: a command is neither runnable, nor covered by .ci/run, nor preparation.
    """
    remaining = [command for command in commands_of(text) if command not in COVERED]
    remaining = [command for command in remaining if not PREPARATION.fullmatch(command)]
    for command in remaining:
        assert RUNNABLE.fullmatch(command), f"'{command}' is not run by anything; see {Path(__file__).name}."
    return remaining


@dataclass(frozen=True)
class Forking:
    """Runs commands in processes forked by `forking.py`: importing torch for each of them would take minutes."""

    server: subprocess.Popen[str]
    out: Path

    def run(self, command: str, directory: Path) -> tuple[int, str]:
        """The exit code and what was shown; without a shell, as no page uses more than its words."""
        asked = {"words": shlex.split(command), "cwd": str(directory), "environment": dict(os.environ)}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps({**asked, "out": str(self.out), "clips": CLIPS}) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline()), self.out.read_text()


@pytest.fixture(scope="session")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    command = [sys.executable, str(Path(__file__).with_name("forking.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Forking(server, tmp_path_factory.mktemp("shown") / "text")


Check = Callable[[Block, Path, ModuleType, Forking], object]


def run_shell(block: Block, directory: Path, module: ModuleType, forking: Forking) -> None:
    for command in commands_to_run(block.text):
        code, shown = forking.run(command, directory)
        assert code == 0, f"'{command}' left with {code}:\n{shown}"


def run_python(block: Block, directory: Path, module: ModuleType, forking: Forking) -> None:
    code = compile("\n" * (block.line - 1) + block.text, module.__name__, "exec")
    exec(code, vars(module))


def parse(load: Callable[[str], Any]) -> Check:
    return lambda block, *_: load(block.text)


CHECKS: dict[str, Check] = {
    "bash": run_shell,
    "json": parse(json.loads),
    "python": run_python,
    "text": lambda *_: None,
    "toml": parse(tomllib.loads),
    "yaml": parse(yaml.safe_load),
}


def check_page(page: str, directory: Path, monkeypatch: pytest.MonkeyPatch, forking: Forking) -> None:
    """Run or check the blocks of a page in order."""
    module = ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    monkeypatch.chdir(directory)
    monkeypatch.setattr("avcore_demo.provide.COUNTS", dict.fromkeys(LAYOUTS, CLIPS))
    for block in blocks_of(page):
        if block.excuse:
            continue
        assert block.language in CHECKS, (
            f"line {block.line}: a block of '{block.language}'; known: {', '.join(CHECKS)}."
        )
        CHECKS[block.language](block, directory, module, forking)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_code_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forking: Forking) -> None:
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", tmp_path / "examples")
    if prepare := PREPARED.get(str(page.relative_to(ROOT))):
        prepare(tmp_path)
    check_page(page.read_text(), tmp_path, monkeypatch, forking)


def test_covered_commands_are_performed() -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("VENV", "PYTHON", "MAKEFLAGS", "ARGS")
    }
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", "run", "test", "lint", "docs", "wheels"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    performed = (ROOT / ".ci" / "run").read_text() + made
    assert [command for command in COVERED if command not in performed] == []


# --------------------------------------------------------------------------------------------------------------------
# The mechanism itself


def fenced(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```", ""])


def test_blocks_are_found_with_language_line_and_excuse() -> None:
    page = (
        "# A page\n\n" + fenced("bash", "avcore --help") + "\n<!-- not run: needs a GPU -->\n" + fenced("python", "x")
    )
    assert list(blocks_of(page)) == [
        Block(4, "bash", "avcore --help"),
        Block(9, "python", "x", excuse="needs a GPU"),
    ]


def test_blocks_in_lists_lose_their_indent() -> None:
    page = "1. First\n\n    ```python\n    if True:\n        y = 1\n    ```\n"
    assert [block.text for block in blocks_of(page)] == ["if True:\n    y = 1"]


def test_an_excuse_needs_a_reason() -> None:
    (block,) = blocks_of("<!-- not run:  -->\n" + fenced("bash", "rm -r x"))
    assert block.excuse == ""


def test_a_block_that_never_ends_is_an_error() -> None:
    with pytest.raises(AssertionError, match="line 1"):
        list(blocks_of("```bash\navcore --help\n"))


def test_continued_commands_are_joined_and_covered_ones_left_out() -> None:
    text = "# set-up\nmake run   # four minutes\navcore run \\\n    --task avs\n"
    assert commands_to_run(text) == ["avcore run --task avs"]


@pytest.mark.parametrize(
    "command", ["rm -rf runs", "pip install avcore", "make everything", "avcores", "avcore --help | less"]
)
def test_a_command_that_nothing_runs_is_an_error(command: str) -> None:
    with pytest.raises(AssertionError, match="not run by anything"):
        commands_to_run(command)


def test_a_failing_command_fails_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forking: Forking) -> None:
    with pytest.raises(AssertionError, match="left with"):
        check_page(fenced("bash", "avcore no-such-command"), tmp_path, monkeypatch, forking)


def test_commands_run_in_the_directory_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forking: Forking
) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "write.py").write_text("open('written', 'w').close()")
    check_page(fenced("bash", "python examples/write.py"), tmp_path, monkeypatch, forking)
    assert (tmp_path / "written").exists()


def test_python_blocks_share_names_and_fail_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forking: Forking
) -> None:
    check_page(fenced("python", "x = 2") + fenced("python", "assert x == 2"), tmp_path, monkeypatch, forking)
    with pytest.raises(ZeroDivisionError):
        check_page(fenced("python", "1 / 0"), tmp_path, monkeypatch, forking)


@pytest.mark.parametrize(
    ("language", "text"), [("json", "{"), ("toml", "x ="), ("yaml", "a: [1"), ("", "x"), ("fortran", "x")]
)
def test_malformed_and_unknown_blocks_fail_the_page(
    language: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forking: Forking
) -> None:
    with pytest.raises((AssertionError, ValueError, yaml.YAMLError)):
        check_page(fenced(language, text), tmp_path, monkeypatch, forking)
