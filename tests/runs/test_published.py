"""What a recipe says was published is printed by `run`, `eval` and `runs show`, on the published data."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from installed import installed

import avcore
from avcore import MethodSpec, hookimpl
from avcore.cli import main
from avcore.registry import Registry

LINE = ["accuracy", "test", "91.5"]
RECIPE = """\
settings: {visual: {backbone: toy}}
published: [{metric: accuracy, dataset: toy-files, value: 91.5, source: table 2, note: of one seed}]
"""


@pytest.fixture(scope="module")
def world(toy_module: ModuleType, toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The toy world, whose files are said to be a published data set and whose method has a recipe."""
    root = tmp_path_factory.mktemp("recipes")
    recipes = root / "toy_published" / "recipes"
    recipes.mkdir(parents=True)
    (recipes.parent / "__init__.py").touch()
    (recipes / "listen.yaml").write_text(RECIPE)

    class Plugin(toy_module.Plugin):  # type: ignore[name-defined, misc]
        @hookimpl
        def avcore_methods(self) -> list[MethodSpec]:
            return [MethodSpec(name="rowing", prompts=("rows",), recipes="toy_published")]

        @hookimpl
        def avcore_datasets(self) -> list[Any]:
            demo, files = super().avcore_datasets()
            return [demo, replace(files, official={"train": 12, "val": 6, "test": 6})]

    with installed(Registry.from_modules({"toy-world": Plugin()})) as patch:
        patch.syspath_prepend(str(root))
        patch.setenv("AVCORE_CACHE", str(toy_cache))
        patch.delenv("AVCORE_DATA", raising=False)
        yield toy_module


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def invoke(*arguments: Any) -> str:
    done = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_all_commands_print_it_on_the_published_data(
    start: Callable[..., avcore.Run], world: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, part = world.render("listen", tmp_path / "whole"), world.render("listen", tmp_path / "part")
    (part / "test" / "0.wav").unlink()
    run = start(data=whole, epochs=1, quiet=False, seeds=1)
    assert run.results.clips == {"train": 12, "val": 6, "test": 6}
    ours = f"{run.results.metrics['test']['accuracy']:.2f}"
    beside = [*LINE, ours, "toy", "table", "2"]
    assert beside in lines(capsys.readouterr().out)
    assert beside in lines(invoke("runs", "show", run.directory))
    assert beside in lines(invoke("eval", run.directory))
    again = ["--config", run.directory / "config.yaml", "--out", tmp_path / "again"]
    (row,) = json.loads(invoke("run", *again, "--json"))["published"]
    assert row["ours"] == run.results.metrics["test"]["accuracy"]
    (row,) = json.loads(invoke("runs", "show", run.directory, "--json"))["published"]
    assert row["ours"] == run.results.metrics["test"]["accuracy"]
    (row,) = json.loads(invoke("eval", run.directory, "--json"))["published"]
    assert row["source"] == "table 2"
    # Scores on a part of it mean something else.
    assert "91.5" not in invoke("eval", run.directory, "--data", part)
    assert json.loads(invoke("eval", run.directory, "--data", part, "--json"))["published"] == []


def test_none_prints_it_on_a_demo_or_on_a_part(
    start: Callable[..., avcore.Run], world: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = world.render("listen", tmp_path / "part")
    (part / "train" / "0.wav").unlink()
    for options in ({}, {"data": part}):
        run = start(epochs=1, quiet=False, out=tmp_path / f"run{len(options)}", **options)
        assert "91.5" not in capsys.readouterr().out
        assert "91.5" not in invoke("runs", "show", run.directory)
        assert "91.5" not in invoke("eval", run.directory)
    # On weights that were shuffled.
    run = start(data=world.render("listen", tmp_path / "all"), epochs=1, set=["frozen=random"], out=tmp_path / "random")
    assert "91.5" not in invoke("runs", "show", run.directory)
    # Trained on the demo, which is as large, and measured on the published files.
    whole = world.render("listen", tmp_path / "whole")
    assert "91.5" not in invoke("eval", tmp_path / "run0", "--data", whole)


def test_several_seeds_print_it_beside_their_mean(
    start: Callable[..., avcore.Run], world: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(data=world.render("listen", tmp_path / "whole"), epochs=1, quiet=False, seeds=2)
    shown = capsys.readouterr().out
    assert "(n = 2)" in [line for line in shown.splitlines() if line.split()[:3] == LINE][-1]
    assert any(line[:3] == LINE for line in lines(invoke("runs", "show", run.directory)))
