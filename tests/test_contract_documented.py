"""Everything in the contract of plugins is explained on its page, and exercised by a test, a plugin or an example.

A plugin's author overrides sites and hooks, fills in the fields of records and calls what ``at`` offers. Each of these
has to be used by somebody here: found in the syntax of the tests, the first-party plugins, the core's own parts, the
examples, the conformance kit and the code of the documentation, which is run too. Elsewhere it is tested whether it
does what it says; here, that nothing of it lies idle. ``python tests/test_contract_documented.py`` lists what is used
where.
"""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import avcore.hookspecs
import avcore.specs
import avcore.tasks
from avcore.backbones import base as backbones
from avcore.injection import parts, views

ROOT = Path(__file__).parents[1]
PLACES = (
    "tests/**/*.py",
    "plugins/*/tests/**/*.py",
    "plugins/*/src/**/*.py",
    "examples/**/*.py",
    "avcore/testing/**/*.py",
    "avcore/builtin.py",
    "avcore/injection/segments.py",
    "docs/**/*.md",
)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
IDLE = {
    "Batch.kept": "avcore's own reader fills it in, and the model takes from it: `tests/runs/test_kept.py`",
    "Clip.companions": "readers fill it in by `dataclasses.replace`: `Negatives` of `tests/shared/toy_inputs.py`",
    "Clip.shots": "likewise: `MusicAVQA.draw` of `avcore-avqa`",
    "SideView.declared": "`as_own` reads it for the layer",
    "SideView.owner": "`as_own` names it",
    "Tower.map": "no tower has another; what it gives is compared as the maps of features",
}
"""What nobody has to use, and why."""
SITE_CLASSES = (parts.PromptLayer, parts.FusionLayer, parts.Prompt, parts.Fusion, parts.Part)
INTERFACES = (
    backbones.Block,
    backbones.Tower,
    backbones.TextTower,
    backbones.Backbone,
    avcore.tasks.Task,
    avcore.tasks.Dataset,
    avcore.tasks.Head,
)
VIEWS = (views.StreamView, views.BlockView, views.SideView, views.PairView)
RECORDS = (parts.Edit, parts.Edits, avcore.tasks.Batch, avcore.tasks.Clip, avcore.specs.Windows)
READ = (
    parts.PairLayout,
    avcore.specs.BlockLayout,
    avcore.specs.StageLayout,
    avcore.specs.StreamLayout,
    avcore.tasks.Features,
    avcore.tasks.StreamFeatures,
)


# --------------------------------------------------------------------------------------------------------------------
# What is used where


@dataclass
class Usage:
    """What a body of code uses, by name, each with the places where it does.

    Attributes:
        bases: class -> the names of its bases; classes of one name count as one.
        methods: (class, function) that is defined in it.
        functions: functions outside classes, and in them.
        keywords: (callee, or a class among its arguments; keyword).
        attributes: (name of what it is read from, attribute).
    """

    bases: dict[str, set[str]] = field(default_factory=dict)
    methods: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    functions: dict[str, list[str]] = field(default_factory=dict)
    keywords: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    attributes: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, source: str, place: str) -> None:
        """Take in one file."""
        for node in ast.walk(ast.parse(source)):
            at = f"{place}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ClassDef):
                self.bases.setdefault(node.name, set()).update(filter(None, map(last_name, node.bases)))
                for item in node.body:
                    if isinstance(item, ast.FunctionDef):
                        self.methods.setdefault((node.name, item.name), []).append(at)
            elif isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, []).append(at)
            elif isinstance(node, ast.Call):
                callees = {last_name(node.func), *map(last_name, node.args)} - {""}
                for keyword in node.keywords:
                    for callee in callees:
                        self.keywords.setdefault((callee, keyword.arg or ""), []).append(at)
            elif isinstance(node, ast.Attribute):
                self.attributes.setdefault((last_name(node.value), node.attr), []).append(at)

    def derived(self, base: str) -> set[str]:
        """A class and all that derive from it."""
        found = {base}
        while more := {name for name, bases in self.bases.items() if bases & found} - found:
            found |= more
        return found

    def overrides(self, base: str, function: str) -> list[str]:
        """Where a class that derives from ``base`` defines ``function``."""
        return [at for name in sorted(self.derived(base) - {base}) for at in self.methods.get((name, function), [])]

    def fills(self, record: str, name: str) -> list[str]:
        """Where a record, or one that derives from it, is made with the field ``name``."""
        return [at for one in sorted(self.derived(record)) for at in self.keywords.get((one, name), [])]

    def reads(self, name: str, *, of: Callable[[str], bool] = lambda owner: True) -> list[str]:
        """Where an attribute is read of something whose name passes."""
        return [
            at for (owner, found), places in self.attributes.items() if found == name and of(owner) for at in places
        ]


