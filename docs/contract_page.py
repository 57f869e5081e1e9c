"""``python docs/contract_page.py`` writes docs/contract.md anew, from the code that is the contract of plugins.

`contract_page` reads the hooks, the specs and the classes that plugins derive from. A public name without a docstring
is an error, and so is a field or a member that nothing explains. tests/test_contract_documented.py compares.
"""

import ast
import dataclasses
import enum
import functools
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

HOOKS = "avcore.hookspecs"
RECORDS: Mapping[str, tuple[str, ...]] = {
    "avcore.specs": (),
    "avcore.injection.parts": ("Layer",),
    "avcore.injection.views": (),
    "avcore.tasks": (),
    "avcore.data.recordings": (),
    "avcore.backbones.base": (),
    "avcore.backbones.attention": (),
    "avcore.backbones.rows": (),
    "avcore.backbones.lean": (),
    "avcore.backbones.windows": (),
    "avcore.backbones.files": (),
    "avcore.backbones.hub": (),
    "avcore.modules": (),
    "avcore.model": (),
    "avcore.errors": (),
    "avcore.testing": (),
}
"""The modules on the page, each with what it has to show beside its ``__all__``."""
FURTHER: Mapping[str, tuple[str, ...]] = {
    "avcore": ("Run", "RunResult", "SoundFrontEnd", "by_number", "read_features", "read_mask"),
    "avcore.backbones": ("has_copy",),
    "avcore.compat": ("install",),
    "avcore.config": ("require",),
    "avcore.data.broken": ("is_there",),
    "avcore.data.frontends": ("MelSpectrogram",),
    "avcore.data.lines": ("read_lines",),
    "avcore.data.media": ("MediaInfo", "probe"),
    "avcore.injection": ("Mounted", "PlanEntry", "Recomputed", "Step", "make_plan", "sites_of"),
    "avcore.report.text": ("fitted",),
    "avcore.report.video": ("write_video",),
}
"""What else authors use, by the module that they import it from."""
PAGE = Path(__file__).with_name("contract.md")
HEAD = "<!-- Written by `python docs/contract_page.py` from docstrings: change those, then run it. -->"

MARKING = """\
```python
from avcore import hookimpl
```

marks each function as the implementation of the hook of its name.
`avcore.hookspecs.ENTRY_POINT_GROUP` is the name of the group.
"""
SITES = """\
In the order in which they run; what a class does not override costs nothing. Layers are asked for once, at assembly, as
`layer(block)` or `layer(pair)`; a spec that names a layer class has one made for every block or pair, as
`Layer(settings, block)`.

```text
  embed
    |
    + <-------------------------------- after_embedding
    |
    |   in each block, of both streams side by side
    + <-------------------------------- before_attention
    |\\
    | A    norm, qkv, mix, proj  <------ attention: rows, carry and kv, which mix sees
    | |          ^         ^
    | |          '---------'----------- projection: qkv, proj
    | o <------------------------------ attention_output
    |/
    + <-------------------------------- attention: add
    S      the norm behind the sum, where a family has one
    |
    + <-------------------------------- before_mlp
    |\\
    | M    norm, fc1, GELU, fc2
    | |          ^          ^
    | |          '----------'---------- projection: fc1, fc2
    | o <------------------------------ mlp_output
    |/
    + <-------------------------------- mlp: add
    S
    |
    o --------------------------------> read
    |
    |   behind the last block
  norm, pool, maps
    |
    o <-------------------------------- finish
    |
  head ------------------------------> losses, beside the head's own
```

`+` adds; at `o`, an arrow to it replaces what passes and an arrow from it looks on. S is `Block.after_sum`. Where audio
blocks are atomic (`plan.atomic_audio`), their A and M run back to back, and what is added beside either comes behind
both.

* Tokens come as (M, N, D), without the rows of any part. M is B·T in the order (b t).
* `before_attention`, `attention`, `before_mlp` and `mlp` return an `Edit`, a fusion's `Edits`; never None. At
  `attention` all of it may be filled in, at the others all but rows, carry and kv.
* `attention_output` and `mlp_output` return the increment of the frozen sub-layer anew, in its own shape (M, N, D); a
  fusion's return the pair of both.
* `projection` gets the input (..., width in) of a frozen map and returns what is added to its output (..., width out),
  or None. `qkv` is D to 3 D, in the order q, k, v; `proj` D to D; `fc1` D to `block.mlp[0]`; `fc2` `block.mlp[1]` to D.
* `read` returns name -> tensor, of any shape, or an `Edit` with no more than `offer`, `sums` and `statistics`. A part
  of which all layers have no other site gets detached tokens.
* `after_embedding`, `finish`, `losses`, `backbone_parts` and `backbone_tensors` belong to the part; the class that a
  spec names is then a `Prompt` or a `Fusion`, which hands out the layers.
"""
SITES_OF = ("PromptLayer", "FusionLayer", "Prompt", "Fusion", "Part")
"""The classes of `avcore.injection.parts` whose functions are sites."""

