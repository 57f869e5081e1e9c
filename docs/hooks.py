"""Called by mkdocs: the site shows what the pages link to outside ``docs/``, the READMEs of plugins and the changelog.

Read in the repository such a page has a link, alone in its paragraph, to a file or to a section of one. On the site the
text stands in its place, so that it is written once.
"""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"^\[[^\]\n]+\]\((?P<file>(?:\.\./)+[^)#\s]+\.md)(?:#(?P<section>[^)\s]+))?\)$", re.MULTILINE)
FENCE = re.compile(r"^ *(?:```|~~~)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put texts in the place of the links."""
    return with_texts(markdown, Path(page.file.abs_src_path))


def with_texts(markdown: str, source: Path) -> str:
    """A page with the texts that it links to.

    Args:
        markdown: the page.
        source: where it lies; links are relative to it.

    Raises:
        ValueError: there is no such file or section.
    """

    def text(link: re.Match[str]) -> str:
        path = (source.parent / link["file"]).resolve()
        if not path.is_file():
            raise ValueError(f"{source} links to {link['file']}, which does not exist.")
        found = section_of(path.read_text(encoding="utf-8"), link["section"])
        if found is None:
            raise ValueError(f"{source} links to '#{link['section']}' of {link['file']}, which has no such section.")
        return found

    return LINK.sub(text, markdown)


def section_of(markdown: str, anchor: str | None) -> str | None:
    """What stands below a heading, by GitHub's name for it; below the title without a name. None if it is not there."""
    found: list[str] | None = None
    level, fenced = 0, False
    for line in markdown.splitlines():
        fenced ^= bool(FENCE.match(line))
        heading = None if fenced else re.match(r"(#+) (.+)", line)
        if heading and found is None and anchor in (None, anchor_of(heading[2])):
            found, level = [], len(heading[1])
        elif heading and found is not None and len(heading[1]) <= level:
            break
        elif found is not None:
            found.append(line)
    return None if found is None else "\n".join(found).strip()


def anchor_of(heading: str) -> str:
    """GitHub's name for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
