"""What is written for each kind. `.ci/scaffolds` installs, tests, type-checks and trains all of it from wheels."""

import ast
import errno
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement

import avcore_avs
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.discovery import declarations
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.scaffold import KINDS, LONGEST, Names, make_names, render, run_command, write
from avcore.testing.backbones import ToyBackbones

ROOT = Path(__file__).parents[2]
NAMES = make_names("fresh-thing")
# What a kind declares: what `avcore_<kind>` returns, and the names.
OFFERS = {
    "prompt": {"prompts": ["fresh_thing"]},
    "fusion": {"fusions": ["fresh_thing"]},
    "backbone": {"backbones": ["fresh_thing"]},
    "head": {"heads": ["fresh_thing"]},
    "task": {
        "heads": ["fresh_thing.linear"],
        "tasks": ["fresh_thing"],
        "datasets": ["fresh_thing-files", "fresh_thing-demo"],
    },
    "dataset": {"datasets": ["fresh_thing"]},
    "method": {
        "prompts": ["fresh_thing.rows"],
        "fusions": ["fresh_thing.exchange"],
        "methods": ["fresh_thing"],
    },
}


def made(kind: str, names: Names = NAMES) -> dict[str, str]:
    return render(kind, names, author="Ada Lovelace")


def python_files(texts: Mapping[str, str], below: str = "") -> dict[str, str]:
    return {path: text for path, text in texts.items() if path.endswith(".py") and path.startswith(below)}


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, ModuleType]]:
    """Kind -> the light module of a plugin of that kind, on the path as if it were installed."""
    modules = {}
    for kind in KINDS:
        names = make_names(f"scaffolded-{kind}")
        write(render(kind, names, author="Ada"), tmp_path / kind)
        monkeypatch.syspath_prepend(str(tmp_path / kind / "src"))
        modules[kind] = importlib.import_module(names.package)
    yield modules
    for name in [name for name in sys.modules if name.startswith("avcore_scaffolded_")]:
        del sys.modules[name]


def test_there_is_a_declaration_to_check_for_every_kind() -> None:
    assert list(OFFERS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_distribution_is_complete(kind: str) -> None:
    texts = made(kind)
    assert {
        ".github/workflows/test.yml",
        ".gitignore",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "src/avcore_fresh_thing/__init__.py",
        "src/avcore_fresh_thing/py.typed",
        "tests/test_conformance.py",
    } <= set(texts)
    assert len(python_files(texts, "tests/")) >= 2
    assert texts["LICENSE"] == (ROOT / "LICENSE").read_text()
    assert run_command(kind, NAMES) in texts["README.md"]
    assert '"avcore-fresh-thing"' in texts["tests/test_conformance.py"]
    steps = yaml.safe_load(texts[".github/workflows/test.yml"])["jobs"]["test"]["steps"]
    assert {"pytest", "mypy"} <= {step.get("run") for step in steps}


@pytest.mark.parametrize("kind", KINDS)
def test_no_placeholder_is_left(kind: str) -> None:
    for path, text in made(kind).items():
        left = re.findall(r"\$\S*|PACKAGE\b", text)
        allowed = ["${{"] if path.endswith(".yml") else []
        assert left == allowed, path
        assert "PACKAGE" not in path


@pytest.mark.parametrize("kind", KINDS)
def test_the_project_is_described(kind: str) -> None:
    project = tomllib.loads(render(kind, NAMES, author='Ada "Countess" Lovelace \\ Łódź')["pyproject.toml"])
    assert project["project"]["name"] == "avcore-fresh-thing"
    assert project["project"]["authors"] == [{"name": 'Ada "Countess" Lovelace \\ Łódź'}]
    assert project["project"]["entry-points"] == {"avcore.plugins": {"fresh_thing": "avcore_fresh_thing"}}
    core, *others = map(Requirement, project["project"]["dependencies"])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert core.name == "avcore"
    assert core.specifier.contains(version)
    assert "torch" in {other.name for other in others}


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_declares_what_it_says(kind: str, imported: Mapping[str, ModuleType]) -> None:
    name = f"scaffolded_{kind}"
    found = {hook: [spec.name for spec in specs] for hook, specs in declarations(imported[kind]).items()}
    expected = {hook: [text.replace("fresh_thing", name) for text in texts] for hook, texts in OFFERS[kind].items()}
    assert found == expected
    for specs in declarations(imported[kind]).values():
        for spec in specs:
            assert spec.build == "" or spec.load() is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_light_module_imports_nothing_heavy(kind: str) -> None:
    (light,) = [text for path, text in made(kind).items() if path == "src/avcore_fresh_thing/__init__.py"]
    nodes = list(ast.walk(ast.parse(light)))
    tops = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    tops |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert tops <= {"avcore", "avcore_fresh_thing", "collections", "dataclasses", "typing"}


def test_a_prompt_is_at_most_60_lines_of_code() -> None:
    lines = [line for text in python_files(made("prompt"), "src/").values() for line in text.splitlines()]
    assert len(lines) <= 60


@pytest.mark.parametrize("name", ["a", "a-name-that-is-as-long-as-can-be"])
def test_the_code_has_the_style_of_its_own_configuration(name: str, tmp_path: Path) -> None:
    assert len(name) in (1, LONGEST)
    for kind in KINDS:
        write(made(kind, make_names(name)), tmp_path / kind)
    for command in (["check"], ["format", "--check", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", str(tmp_path)]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def assembled(registry: Registry, **given: str | list[str]) -> AVModel:
    options = {"task": "avs", "visual": "toy_plain", **given}
    return assemble(resolve_config(registry, need_data=False, **options).config, registry, meta=True)  # type: ignore[arg-type]


def test_parts_heads_and_backbones_assemble_together(imported: Mapping[str, ModuleType]) -> None:
    registry = Registry.from_modules({"toys": ToyBackbones(), "avcore-avs": avcore_avs, **imported})
    model = assembled(registry, method="scaffolded_method", sets=["head.name=scaffolded_head"])
    assert list(model.parts) == [
        "scaffolded_method.rows.visual",
        "scaffolded_method.rows.audio",
        "scaffolded_method.exchange",
    ]
    mixed = assembled(
        registry,
        prompts="scaffolded_prompt",
        fusions="scaffolded_fusion",
        visual="scaffolded_backbone_tiny",
        audio="toy_windowed",
        sets=["audio.frames=32"],
    )
    assert {part.name for part in mixed.instances} == {"scaffolded_prompt", "scaffolded_fusion"}
    model = assembled(registry, task="scaffolded_task", prompts="none", fusions="none")
    assert type(model.task).__name__ == "Classes"


def test_files_are_written_into_a_new_or_an_empty_folder_only(tmp_path: Path) -> None:
    write({"a/b.txt": "new"}, tmp_path / "made" / "here")
    assert (tmp_path / "made" / "here" / "a" / "b.txt").read_text() == "new"
    (tmp_path / "empty").mkdir()
    write({"b.txt": "new"}, tmp_path / "empty")
    with pytest.raises(AVCoreError, match="is not empty"):
        write({"b.txt": "newer", "c.txt": "newer"}, tmp_path / "empty")
    assert [file.name for file in (tmp_path / "empty").iterdir()] == ["b.txt"]
    assert (tmp_path / "empty" / "b.txt").read_text() == "new"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(AVCoreError, match="cannot be written: "):
            write({"a.txt": "new"}, place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_that_names_no_file_is_told_by_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(AVCoreError) as caught:
        write({"b.txt": "new"}, tmp_path / "new")
    assert str(caught.value) == f"'{tmp_path / 'new'}' cannot be written: No space left on device."