NOTES: Mapping[str, Mapping[str, str]] = {
    "BlockLayout": {
        "index": "number of the block, from 0 over the whole stream.",
        "stage": "number of its stage, from 0.",
        "width": "D.",
        "heads": "attention heads; each is `width / heads` wide.",
        "tokens": "N: `prefix` plus rows times columns of `grid`.",
        "grid": "(rows, columns) of the patch tokens, which follow the prefix tokens row by row: (Y, X) of pictures, "
        "(time, mel) of log-mel pictures, (1, moments) of waveforms.",
        "prefix": "tokens before the patches: class token, distillation token, registers. 0 where there are none.",
        "window": "(rows, columns) of an attention window in tokens; None where attention sees all tokens.",
        "mlp": "widths (out of `fc1`, into `fc2`), None where the MLP has no such maps.",
        "depth": "blocks of the whole stream.",
        "stages": "stages of the whole stream.",
        "segments": "T.",
        "paired": "a block of the other stream runs in the same step, so fusions act here.",
    },
    "StageLayout": {
        "width": "D.",
        "heads": "attention heads.",
        "depth": "blocks of the stage.",
    },
    "StreamLayout": {
        "stages": "its stages in order; a plain Transformer has one.",
        "segments": "T.",
        "paired": "numbers of the blocks that run beside one of the other stream; avcore fills it in.",
    },
    "ImageGeometry": {"mean": "of each colour after value / 255.", "std": "of each colour after value / 255."},
    "FilterBankGeometry": {
        "mean": "what is subtracted from the logarithms.",
        "std": "half of what they are then divided by.",
    },
    "Edits": {
        "visual": "what is asked for in the stream of pictures; None for nothing.",
        "audio": "the same for sound.",
    },
    "PairLayout": {"visual": "the block of the pictures.", "audio": "the block of the sound."},
    "BlockView": {
        "block": "the frozen block (`Block`), which `attend`, `keys_values`, `lift` and `windows` call in its type.",
        "project": "what the run's `projection` sites add to its maps; None where no part has that site.",
    },
    "Part": {
        "layers": "an `nn.ModuleDict` of the layers that `layer` returned, in the order in which they run, by the "
        "number of their block as a text; of a fusion by the number of the visual block.",
        "backbone": "an `nn.ModuleDict` of the trainable copies that `backbone_parts` and `backbone_tensors` asked "
        "for, by stream and name.",
    },
    "Mounted": {
        "name": "what the run lists the part by.",
        "part": "the `Prompt` or `Fusion`.",
        "layer": "what the part gave for this block or pair.",
        "streams": "those it acts on here.",
    },
    "PlanEntry": {
        "visual": "number of the block of the pictures that runs in this step; None for none.",
        "audio": "the same for sound.",
        "text": "the same for text.",
        "text_audio": "the same for sentences that are compared with sound.",
    },
    "Need": {
        "BOTH_STREAMS": "the run has both streams. Every fusion's, unless its spec says otherwise.",
        "EQUAL_WIDTHS": "the widths of all stages are the same in both streams.",
        "EQUAL_GRIDS": "the grids of all stages are the same in both streams.",
        "CLASS_TOKEN": "every stage of every stream that runs has a token before its patches (`prefix` above 0).",
    },
    "Dataset": {
        "windows": "the pieces of sound that go with the segments, as the settings say.",
        "splits": "the names of the splits; runs train on `train`, select on `val` and score `test`.",
    },
    "PartInstance": {
        "name": "what the run lists it by.",
        "streams": "those it acts on.",
        "module": "the part.",
    },
    "Output": {"values": "what the head returned.", "features": "what it read."},
    "AVModel": {
        "config": "what it was assembled from.",
        "image": "the `ImageGeometry` of the pictures; None without that stream.",
        "sound": "the `AudioGeometry` of the sound; None without that stream.",
    },
}
"""Members that their docstrings do not explain, by class."""

SECTION = re.compile(r"^(Attributes|Args|Returns|Raises|Yields|Example|Examples):$")
ENTRY = re.compile(r"^(?P<names>[\w, .*]+?)(?: \([^)]*\))?: (?P<text>.*)$")


def contract_page() -> str:
    """The page as Markdown."""
    hooks = importlib.import_module(HOOKS)
    lines = [HEAD, "", "# The contract of plugins", "", *paragraphs(documentation(hooks, HOOKS)), ""]
    lines += ["## Hooks", "", *MARKING.splitlines(), ""]
    for name, function in hooks_of(hooks):
        lines += [f"### {name}", "", *code(f"def {name}{signature(function)}")]
        lines += [*paragraphs(documentation(function, name)), ""]
    lines += [*sites_table(), *needs_table()]
    for module_name, further in RECORDS.items():
        module = importlib.import_module(module_name)
        lines += [f"## {module_name}", "", *paragraphs(documentation(module, module_name)), ""]
        for name in (*module.__all__, *further):
            lines += record(name, getattr(module, name))
    for module_name, names in FURTHER.items():
        lines += [f"## From {module_name}", ""]
        for name in names:
            lines += record(name, getattr(importlib.import_module(module_name), name))
    return "\n".join(lines).rstrip() + "\n"


