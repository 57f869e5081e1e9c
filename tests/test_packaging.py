"""The distributions agree with each other, with the code in them, and with the files that install and check them."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDERS = [file.parent for file in sorted((ROOT / "plugins").glob("*/pyproject.toml"))]
PROJECTS = {"avcore": ROOT} | {folder.name: folder for folder in FOLDERS}
PLUGINS = [name for name in PROJECTS if name != "avcore"]
# Not installed for working on avcore: .ci/run builds and tests each of them over an environment of wheels.
EXAMPLES = {file.parent.name: file.parent for file in sorted((ROOT / "examples").glob("*/pyproject.toml"))}

# Imported by a module of another distribution that then needs it.
BEHIND = {"torch.utils.tensorboard": "tensorboard"}
# The conformance kit is for tests; it needs the extra of its name.
KIT = ROOT / "avcore" / "testing"
# The extras of what the core imports where it is used only: avcore works without them.
LAZY = ("figures", "hdf5", "slurm")


def pyproject(name: str) -> dict[str, Any]:
    return tomllib.loads((folder(name) / "pyproject.toml").read_text())


def folder(name: str) -> Path:
    return (PROJECTS | EXAMPLES)[name]


def package(name: str) -> Path:
    import_name = name.replace("-", "_")
    return ROOT / "avcore" if name == "avcore" else folder(name) / "src" / import_name


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(made.name): made for made in map(Requirement, lines)}


def imports(files: Iterable[Path]) -> set[str]:
    """Every dotted name that files of Python import absolutely, at the top or inside functions."""
    found: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def lazy() -> set[str]:
    return set().union(*(of_extra(extra) for extra in LAZY))


def of_extra(extra: str) -> set[str]:
    return set(requirements(pyproject("avcore")["project"]["optional-dependencies"][extra]))


@cache
def providers() -> Mapping[str, list[str]]:
    """The distributions that provide each importable name; reading all that is installed takes a while."""
    return packages_distributions()


def imported_distributions(name: str, files: Iterable[Path]) -> set[str]:
    """The distributions that files of a distribution import."""
    installed = providers()
    found: set[str] = set()
    for dotted in imports(files):
        top = dotted.partition(".")[0]
        if top in sys.stdlib_module_names or top == package(name).name:
            continue
        found |= {dist for prefix, dist in BEHIND.items() if f"{dotted}.".startswith(f"{prefix}.")}
        if top.replace("_", "-") in PROJECTS:
            found.add(top.replace("_", "-"))
        else:
            assert top in installed, f"{name} imports {dotted}, which no installed distribution provides"
            found.add(canonicalize_name(installed[top][0]))
    return found


# Parts of other distributions that a method lists by their names.
LISTED = {"avcore-mbt": {"avcore-baselines"}}


@pytest.mark.parametrize("name", PROJECTS)
def test_declared_dependencies_are_those_that_the_code_imports(name: str) -> None:
    declared = set(requirements(pyproject(name)["project"]["dependencies"]))
    files = [file for file in package(name).rglob("*.py") if not file.is_relative_to(KIT)]
    imported = imported_distributions(name, files) - (lazy() if name == "avcore" else set())
    assert sorted(imported - declared) == [], "imported, not declared"
    assert sorted(declared - imported) == sorted(LISTED.get(name, ())), "declared, neither imported nor listed"


def test_what_an_extra_brings_is_imported_where_it_is_used_and_named_where_it_is_missing() -> None:
    importing: dict[str, list[Path]] = {}
    for file in package("avcore").rglob("*.py"):
        for found in imported_distributions("avcore", [file]) & lazy():
            importing.setdefault(found, []).append(file)
    assert importing.keys() == lazy(), "declared, not imported"
    for needed, file in {(needed, file) for needed, files in importing.items() for file in files}:
        tops = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        named = {alias.name for node in tops for alias in node.names}
        assert not named & lazy(), f"{file} imports it at the top"
        (extra,) = [extra for extra in LAZY if needed in of_extra(extra)]
        assert f"pip install 'avcore[{extra}]'" in file.read_text().replace("\\", "")


def test_the_conformance_kit_needs_its_extra_only() -> None:
    project = pyproject("avcore")["project"]
    declared = set(requirements(project["dependencies"])) | set(
        requirements(project["optional-dependencies"]["testing"])
    )
    assert sorted(imported_distributions("avcore", KIT.rglob("*.py")) - declared) == []


def test_one_version() -> None:
    versions = {name: pyproject(name)["project"]["version"] for name in (*PROJECTS, *EXAMPLES)}
    assert len(set(versions.values())) == 1, versions


@pytest.mark.parametrize("name", [*PLUGINS, *EXAMPLES])
def test_plugins_accept_this_version_and_not_the_next_minor(name: str) -> None:
    version = Version(pyproject("avcore")["project"]["version"])
    following = Version(f"{version.major}.{version.minor + 1}.0")
    needed = requirements(pyproject(name)["project"]["dependencies"])
    assert "avcore" in needed
    for other in PROJECTS.keys() & needed.keys():
        assert needed[other].specifier.contains(version)
        assert not needed[other].specifier.contains(following)


@pytest.mark.parametrize("name", [*PROJECTS, *EXAMPLES])
def test_a_distribution_is_complete(name: str) -> None:
    project = pyproject(name)["project"]
    assert project["name"] == name
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == pyproject("avcore")["project"]["requires-python"]
    assert project["description"]
    assert project["readme"] == "README.md"
    assert (folder(name) / "README.md").read_text().startswith(f"# {name}")
    assert (folder(name) / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (package(name) / "py.typed").exists()
    assert (package(name) / "__init__.py").exists()
    if name == "avcore":
        assert project["scripts"] == {"avcore": "avcore.cli:main"}
    else:
        entry = name.removeprefix("avcore-")
        assert project["entry-points"] == {"avcore.plugins": {entry: package(name).name}}


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_holds_every_file_of_the_package(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=PROJECTS[name], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {file for file in package(name).rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert sorted({str(file.relative_to(package(name).parent)) for file in files} - held) == []
    tops = {top for top in (entry.partition("/")[0] for entry in held) if not top.endswith(".dist-info")}
    assert tops == {package(name).name}


def test_files_that_list_the_plugins_list_all_of_them() -> None:
    root = pyproject("avcore")
    packages = sorted(package(name).name for name in PROJECTS)
    examples = [package(name) for name in EXAMPLES]
    plugin_packages = [package(name).name for name in PLUGINS]
    contracts = {contract["type"]: contract for contract in root["tool"]["importlinter"]["contracts"]}
    installed = (ROOT / "requirements.txt").read_text().splitlines()

    assert root["project"]["optional-dependencies"]["all"] == PLUGINS
    assert sorted(root["tool"]["mypy"]["packages"]) == sorted([*packages, *(found.name for found in examples)])
    assert root["tool"]["mypy"]["mypy_path"] == [str(found.parent.relative_to(ROOT)) for found in examples]
    assert sorted(root["tool"]["importlinter"]["root_packages"]) == packages
    assert sorted(contracts["forbidden"]["forbidden_modules"]) == sorted(plugin_packages)
    assert {f"-e plugins/{name}" for name in PLUGINS} <= set(installed)
    assert "plugins/*/tests" in root["tool"]["pytest"]["ini_options"]["testpaths"]


def test_constraints_pin_every_direct_dependency_within_its_range() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    pins = {canonicalize_name(pinned): Version(version) for pinned, version in (line.split("==") for line in lines)}
    extra = pyproject("avcore")["project"]["optional-dependencies"]["dev"]
    further = [line for one in LAZY for line in pyproject("avcore")["project"]["optional-dependencies"][one]]
    declared = [pyproject(name)["project"]["dependencies"] for name in PROJECTS] + [extra, further]
    for needed in (made for group in declared for made in requirements(group).items()):
        if needed[0] not in PROJECTS:
            assert needed[0] in pins, f"{needed[0]} is not pinned in constraints.txt"
            assert needed[1].specifier.contains(pins[needed[0]]), f"{needed[1]} does not allow {pins[needed[0]]}"
