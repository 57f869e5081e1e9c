"""The settings of a configuration dataclass, as shown to people."""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from dataclasses import dataclass
from functools import cache
from typing import Any

from avcore.config.leaves import plain
from avcore.config.settings import check_default, expected, field_types

__all__ = ["Setting", "describe"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a configuration dataclass, as shown to people."""

    name: str
    type: str
    default: Any
    help: str


def describe(cls: type) -> list[Setting]:
    """The fields of a configuration dataclass with their defaults and help.

    The help of a field is the first of these: ``field(metadata={"help": ...})``; a comment behind it on the same line
    (``length: int = 10  # rows per block``); its entry under ``Attributes:`` in the docstring of the class.
    """
    kinds = field_types(cls)
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            texts.update(_attributes(base))
            texts.update(_comments(base))
    listed = []
    for entry in dataclasses.fields(cls):
        if entry.init:
            default = entry.default
            if entry.default_factory is not dataclasses.MISSING:
                default = entry.default_factory()
            if default is not dataclasses.MISSING:
                check_default(cls, entry.name, kinds[entry.name], default)
            listed.append(
                Setting(
                    name=entry.name,
                    type=expected(kinds[entry.name]),
                    default=None if default is dataclasses.MISSING else plain(default),
                    help=entry.metadata.get("help") or texts.get(entry.name, ""),
                )
            )
    return listed


def _attributes(cls: type) -> dict[str, str]:
    """Field -> its entry under ``Attributes:`` of the docstring; ``a, b: text`` speaks of both."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    if "Attributes:" not in lines:
        return {}
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Attributes:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = re.match(r"    ([\w, ]+): (.*)", line)
        if entry:
            names = [name.strip() for name in entry[1].split(",")]
        for name in names:
            found[name] = entry[2] if entry else f"{found[name]} {line.strip()}".strip()
    return found


@cache  # to find and read a source takes hundredths of a second
def _comments(cls: type) -> dict[str, str]:
    """Field -> the comments on the lines of its definition. Empty for a class made without source."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    by_line = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    definition = ast.parse(source).body[0]
    found: dict[str, str] = {}
    for node in definition.body if isinstance(definition, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            text = " ".join(by_line[line] for line in lines if line in by_line)
            if text and not text.startswith(("type:", "noqa")):
                found[node.target.id] = text
    return found
