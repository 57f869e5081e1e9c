"""Templates to the files of a distribution."""

import json
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from avcore.errors import AVCoreError, why
from avcore.scaffold.kinds import KINDS
from avcore.scaffold.names import Names

__all__ = ["render", "run_command", "write"]

_SUFFIX = ".in"
"""Of the templates, so that no tool takes them for code."""
_PACKAGE = "PACKAGE"
"""The folder of the package in the templates."""


def render(kind: str, names: Names, *, author: str) -> dict[str, str]:
    """The files of a new distribution, path -> text.

    Args:
        kind: one of `KINDS`.
        names: what it is called.
        author: whom ``pyproject.toml`` names.
    """
    requires = ("avcore>=0.1,<0.2", *KINDS[kind].requires)
    values = {
        "distribution": names.distribution,
        "package": names.package,
        "name": names.name,
        "run": run_command(kind, names),
        # The basic strings of TOML are written as those of JSON.
        "description": json.dumps(KINDS[kind].description),
        "author": json.dumps(author, ensure_ascii=False),
        "tests": json.dumps(["avcore[testing]", *KINDS[kind].tests, "pytest>=8"]),
        "dependencies": "\n".join(f'    "{requirement}",' for requirement in requires),
    }
    texts: dict[str, str] = {}
    for folder in ("common", kind):
        texts.update(_read(files("avcore.scaffold") / "templates" / folder))
    return {path.replace(_PACKAGE, names.package): Template(text).substitute(values) for path, text in texts.items()}


def run_command(kind: str, names: Names) -> str:
    """The command that trains a new plugin on the demo."""
    return "avcore " + Template(KINDS[kind].run).substitute(name=names.name)


def write(texts: Mapping[str, str], folder: Path) -> None:
    """Write files into a folder that is new or empty.

    Raises:
        AVCoreError: the folder holds something, or cannot be written.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise AVCoreError(f"'{folder}' is not empty, and nothing in it is overwritten: name another with --out.")
        for path, text in texts.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8", newline="\n") as opened:
                opened.write(text)
    except OSError as error:
        raise AVCoreError(f"'{error.filename or folder}' cannot be written: {why(error)}.") from error


def _read(folder: Traversable, at: str = "") -> dict[str, str]:
    """The templates below a folder, path without their suffix -> text."""
    texts: dict[str, str] = {}
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            texts.update(_read(entry, f"{at}{entry.name}/"))
        elif entry.name.endswith(_SUFFIX):
            texts[at + entry.name.removesuffix(_SUFFIX)] = entry.read_text(encoding="utf-8")
    return texts
