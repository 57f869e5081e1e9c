"""Settings of tasks and data sets that are options of their own."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from avcore.cli import COMMANDS, main
from avcore.cli.options import ConfigCommand
from avcore.registry import Registry
from avcore.specs import DatasetSpec, TaskSpec
from avcore.testing.checks.config import TAKEN


@dataclass(frozen=True, kw_only=True)
class Own:
    size: int = field(default=1, metadata={"help": "of another task", "option": "N"})
    two_words: str = field(default="", metadata={"help": "words", "option": "TEXT"})
    seed: int = field(default=1, metadata={"help": "not for people", "option": "N"})


@pytest.fixture(autouse=True)
def declared(
    fake_modules: dict[str, Any], make_plugin: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data set ``seg-files`` has ``data.size``, another task ``task_options.size``."""
    own = make_plugin(
        tasks=[TaskSpec(name="own", build="toy.own:Task", config=Own, head="seg.points")],
        datasets=[DatasetSpec(name="own-files", build="toy.own:Files", tasks=("own",))],
    )
    registry = Registry.from_modules({**fake_modules, "toy-own": own})
    monkeypatch.delenv("AVCORE_DATA", raising=False)
    monkeypatch.setattr("avcore.cli.options.load_registry", lambda: registry)


def show(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", "show", "--visual", "toy_tiny", *arguments])


def values(*arguments: str) -> dict[str, Any]:
    return json.loads(show(*arguments, "--json").stdout)  # type: ignore[no-any-return]


def test_it_is_the_set_of_the_setting_of_the_task(tmp_path: Path) -> None:
    given = ("--plugin", "none", "--task", "segment", "--data", str(tmp_path))
    assert values(*given, "--size", "32")["data.size"] == {"value": 32, "layer": "--set data.size=32"}
    assert values(*given, "--size", "32", "--set", "data.size=8")["data.size"]["value"] == 8
    assert values(*given)["data.size"] == {"value": 224, "layer": "default"}
    file = tmp_path / "run.yaml"
    file.write_text("task: own\nmethod: none\n")
    found = values("--config", str(file), "--data", str(tmp_path), "--two-words", "a b")
    assert found["task_options.two_words"]["value"] == "a b"


def test_the_help_says_what_it_is_and_which_tasks_have_it() -> None:
    text = " ".join(show("--help").stdout.split())
    assert "--size PIXELS side of a picture [seg, own]" in text
    assert "--two-words TEXT words [own]" in text
    assert text.count("--seed ") == 1  # avcore's own stays


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--task", "cls", "--size", "3"), "--size: task 'cls' has no such setting. Tasks that have it: seg, own."),
        (("--size", "3"), "--size is another setting in each task: name it, with --task NAME."),
        (("--task", "nothing", "--size", "3"), "Unknown task 'nothing'"),
        (("--sise", "3"), "Unknown option '--sise'. Did you mean '--size'?"),
        (
            ("--task", "seg", "--size", "wide"),
            "'data.size' is 'wide' (--set data.size=wide); it must be a whole number.",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    result = show("--plugin", "none", "--data", str(tmp_path), *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert says in result.stderr


def test_it_stands_in_every_command_of_a_configuration() -> None:
    def commands(command: click.Command) -> list[click.Command]:
        below = command.commands.values() if isinstance(command, click.Group) else ()
        return [command, *(one for sub in below for one in commands(sub))]

    context = click.Context(main)
    found = [one for name in COMMANDS for one in commands(main.get_command(context, name))]  # type: ignore[arg-type]
    configured = {str(one.name) for one in found if isinstance(one, ConfigCommand)}
    assert configured == {"run", "params", "show", "schema", "step", "memory", "data"}
    for command in found:
        if isinstance(command, ConfigCommand):
            own = {name.lstrip("-") for one in command.params for name in (*one.opts, *one.secondary_opts)}
            assert own <= TAKEN
