"""Checks of the distribution: its metadata, its files, and what its import touches."""

import ast
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from avcore.hookspecs import ENTRY_POINT_GROUP
from avcore.testing.cases import PackageCase
from avcore.testing.checks import Skipped, check

SLOWEST_MS = 300
"""Of the import of a light module beyond avcore's own, CPU time, ms."""


@check("package", "entry point")
def entry_point(case: PackageCase) -> None:
    """There is one entry point in the group ``avcore.plugins``, and avcore loads it and its records."""
    plugin = case.subject.plugin
    assert plugin.state == "ok", f"{plugin.distribution} is {plugin.state}: {plugin.error}" + (
        f"\n{plugin.traceback}" if plugin.traceback else ""
    )


@check("package", "requirement of avcore")
def requirement_of_avcore(case: PackageCase) -> None:
    """The distribution requires avcore with a lower and an upper bound."""
    distribution = _distribution(case)
    ours = [one for one in map(Requirement, distribution.requires or []) if canonicalize_name(one.name) == "avcore"]
    assert ours, f"{distribution.name} does not require avcore: add 'avcore>=0.1,<0.2' to its dependencies."
    operators = {part.operator for one in ours for part in one.specifier}
    lower, upper = operators & {">=", ">", "==", "~="}, operators & {"<", "<=", "==", "~="}
    assert lower and upper, (  # noqa: PT018 - one message for both
        f"{distribution.name} requires '{ours[0]}': give the versions of avcore that it was made for a lower and an "
        f"upper bound, such as avcore>=0.1,<0.2."
    )


@check("package", "declared dependencies")
def declared_dependencies(case: PackageCase) -> None:
    """Every package that the code imports belongs to a distribution that is required, or to Python itself."""
    distribution = _distribution(case)
    declared = {str(canonicalize_name(Requirement(text).name)) for text in distribution.requires or []}
    declared.add(str(canonicalize_name(distribution.name)))
    package, providers = _package(case), importlib.metadata.packages_distributions()
    installed = {str(canonicalize_name(one.name)) for one in importlib.metadata.distributions() if one.name}
    for file in _sources(package):
        for line, top in _imports(ast.parse(file.read_text(encoding="utf-8"))):
            # Whether avcore itself is required is the affair of another check.
            if top in sys.stdlib_module_names or top in (package.stem, "avcore"):
                continue
            if top not in providers and declared - installed:
                # One that is not installed may well provide it.
                continue
            # An editable install lists no packages.
            found = {str(canonicalize_name(name)) for name in (*providers.get(top, ()), top)}
            assert found & declared, (
                f"{file.name}, line {line}, imports '{top}', and {distribution.name} requires nothing that provides "
                f"it: "
                f"add {' or '.join(sorted(found - {str(canonicalize_name(top))}) or [top])} to its dependencies."
            )


@check("package", "typed")
def typed(case: PackageCase) -> None:
    """The package holds ``py.typed``, so that type checkers read its annotations."""
    package = _package(case)
    assert package.is_dir(), f"{package.name} is a single module: make it a package, with an empty file py.typed in it."
    assert (package / "py.typed").is_file(), (
        f"{package.name} has no py.typed: add the empty file {package.name}/py.typed."
    )


@check("package", "licence")
def licence(case: PackageCase) -> None:
    """The metadata name a licence, and the distribution carries its text."""
    distribution = _distribution(case)
    metadata = distribution.metadata
    named = next((metadata[key] for key in ("License-Expression", "License") if key in metadata), "")
    classified = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    assert named or classified, f"{distribution.name} names no licence: set project.license, such as 'Apache-2.0'."
    assert metadata.get_all("License-File"), (
        f'{distribution.name} carries no licence text: set project.license-files = ["LICENSE"].'
    )


@check("package", "light import")
def light_import(case: PackageCase) -> None:
    """The light module imports neither torch, timm, numpy nor av: they stand in the modules that specs name."""
    heavy = _import_record(case)["heavy"]
    assert not heavy, (
        f"Importing {case.subject.plugin.module} imports {', '.join(heavy)}, and every avcore command would wait for "
        f"it: "
        f"move that code into the module that 'build' names."
    )


@check("package", "import time")
def import_time(case: PackageCase) -> None:
    """The light module is imported within 300 ms of CPU time."""
    if heavy := _import_record(case)["heavy"]:
        raise Skipped(f"It imports {', '.join(heavy)}, which takes longer.")
    # Once more: the first time, Python may have had to compile it.
    took = min(_import_record(case)["ms"], _import_record(case, again=True)["ms"])
    assert took <= SLOWEST_MS, f"Importing {case.subject.plugin.module} takes {took:.0f} ms, more than {SLOWEST_MS} ms."


@check("package", "import without network")
def import_without_network(case: PackageCase) -> None:
    """Importing the light module opens no connection."""
    _nothing(case, "network", "opens connections")