def last_name(node: ast.expr) -> str:
    """``c`` of ``a.b.c``; empty for anything but a name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


@functools.cache
def usage() -> Usage:
    """What tests, first-party plugins, examples and the kit use."""
    found = Usage()
    generated = ROOT / "docs" / "contract.md"
    for path in sorted({path for pattern in PLACES for path in ROOT.glob(pattern)} - {generated}):
        text, place = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        if path.suffix == ".py":
            found.add(text, place)
        for block in PYTHON.finditer(text) if path.suffix == ".md" else ():
            found.add("\n" * text.count("\n", 0, block.start(1)) + block[1], place)
    # The contract's own classes derive from each other in the core.
    for module in (avcore.specs, parts, backbones):
        for one in filter(inspect.isclass, map(partial(getattr, module), module.__all__)):
            found.bases.setdefault(one.__name__, set()).update(base.__name__ for base in one.__bases__)
    return found


def public(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if not name.startswith("_"))


def functions_of(thing: type) -> list[str]:
    """The functions and properties that a class has itself."""
    return [
        name
        for name in public(vars(thing))
        if inspect.isfunction(vars(thing)[name]) or isinstance(vars(thing)[name], property)
    ]


def places_of(used: Usage) -> dict[str, list[str]]:
    """Everything in the contract -> where it is exercised."""
    found: dict[str, list[str]] = {}
    for name in vars(avcore.hookspecs):
        if name.startswith("avcore_"):
            found[name] = used.functions.get(name, [])
    for owner in (*SITE_CLASSES, *INTERFACES):
        for name in functions_of(owner):
            found[f"{owner.__name__}.{name}"] = used.overrides(owner.__name__, name)
    for name in avcore.specs.Need.__members__:
        found[f"Need.{name}"] = used.reads(name, of=lambda owner: owner == "Need")
    for view in VIEWS:
        fields = [one.name for one in dataclasses.fields(view)]
        for name in (*fields, *functions_of(view)):
            found[f"{view.__name__}.{name}"] = used.reads(name, of=lambda owner: owner in AT)
    specs = [getattr(avcore.specs, name) for name in avcore.specs.__all__ if name.endswith("Spec")]
    for record in (*specs, *RECORDS):
        for name in vars(record).get("__annotations__", {}):  # those that it inherits count for its base
            found[f"{record.__name__}.{name}"] = used.fills(record.__name__, name)
    for record in READ:
        for name in (*(one.name for one in dataclasses.fields(record)), *functions_of(record)):
            found[f"{record.__name__}.{name}"] = used.reads(name) + used.fills(record.__name__, name)
    return found


AT = ("at", "view", "visual", "audio", "side", "own", "other")
"""What the views are called where they are used."""


def test_all_of_the_contract_is_exercised() -> None:
    found = places_of(usage())
    assert len(found) > 150
    assert sorted(name for name, places in found.items() if not places) == sorted(IDLE)


# --------------------------------------------------------------------------------------------------------------------
# What is explained


@functools.cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("contract_page", ROOT / "docs" / "contract_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["contract_page"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_what_the_code_says() -> None:
    fresh, page = generator().contract_page(), generator().PAGE.read_text(encoding="utf-8")
    assert page.splitlines() == fresh.splitlines(), "Run: python docs/contract_page.py"


def test_what_is_promised_is_explained() -> None:
    """Everything in docs/stability.md stands on the page of the contract, or on that of Python."""
    texts = [(ROOT / "docs" / name).read_text() for name in ("stability.md", "contract.md", "python.md")]
    stable, contract, python = texts
    listed = {
        kind: stable.split(f"<!-- {kind} -->")[1].split("<!-- end -->")[0] for kind in ("names", "modules", "functions")
    }
    modules, functions = (re.findall(r"`(avcore[\w.]*)`", listed[kind]) for kind in ("modules", "functions"))
    promised = {*re.findall(r"`(\w+)`", listed["names"]), *(name.rpartition(".")[2] for name in functions)}
    for module in modules:
        promised |= set(importlib.import_module(module).__all__)
    explained = set(re.findall(r"^### (\w+)$", contract, re.MULTILINE)) | {"ENTRY_POINT_GROUP", "hookimpl"}
    assert "`avcore.hookspecs.ENTRY_POINT_GROUP`" in contract
    assert "from avcore import hookimpl" in contract
    assert sorted(name for name in promised - explained if not re.search(rf"\b{name}\b", python)) == []


def test_the_page_has_everything_that_has_to_be_exercised() -> None:
    page = generator().contract_page()
    for name in places_of(usage()):
        owner, _, member = name.partition(".")
        heading = f"#### {owner}.{member}\n" in page if member else f"### {owner}\n" in page
        section = page.partition(f"### {owner}\n")[2].partition("\n### ")[0]
        assert heading or f"\n    {member}: " in section or f"\n    {member} = " in section, name


def test_sites_and_needs_stand_in_the_tables() -> None:
    page = generator().contract_page()
    for owner in SITE_CLASSES:
        for name in functions_of(owner):
            assert f"| `{owner.__name__}` | [`{name}`]" in page
    for name in avcore.specs.Need.__members__:
        assert f"| `Need.{name}` |" in page


def test_the_diagram_shows_every_site_in_order() -> None:
    drawn = re.findall(r"\w+", generator().contract_page().partition("```text\n")[2].partition("```")[0])
    sites = {name for owner in SITE_CLASSES for name in functions_of(owner)} - {
        "layer",
        "backbone_parts",
        "backbone_tensors",
    }
    assert sites <= set(drawn), sites - set(drawn)
    order = ["after_embedding", "before_attention", "attention_output", "before_mlp", "mlp_output", "read", "finish"]
    assert [name for name in drawn if name in order] == order


# --------------------------------------------------------------------------------------------------------------------
# The mechanism itself

SOURCE = """
class Quiet(PromptLayer):
    def mlp(self, x, at):
        return Edit(add=at.attend(x))

