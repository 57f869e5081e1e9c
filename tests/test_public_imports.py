"""What the documentation, the examples, the templates and the first-party plugins import of avcore is promised."""

import ast
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import avcore

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [path for at in ("docs/**/*.md", "plugins/*/README.md", "examples/*/README.md") for path in ROOT.glob(at)]
PAGES.remove(ROOT / "docs" / "contract.md")  # generated: signatures, which import nothing
SOURCES = [path for at in ("plugins/*/src/**/*.py", "examples/**/*.py") for path in ROOT.glob(at)]
TEMPLATES = sorted((ROOT / "avcore" / "scaffold" / "templates").rglob("*.py.in"))
PAGES += sorted((ROOT / "avcore" / "scaffold" / "templates").rglob("*.md.in"))
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
STABLE = (ROOT / "docs" / "stability.md").read_text()


def listed(section: str) -> list[str]:
    return re.findall(r"`([^`]+)`", STABLE.split(f"<!-- {section} -->")[1].split("<!-- end -->")[0])


MODULES = ["avcore", *listed("modules")]
PROMISED = {f"avcore.{name}" for name in listed("names")} | set(listed("functions"))
PROMISED |= {f"{module}.{name}" for module in MODULES[1:] for name in importlib.import_module(module).__all__}


def imported(source: str) -> Iterator[str]:
    """Dotted names of what is imported of avcore, ``import avcore.x`` as the module itself, and read of it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := dotted(node)).startswith("avcore."):
            yield name
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "avcore")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "avcore":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of names alone; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    before = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{before}.{node.attr}" if before and isinstance(node, ast.Attribute) else ""


def is_promised(name: str) -> bool:
    """Whether it is promised, leads to something that is, or is an attribute of it."""
    parts = name.split(".")
    on_the_way = any(one.startswith(f"{name}.") for one in (*PROMISED, *MODULES[1:]))
    return name in MODULES or on_the_way or any(".".join(parts[:n]) in PROMISED for n in range(2, len(parts) + 1))


def broken_promises(source: str) -> list[str]:
    return sorted({name for name in imported(source) if not is_promised(name)})


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_code_imports_what_is_promised(path: Path) -> None:
    assert broken_promises(path.read_text()) == []


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_pages_import_what_is_promised(path: Path) -> None:
    for _, block in BLOCK.findall(path.read_text()):
        assert broken_promises(textwrap.dedent(block)) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=identify)
def test_what_a_new_plugin_imports_is_promised(path: Path) -> None:
    filled = re.sub(r"\$(\{\w+\}|\w+)", "filled", path.read_text())
    assert broken_promises(filled) == []


def test_an_import_that_is_not_promised_is_found() -> None:
    source = """
import avcore
import avcore.runs
import avcore.report.video
avcore.create_model("a").parts
avcore.report.video.write_video("a")
avcore.report.tables.render_table()
import avcore.testing
from avcore import Task, engine
from avcore.config import require, resolve_config
from avcore.specs import PromptSpec
if True:
    from avcore.registry import Registry
"""
    assert broken_promises(source) == [
        "avcore.config.resolve_config",
        "avcore.engine",
        "avcore.registry.Registry",
        "avcore.report.tables",
        "avcore.report.tables.render_table",
        "avcore.runs",
    ]


def test_what_is_promised_is_there() -> None:
    for name in listed("functions"):
        module, _, function = name.rpartition(".")
        assert function in importlib.import_module(module).__all__
    assert {name for name in PROMISED if name.count(".") == 1} == {f"avcore.{name}" for name in avcore.__all__}