@check("package", "import without files")
def import_without_files(case: PackageCase) -> None:
    """Importing the light module writes, moves and removes no file."""
    _nothing(case, "files", "changes files")


@check("package", "import without processes")
def import_without_processes(case: PackageCase) -> None:
    """Importing the light module starts no process and no thread."""
    _nothing(case, "processes", "starts")


@check("package", "import without traces")
def import_without_traces(case: PackageCase) -> None:
    """Importing the light module changes neither environment, working folder nor path, and draws no random number."""
    _nothing(case, "traces", "changes")


def _nothing(case: PackageCase, what: str, does: str) -> None:
    record = _import_record(case)
    if heavy := record["heavy"]:
        raise Skipped(f"It imports {', '.join(heavy)}, and what they do cannot be told from what it does.")
    found = record[what]
    assert not found, (
        f"Importing {case.subject.plugin.module} {does}: {', '.join(found[:3])}. avcore imports every plugin for every "
        f"command: do this where it is needed, not at import."
    )


# --------------------------------------------------------------------------------------------------------------------
# What is looked at


def _distribution(case: PackageCase) -> importlib.metadata.Distribution:
    if not case.subject.installed:
        raise Skipped("It is a module at hand, which no distribution holds.")
    return importlib.metadata.distribution(case.subject.plugin.distribution)


def _package(case: PackageCase) -> Path:
    """The folder of the package, or the file of a single module."""
    distribution = _distribution(case)
    entries = [entry for entry in distribution.entry_points if entry.group == ENTRY_POINT_GROUP]
    top = entries[0].module.partition(".")[0]
    found = importlib.util.find_spec(top)
    if found is None or found.origin is None:
        raise Skipped(f"The files of '{top}' cannot be found.")
    origin = Path(found.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def _sources(package: Path) -> list[Path]:
    return [package] if package.is_file() else sorted(package.rglob("*.py"))


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and top name of what is imported whatever happens: not for type checkers alone, not in a try."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from _imports(other)
        elif not isinstance(node, ast.Try):
            yield from _imports(node)


def _import_record(case: PackageCase, *, again: bool = False) -> dict[str, Any]:
    _distribution(case)
    entry = case.subject.plugin.module
    if not entry:
        raise Skipped("It has no entry point that could be imported.")
    return _imported(entry.partition(":")[0], tuple(sys.path), again)


@cache
def _imported(module: str, path: tuple[str, ...], again: bool) -> dict[str, Any]:
    """Import a module in a process of its own, and see what that touches."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, module, json.dumps([one for one in path if one])],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise Skipped(f"'{module}' cannot be imported: {done.stderr.strip().splitlines()[-1:]}")
    record: dict[str, Any] = json.loads(lines[-1][len(MARK) :])
    return record


MARK = "avcore-import: "
SCRIPT = f"""
import json, os, random, sys, threading, time
sys.path[:] = [*sys.path, *(one for one in json.loads(sys.argv[2]) if one not in sys.path)]
import avcore.hookspecs, avcore.specs, avcore.config
seen = {{"network": [], "files": [], "processes": [], "traces": []}}
watching = False
def hook(event, args):
    if not watching:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
        seen["network"].append(f"{{event}} {{args[-1]!r}}")
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"):
        seen["processes"].append(event)
    elif event in ("os.putenv", "os.unsetenv"):
        # Whatever the value was before: the process that asks may have imported the plugin already.
        seen["traces"].append(f"os.environ {{args[0]!r}}")
    elif event == "open" and isinstance(args[0], (str, bytes)) and "__pycache__" not in str(args[0]):
        writes = isinstance(args[1], str) and set(args[1]) & set("wax+")
        if writes or (args[1] is None and args[2] & (os.O_WRONLY | os.O_RDWR)):
            if str(args[0]) != os.devnull:
                seen["files"].append(str(args[0]))
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        if "__pycache__" not in str(args[0]):
            seen["files"].append(f"{{event}} {{args[0]}}")
sys.addaudithook(hook)
start_thread = threading.Thread.start
def start_seen(thread):
    seen["processes"].append("a thread")
    start_thread(thread)
threading.Thread.start = start_seen
def traces():
    return {{"the working folder": os.getcwd(), "sys.path": list(sys.path),
            "the state of random": random.getstate(), "sys.argv": list(sys.argv)}}
before, loaded = traces(), set(sys.modules)
watching, start = True, time.process_time()
try:
    __import__(sys.argv[1])
finally:
    took, watching = time.process_time() - start, False
after = traces()
seen["traces"] += [name for name in before if before[name] != after[name]]
seen["heavy"] = [name for name in ("torch", "timm", "numpy", "av") if name in sys.modules and name not in loaded]
seen["ms"] = took * 1000
print("\\n{MARK}" + json.dumps(seen))
"""