class Quieter(Quiet):
    def attention(self, x, at): ...

class Stranger:
    def read(self, x, at): ...

spec = at_hand(PromptSpec, name="q", finishes={"maps"}, requires=lambda config: {Need.CLASS_TOKEN})
"""


@pytest.fixture
def small() -> Usage:
    found = Usage()
    found.add(SOURCE, "somewhere.py")
    return found


def test_a_site_counts_where_a_derived_class_overrides_it(small: Usage) -> None:
    assert small.overrides("PromptLayer", "mlp") == ["somewhere.py:2"]
    assert small.overrides("PromptLayer", "attention") == ["somewhere.py:6"]
    assert small.overrides("PromptLayer", "read") == []
    assert small.overrides("PromptLayer", "invented") == []


def test_fields_needs_and_at_count_where_they_are_used(small: Usage) -> None:
    assert small.fills("PromptSpec", "finishes") == ["somewhere.py:12"]
    assert small.fills("FusionSpec", "finishes") == []
    assert small.reads("CLASS_TOKEN", of=lambda owner: owner == "Need") == ["somewhere.py:12"]
    assert small.reads("attend", of=lambda owner: owner in AT) == ["somewhere.py:4"]
    assert small.reads("lift", of=lambda owner: owner in AT) == []


def test_a_new_site_that_nobody_exercises_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def invented(self: parts.PromptLayer, x_MND: object) -> None:
        """Does something."""

    monkeypatch.setattr(parts.PromptLayer, "invented", invented, raising=False)
    found = places_of(usage())
    assert {name for name, places in found.items() if not places} == {"PromptLayer.invented", *IDLE}
    assert "#### PromptLayer.invented\n" in generator().contract_page()


def test_a_site_without_a_docstring_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: parts.PromptLayer) -> None: ...

    monkeypatch.setattr(parts.PromptLayer, "silent", silent, raising=False)
    with pytest.raises(ValueError, match=r"PromptLayer\.silent is part of the contract"):
        generator().contract_page()


def test_a_hook_or_a_record_without_a_docstring_is_an_error() -> None:
    def avcore_silent() -> None: ...

    with pytest.raises(ValueError, match="avcore_silent"):
        generator().documentation(avcore.hookspecs.hookspec(avcore_silent), "avcore_silent")
    with pytest.raises(ValueError, match="Bare"):
        generator().documentation(dataclass(type("Bare", (), {"__annotations__": {"x": int}})), "Bare")


def test_a_field_that_nothing_explains_is_an_error() -> None:
    @dataclass
    class Explained:
        """A record whose ``one`` is known.

        Attributes:
            two: is known too.
        """

        one: int = 0
        two: int = 0

    @dataclass
    class Silent(Explained):
        """It has one more."""

        three: int = 0

    assert generator().unexplained(Explained) == []
    assert generator().unexplained(Silent) == ["three"]
    with pytest.raises(ValueError, match="nothing explains three"):
        generator().record("Silent", Silent)


def test_a_note_on_a_member_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator(), "NOTES", {"Edit": {"gone": "was there once."}})
    with pytest.raises(ValueError, match="explain gone"):
        generator().notes_of(parts.Edit)


if __name__ == "__main__":
    for _name, _places in sorted(places_of(usage()).items()):
        print(f"{_name}: {len(_places)}, such as {_places[0]}" if _places else f"{_name}: nowhere, {IDLE.get(_name)}")
