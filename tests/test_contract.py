"""The contract of plugins is frozen: what `contract.json` lists keeps its name, its place and its arguments.

``python tests/test_contract.py`` writes the file anew; what the difference takes away or changes has to be deprecated
for two minor releases before.
"""

import dataclasses
import inspect
import json
import re
from enum import EnumMeta
from pathlib import Path
from typing import Any

import pytest

from avcore import backbones, compat, errors, hookspecs, injection, modules, specs, states, tasks, testing
from avcore.data import recordings

FILE = Path(__file__).with_name("contract.json")
AUTHORS = (backbones, compat, recordings, errors, hookspecs, injection, modules, specs, states, tasks, testing)
"""The modules whose names authors of plugins may count on."""
CLASSES = [
    *(getattr(injection, name) for name in ("Edit", "Edits", "PairLayout", "Part", "Prompt", "PromptLayer")),
    *(
        getattr(injection, name)
        for name in ("Fusion", "FusionLayer", "StreamView", "BlockView", "SideView", "PairView")
    ),
    *(getattr(backbones, name) for name in ("Backbone", "Tower", "TextTower", "Block")),
    *(value for name in specs.__all__ if inspect.isclass(value := getattr(specs, name))),
    *(value for name in tasks.__all__ if inspect.isclass(value := getattr(tasks, name))),
    recordings.Recording,
    recordings.Recordings,
]


def signature(function: Any) -> str:
    """Names of the arguments, with ``*`` and ``=`` where they are keyword-only and have a default; no types."""
    made = []
    parameters = list(inspect.signature(function).parameters.values())
    for place, one in enumerate(parameters):
        if one.kind is one.KEYWORD_ONLY and (place == 0 or parameters[place - 1].kind is not one.KEYWORD_ONLY):
            made.append("*")
        made.append(one.name if one.default is one.empty else f"{one.name}=")
    return f"({', '.join(made)})"


def members(kind: type) -> dict[str, str]:
    """Public attributes of a class: fields, methods with their arguments, properties, values of an enumeration."""
    if isinstance(kind, EnumMeta):
        return dict.fromkeys(kind.__members__, "value")
    found: dict[str, str] = {}
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            found[field.name] = "field=" if optional else "field"
    for name, value in inspect.getmembers_static(kind):
        if name.startswith("_") or name in found or name in vars(object) or not _is_ours(kind, name):
            continue
        if inspect.isfunction(value):
            found[name] = signature(value)
        elif isinstance(value, classmethod | staticmethod):
            found[name] = signature(value.__func__)
        else:
            found[name] = "attribute"
    return dict(sorted(found.items()))


def _is_ours(kind: type, name: str) -> bool:
    owner = next(base for base in kind.__mro__ if name in vars(base))
    return owner.__module__.partition(".")[0] == "avcore"


def contract() -> dict[str, Any]:
    """The contract as it is in the code."""
    hooks = {name: signature(value) for name, value in vars(hookspecs).items() if hasattr(value, "avcore_spec")}
    named = {module.__name__: dict.fromkeys(sorted(module.__all__), "name") for module in AUTHORS}
    return {"hooks": hooks, **named, **{kind.__name__: members(kind) for kind in CLASSES}}


def broken(frozen: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the frozen contract promises and the code does not keep."""
    faults = []
    for kind, promised in frozen.items():
        for name, form in promised.items():
            found = now.get(kind, {}).get(name)
            if found is None:
                faults.append(f"{kind}.{name} is gone")
            elif not _keeps(form, found):
                faults.append(f"{kind}.{name} was {form} and is {found}")
    return faults


def _keeps(promised: str, found: str) -> bool:
    """The same, or grown by arguments with a default at the end or by keyword."""
    if promised == found or (promised, found) == ("field", "field="):
        return True
    if not (promised.startswith("(") and found.startswith("(")):
        return False
    old, new = (re.findall(r"[^,() ]+", form) for form in (promised, found))
    return new[: len(old)] == old and all(one.endswith("=") or one == "*" for one in new[len(old) :])


def test_the_code_keeps_what_is_promised() -> None:
    assert broken(json.loads(FILE.read_text()), contract()) == []


def test_what_is_new_is_written_down() -> None:
    assert json.loads(FILE.read_text()) == contract(), "run: python tests/test_contract.py"


@pytest.mark.parametrize(
    ("promised", "found", "kept"),
    [
        ("(self, x)", "(self, x)", True),
        ("(self, x)", "(self, x, *, on_grid=)", True),
        ("(self, x)", "(self, x, y)", False),
        ("(self, x)", "(self, y)", False),
        ("(self, x, y=)", "(self, x)", False),
        ("field", "field=", True),
        ("field=", "field", False),
        ("attribute", "(self)", False),
    ],
)
def test_growth_is_kept_and_everything_else_is_broken(promised: str, found: str, kept: bool) -> None:
    faults = broken({"Kind": {"name": promised, "other": "value"}}, {"Kind": {"name": found, "other": "value"}})
    assert (faults == []) is kept


def test_the_page_promises_the_same_modules() -> None:
    page = FILE.parents[1] / "docs" / "stability.md"
    listed = page.read_text().partition("<!-- modules -->")[2].partition("<!-- end -->")[0]
    assert re.findall(r"`([\w.]+)`", listed) == [module.__name__ for module in AUTHORS]


def test_what_is_taken_away_is_named() -> None:
    assert broken({"Need": {"BOTH": "value"}}, {"Need": {}}) == ["Need.BOTH is gone"]


if __name__ == "__main__":
    FILE.write_text(json.dumps(contract(), indent=1) + "\n")