def sites_of(base: type) -> dict[str, Any]:
    """What may be overridden in a base class of parts: name -> function, in the order of the file."""
    return {name: value for name, value in vars(base).items() if inspect.isfunction(value) and name[0] != "_"}


def sites_table() -> list[str]:
    """All sites by class."""
    parts = importlib.import_module("avcore.injection.parts")
    lines = ["## Sites", "", *SITES.splitlines(), ""]
    lines += ["| class | site | what |", "|---|---|---|"]
    for owner in SITES_OF:
        base = getattr(parts, owner)
        for name, function in sites_of(base).items():
            first = documentation(function, f"{owner}.{name}").partition("\n\n")[0].replace("\n", " ")
            shown = f"[`{name}`](#{owner.lower()}{name.lower()})"
            lines.append(f"| `{owner}` | {shown} | {first.replace('``', '`').replace('|', chr(92) + '|')} |")
    return [*lines, ""]


def needs_table() -> list[str]:
    """All needs, and when they are met."""
    from avcore.specs import Need

    lines = ["## Needs", "", "`requires` of a part's spec returns a set of them. Each is met where:", ""]
    rows = [f"| `Need.{name}` | {NOTES['Need'][name]} |" for name in Need.__members__]
    return [*lines, "| need | is met where |", "|---|---|", *rows, ""]


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
    if missing := unexplained(thing):
        raise ValueError(f"{name} is part of the contract of plugins, and nothing explains {', '.join(missing)}.")
    if notes := notes_of(thing):
        lines += [*(f"- `{member}`: {text}" for member, text in notes.items()), ""]
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


def members_of(thing: type) -> list[str]:
    """The public fields of a dataclass, members of an enumeration, or annotated attributes of another class."""
    if dataclasses.is_dataclass(thing):
        return [field.name for field in public_fields(thing)]
    if issubclass(thing, enum.Enum):
        return list(thing.__members__)
    return [name for name in vars(thing).get("__annotations__", {}) if not name.startswith("_")]


def notes_of(thing: type) -> dict[str, str]:
    """What explains members outside the docstring: texts below attributes, the help of settings, `NOTES`.

    Raises:
        ValueError: `NOTES` explains a member that there is not.
    """
    found = attribute_docstrings(thing)
    if dataclasses.is_dataclass(thing):
        found |= {field.name: field.metadata["help"] for field in public_fields(thing) if "help" in field.metadata}
    notes = NOTES.get(thing.__name__, {})
    known = {*members_of(thing), *(name for base in thing.__mro__ for name in vars(base)), *assigned(thing)}
    if gone := sorted(set(notes) - known):
        raise ValueError(f"The notes on {thing.__name__} explain {', '.join(gone)}, which it does not have.")
    return {**found, **notes}


def unexplained(thing: type) -> list[str]:
    """The members of a class that neither a docstring, its bases' included, nor a note explains."""
    texts = [inspect.cleandoc(base.__doc__ or "") for base in thing.__mro__ if base is not object]
    noted = {name for base in thing.__mro__ if base.__module__.startswith("avcore") for name in notes_of(base)}
    return [name for name in members_of(thing) if name not in noted and not any(explains(text, name) for text in texts)]


def explains(docstring: str, name: str) -> bool:
    """A docstring has an entry for a member, or mentions it as code."""
    entries = (ENTRY.match(line.strip()) for line in docstring.splitlines() if line.startswith("    "))
    listed = {one.strip() for entry in entries if entry for one in entry["names"].split(",")}
    return name in listed or f"`{name}`" in docstring


@functools.cache
def class_body(thing: type) -> list[ast.stmt]:
    """The statements of a class."""
    try:
        (found,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    except (OSError, TypeError):
        return []  # made while the program runs
    return found.body if isinstance(found, ast.ClassDef) else []


def attribute_docstrings(thing: type) -> dict[str, str]:
    """The texts that stand below the attributes of a class."""
    found: dict[str, str] = {}
    body = class_body(thing)
    for statement, following in itertools.pairwise(body):
        text = following.value if isinstance(following, ast.Expr) else None
        if isinstance(statement, ast.AnnAssign) and isinstance(text, ast.Constant) and isinstance(text.value, str):
            found[ast.unparse(statement.target)] = " ".join(text.value.replace("``", "`").split())
    return found


@functools.cache
def assigned(thing: type) -> set[str]:
    """The attributes that the methods of a class set."""
    nodes = [node for statement in class_body(thing) for node in ast.walk(statement)]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}


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
    elif members := members_of(thing):
        kinds = vars(thing)["__annotations__"]
        lines += [f"    {name}: {annotation(kinds[name])}" for name in members]
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


if __name__ == "__main__":
    PAGE.write_text(contract_page(), encoding="utf-8")
