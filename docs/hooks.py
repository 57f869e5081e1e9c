"""Called by mkdocs: writes the page of the contract of plugins from the code that is the contract.

`contract_page` reads the hooks, the specs and the classes that plugins derive from; a public name without a docstring
is an error, in the build as in the tests.
"""

import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

HOOKS = "avcore.hookspecs"
RECORDS = ("avcore.specs", "avcore.tasks", "avcore.injection.parts", "avcore.injection.views", "avcore.backbones.base")
PAGE = "contract.md"

SECTION = re.compile(r"^(Attributes|Args|Returns|Raises|Yields|Example|Examples):$")
ENTRY = re.compile(r"^(?P<names>[\w, .*]+?)(?: \([^)]*\))?: (?P<text>.*)$")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated page to those that mkdocs found."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=contract_page()))
    return files


def contract_page() -> str:
    """The page as Markdown."""
    hooks = importlib.import_module(HOOKS)
    lines = ["# The contract of plugins", "", *paragraphs(documentation(hooks, HOOKS)), "", "## Hooks", ""]
    for name, function in hooks_of(hooks):
        lines += [f"### {name}", "", *code(f"def {name}{signature(function)}")]
        lines += [*paragraphs(documentation(function, name)), ""]
    for module_name in RECORDS:
        module = importlib.import_module(module_name)
        lines += [f"## {module_name}", "", *paragraphs(documentation(module, module_name)), ""]
        for name in module.__all__:
            lines += record(name, getattr(module, name))
    return "\n".join(lines) + "\n"


def hooks_of(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The hook specifications of a module, in the order of the file."""
    for name, value in vars(module).items():
        if hasattr(value, "avcore_spec"):
            yield name, value


def documentation(thing: Any, name: str) -> str:
    """The docstring of a thing.

    Raises:
        ValueError: it has none of its own.
    """
    text = inspect.cleandoc(thing.__doc__ or "")
    generated = dataclasses.is_dataclass(thing) and isinstance(thing, type) and text.startswith(f"{thing.__name__}(")
    if not text or generated:
        raise ValueError(f"{name} is part of the contract of plugins and has no docstring.")
    return text


def record(name: str, thing: Any) -> list[str]:
    """One public name: a dataclass with its fields, a class with its public methods, a function, or a constant."""
    lines = [f"### {name}", ""]
    if inspect.isfunction(thing):
        return [*lines, *code(f"def {name}{signature(thing)}"), *paragraphs(documentation(thing, name)), ""]
    if not inspect.isclass(thing):
        return [*lines, *code(f"{name} = {thing!r}")]
    lines += [*code(declaration(thing)), *paragraphs(documentation(thing, name)), ""]
    fields = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
    for method_name, method in vars(thing).items():
        if method_name in fields:
            continue  # a function that is a default
        function = behind(method)
        if not method_name.startswith("_") and inspect.isfunction(function):
            kind = "" if function is method else "@property\n"
            lines += [f"#### {name}.{method_name}", "", *code(f"{kind}def {method_name}{signature(function)}")]
            lines += [*paragraphs(documentation(function, f"{name}.{method_name}")), ""]
    return lines


def behind(member: Any) -> Any:
    """The function of a property; anything else as it is."""
    if isinstance(member, property):
        return member.fget
    return member.func if isinstance(member, functools.cached_property) else member


def declaration(thing: type) -> str:
    """The head of a class and, of a dataclass or an enumeration, its fields."""
    bases = [base.__name__ for base in thing.__bases__ if base is not object]
    lines = [f"class {thing.__name__}({', '.join(bases)}):" if bases else f"class {thing.__name__}:"]
    if dataclasses.is_dataclass(thing):
        for field in public_fields(thing):
            lines.append(f"    {field.name}: {annotation(field.type)}{default(field)}")
    elif hasattr(thing, "__members__"):
        lines += [f"    {name} = {str(member)!r}" for name, member in thing.__members__.items()]
    else:
        lines.append("    ...")
    return "\n".join(lines)


def public_fields(thing: Any) -> list["dataclasses.Field[Any]"]:
    """The fields of a dataclass that are not marked as private."""
    return [field for field in dataclasses.fields(thing) if not field.name.startswith("_")]


def default(field: "dataclasses.Field[Any]") -> str:
    """The default of a field as source text."""
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory.__name__}()"
    if field.default is dataclasses.MISSING:
        return ""
    return " = ..." if callable(field.default) and not isinstance(field.default, type) else f" = {shown(field.default)}"


def shown(value: Any) -> str:
    """A value as source text; a class by its name."""
    return value.__name__ if isinstance(value, type) else repr(value)


def annotation(kind: Any) -> str:
    """A type as it is written in the code, without the modules."""
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


def signature(function: Any) -> str:
    """Arguments and result of a function, without the modules of their types."""
    return re.sub(r"\b[a-z_]\w*(?:\.\w+)*\.(?=[A-Za-z_])", "", str(inspect.signature(function))).replace("'", "")


def code(text: str) -> list[str]:
    """A fenced block."""
    return ["```python", text, "```", ""]


def paragraphs(docstring: str) -> list[str]:
    """A Google-style docstring as Markdown: the entries of its sections become lists."""
    lines: list[str] = []
    in_section = False
    for line in docstring.replace("``", "`").splitlines():
        entry = ENTRY.match(line.strip()) if line.startswith("    ") and not line.startswith("     ") else None
        if SECTION.match(line):
            in_section = True
            lines += [f"**{line.removesuffix(':')}**", ""]
        elif in_section and entry:
            names = ", ".join(f"`{name.strip()}`" for name in entry["names"].split(","))
            lines.append(f"- {names}: {entry['text']}")
        else:
            in_section = in_section and (not line or line.startswith(" "))
            lines.append(f"  {line.strip()}" if in_section and line else line)
    return lines
