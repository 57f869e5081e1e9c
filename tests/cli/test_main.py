import importlib
import os
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from avcore.cli import COMMANDS, main
from avcore.errors import AVCoreError

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


def test_unknown_commands_and_options() -> None:
    result = invoke("plugin", "list")
    assert result.exit_code == 2
    assert result.stderr.startswith("avcore: error: Unknown command 'plugin'. Did you mean 'plugins'?")
    result = invoke("plugins", "list", "--jsn")
    assert result.exit_code == 2
    assert "--json" in result.stderr


def command_that_raises(error: BaseException) -> Callable[..., click.Command]:
    @click.command()
    def failing() -> None:
        raise error

    return lambda *_: failing


def test_errors_of_the_user_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(main), "get_command", command_that_raises(AVCoreError("No such\nfile.")))
    result = invoke("run")
    assert (result.exit_code, result.stderr, result.stdout) == (2, "avcore: error: No such file.\n", "")


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
