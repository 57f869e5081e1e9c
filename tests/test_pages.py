"""Pages read well in the repository and on the site: links lead somewhere, the site builds without a warning."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
]
FENCED = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2`*", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)(?P<file>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
MARK = "--8" + "<--"
"""What includes begin with: shown as it is wherever a page is read without mkdocs."""


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def broken_links(page: Path, text: str) -> list[str]:
    """The links of a page that lead to no file, or to no heading of one."""
    found = []
    for link in LINK.finditer(re.sub(r"`[^`\n]*`", "", FENCED.sub("", text))):
        path = (page.parent / link["file"]).resolve() if link["file"] else page
        if not path.exists() or (link["anchor"] and hooks().section_of(path.read_text(), link["anchor"]) is None):
            found.append(link[0][2:-1])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_reads_well_in_the_repository(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert MARK not in text
    assert broken_links(page, text) == []


def test_links_to_nowhere_are_found() -> None:
    page = ROOT / "docs" / "plugins.md"
    text = "[a](contract.md) [b](contract.md#sites) [c](contract.md#no-such-site) [d](gone.md) [e](https://x.y/z)"
    assert broken_links(page, text) == ["contract.md#no-such-site", "gone.md"]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the navigation and every entry of it is a page; links and anchors of the site resolve."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    shown = (tmp_path / "methods" / "lavish" / "index.html").read_text()
    assert "g_av and g are zero at first" in shown  # from the README of the plugin
    assert "README of the plugin" not in shown


PLUGIN = (
    "# A plugin\n\nWhat it is.\n\n## Two words\n\ntext\n\n```bash\n# no heading\n```\n\n### Inner\n\nmore\n\n## Next\n"
)


def test_a_link_alone_becomes_the_section_on_the_site(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PLUGIN)
    source = tmp_path / "docs" / "page.md"
    page = "# Page\n\n[text](../README.md#two-words)\n\nSee [text](../README.md) too.\n"
    assert hooks().with_texts(page, source) == (
        "# Page\n\ntext\n\n```bash\n# no heading\n```\n\n### Inner\n\nmore\n\nSee [text](../README.md) too.\n"
    )
    assert hooks().with_texts("[all](../README.md)", source).startswith("What it is.\n\n## Two words")


def test_a_link_to_a_section_that_is_gone_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(PLUGIN)
    with pytest.raises(ValueError, match="no such section"):
        hooks().with_texts("[text](../README.md#gone)", tmp_path / "docs" / "page.md")
    with pytest.raises(ValueError, match="does not exist"):
        hooks().with_texts("[text](../GONE.md)", tmp_path / "docs" / "page.md")
