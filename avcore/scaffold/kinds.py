"""The kinds of plugins that can be written, and in what their distributions differ beside their code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of plugin.

    Attributes:
        description: one line for ``pyproject.toml``, an example of what the author will write.
        requires: what the code imports or its default run needs, beside avcore.
        tests: what its tests import beside that.
        run: the arguments of ``avcore`` that train it on the demo; ``$name`` is what it is called.
    """

    description: str
    requires: tuple[str, ...]
    tests: tuple[str, ...] = ()
    run: str


def _read() -> dict[str, Kind]:
    # Beside the templates, because what they need and run names plugins, of which the code knows none.
    text = (files("avcore.scaffold") / "templates" / "kinds.json").read_text(encoding="utf-8")
    return {
        name: Kind(
            description=kind["description"],
            requires=tuple(kind["requires"]),
            tests=tuple(kind["tests"]),
            run=kind["run"],
        )
        for name, kind in json.loads(text).items()
    }


KINDS: Mapping[str, Kind] = _read()
"""Name of a kind -> the kind."""
