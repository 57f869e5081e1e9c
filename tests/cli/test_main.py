import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from avcore.cli import COMMANDS, main
from avcore.errors import AssemblyError, AVCoreError, ConfigError, DataError, PluginError

HEAVY = ("torch", "numpy", "timm", "av")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], (*HEAVY, "pluggy", "omegaconf", "rich")),
        (["--version"], HEAVY),
        (["plugins", "list"], HEAVY),
        (["plugins", "doctor"], HEAVY),
        (["config", "show", "--help"], HEAVY),
        (["config", "schema"], HEAVY),
        (["runs", "list", "."], HEAVY),
    ],
)
def test_quick_commands_import_nothing_heavy(arguments: list[str], absent: tuple[str, ...]) -> None:
    script = f"""
import sys
from avcore.cli import main
main({arguments!r}, standalone_mode=False)
print("IMPORTED", *sorted(set(sys.modules) & set({absent!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "AVCORE_BLOCK": ""},
    )
    assert done.stdout.splitlines()[-1] == "IMPORTED"


def test_help_names_every_command_with_examples() -> None:
    text = invoke("--help").output
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name} " in text
        assert summary in text
    assert "avcore run --plugin copl --task avs" in text


@pytest.mark.parametrize("target", [target for target, _ in COMMANDS.values()])
def test_every_command_exists(target: str) -> None:
    module, _, name = target.partition(":")
    assert isinstance(getattr(importlib.import_module(module), name), click.Command)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            "plugin list",
            f"Unknown command 'plugin'. Did you mean 'plugins'? Commands: {', '.join(COMMANDS)}. 'avcore --help'",
        ),
        (
            "plugins lst",
            "Unknown command 'lst'. Did you mean 'list'? Commands: check, doctor, list, matrix, new, show. "
            "'avcore plugins --help'",
        ),
        ("plugins list --jsn", "Unknown option '--jsn'. Did you mean '--json'? 'avcore plugins list --help'"),
        ("run --sedes 2", "Unknown option '--sedes'. Did you mean '--seeds'? 'avcore run --help'"),
        ("run --no-basline", "Unknown option '--no-basline'. Did you mean '--no-baseline'? 'avcore run --help'"),
        ("--blok x run", "Unknown option '--blok'. Did you mean '--block'? 'avcore --help'"),
        ("eval", "Give one of the two: RUN, the folder of a run, or --zero-shot with --task. 'avcore eval --help'"),
        ("plugins show", "Missing argument 'NAME'. 'avcore plugins show --help'"),
        ("predict a -xyz.mp4", "Unknown option '-xyz.mp4'. Write './-xyz.mp4' for the file. 'avcore predict --help'"),
        (
            "predict a -hat.webm",
            "Unknown option '-hat.webm'. Write './-hat.webm' for the file. 'avcore predict --help'",
        ),
        ("predict a --x.mp4", "Unknown option '--x.mp4'. Write './--x.mp4' for the file. 'avcore predict --help'"),
        ("predict a b c", "predict takes a RUN and a VIDEO, not 3 paths. 'avcore predict --help'"),
        ("run --seeds 0", "Invalid value for '--seeds': 0 is not in the range x>=1. 'avcore run --help'"),
        ("run --seed", "Option '--seed' requires an argument. 'avcore run --help'"),
    ],
)
def test_wrong_usage_is_one_line(arguments: str, line: str) -> None:
    result = invoke(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"avcore: error: {line} shows how.\n"


@pytest.mark.parametrize("group", ["", "config", "data", "plugins", "runs"])
def test_a_group_alone_shows_its_help(group: str) -> None:
    result = invoke(*group.split())
    assert f"Usage: avcore {group}".rstrip() in result.output
    assert "error" not in result.output


def command_that_raises(error: BaseException) -> Callable[..., click.Command]:
    @click.command()
    def failing() -> None:
        raise error

    return lambda *_: failing


@pytest.mark.parametrize("kind", [AVCoreError, ConfigError, DataError, AssemblyError, PluginError])
def test_errors_of_the_user_are_one_line(kind: type[AVCoreError], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(main), "get_command", command_that_raises(kind("No such\nfile.")))
    result = invoke("run")
    assert (result.exit_code, result.stderr, result.stdout) == (2, "avcore: error: No such file.\n", "")


def test_what_is_logged_is_one_line_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        logging.getLogger("avcore.somewhere").warning("The clip %s is\nodd.", "a")
        logging.getLogger("avcore.somewhere").info("Nobody asked.")

    monkeypatch.setattr(type(main), "get_command", lambda *_: failing)
    for _ in range(2):
        assert invoke("run").stderr == "avcore: warning: The clip a is odd.\n"


def test_it_runs_as_a_module() -> None:
    def python_m(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "avcore", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    shown = python_m("--help")
    assert (shown.returncode, shown.stdout.split("\n")[0]) == (0, invoke("--help").stdout.split("\n")[0])
    wrong = python_m("rnu")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("avcore: error: ")


def test_an_interrupt_leaves_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(main), "get_command", command_that_raises(KeyboardInterrupt()))
    assert invoke("run").exit_code == 130


def test_block_and_strict_reach_the_loader(install_plugin: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin("toy-bad", "1 / 0")
    monkeypatch.setenv("AVCORE_BLOCK", "")
    monkeypatch.setenv("AVCORE_STRICT_PLUGINS", "")
    assert "broken" in invoke("plugins", "list").stdout
    result = invoke("--strict-plugins", "plugins", "list")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "avcore: error: Plugin toy-bad 1.2 is broken: ZeroDivisionError" in result.stderr
    assert "blocked by --block" in invoke("--block", "toy-bad", "plugins", "list").stdout


def test_names_that_are_no_unicode_are_printed(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "config.yaml").touch()
    for environment in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        for arguments, code in (
            (["runs", "list", folder], 0),
            (["runs", "show", folder], 2),
            (["runs", "list", "n" * 300], 2),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "avcore", *map(os.fsencode, arguments)],
                capture_output=True,
                check=False,
                env={**os.environ, **environment},
            )
            assert done.returncode == code, done.stderr
            assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["plugins", "list"], ["--help"], ["--version"]])
def test_output_that_finds_no_room_is_one_line(arguments: list[str], unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "avcore", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.stderr == "avcore: error: Cannot write the output: No space left on device.\n"
    assert done.returncode == 2
