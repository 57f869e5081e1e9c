"""The exported JSON Schema against configurations as they really resolve."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from avcore.config import core_schema, recipes_of, resolve_config, run_schema
from avcore.config.schema import _properties
from avcore.registry import Registry, load_registry

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
ANNOTATIONS = {"$schema", "title", "description", "default"}


def faults(value: Any, schema: Any, at: str = "") -> Iterator[str]:
    """What a validator says, for the keywords that are used; any other keyword is an error of this test."""
    for keyword, rule in schema.items():
        match keyword:
            case "type":
                names = [rule] if isinstance(rule, str) else rule
                fits = any(isinstance(value, TYPES[name]) for name in names)
                if not fits or (isinstance(value, bool) and "boolean" not in names):
                    yield f"{at}: {value!r} is not {rule}"
            case "enum":
                if value not in rule:
                    yield f"{at}: {value!r} is not in {rule}"
            case "anyOf":
                if all(any(faults(value, option)) for option in rule):
                    yield f"{at}: {value!r} fits none of {rule}"
            case "properties":
                for key in rule.keys() & value.keys():
                    yield from faults(value[key], rule[key], f"{at}.{key}")
            case "additionalProperties":
                for key in value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ():
                    if rule is False:
                        yield f"{at}.{key}: unknown"
                    elif rule is not True:
                        yield from faults(value[key], rule, f"{at}.{key}")
            case "items" | "prefixItems":
                for number, item in enumerate(value if isinstance(value, list) else ()):
                    yield from faults(item, rule if keyword == "items" else rule[number], f"{at}[{number}]")
            case "minItems" | "maxItems":
                if isinstance(value, list) and (len(value) - rule) * (1 if keyword == "maxItems" else -1) > 0:
                    yield f"{at}: {len(value)} items"
            case _:
                assert keyword in ANNOTATIONS, keyword


def recipes() -> list[tuple[str, str, str | None]]:
    registry = load_registry()
    return [
        (method, task, variant)
        for method in registry.methods.names()
        for task, variant in recipes_of(registry.methods[method])
        if task in registry.tasks
    ]


@pytest.mark.parametrize(("method", "task", "variant"), recipes())
def test_every_recipe_fits_its_schema(method: str, task: str, variant: str | None) -> None:
    registry = load_registry()
    resolved = resolve_config(registry, method=method, task=task, recipe=variant, need_data=False)
    tree = json.loads(json.dumps(resolved.tree()))
    assert list(faults(tree, json.loads(json.dumps(run_schema(resolved.config, registry))))) == []
    assert list(faults(tree, core_schema())) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.lr", "fast", ".optim.lr: 'fast' is not number"),
        ("optim.betas", [0.9], ".optim.betas: 1 items"),
        ("optim.lrr", 1, ".optim.lrr: unknown"),
        ("deterministic", 1, ".deterministic: 1 is not boolean"),
        ("protocol", "papr", ".protocol: 'papr' is not in ['clean', 'paper']"),
        ("parts.m.rows.length", "ten", ".parts.m.rows.length: 'ten' is not integer"),
        ("parts.m.rows.streams", "left", ".parts.m.rows.streams: 'left' is not in ['both', 'visual', 'audio'"),
        ("parts.m.deep", {}, ".parts.m.deep: unknown"),
        ("visual.window", 7, ".visual.window: unknown"),
        ("head.points", 7, ".head.points: unknown"),
        ("data.workers", None, ".data.workers: None is not integer"),
    ],
)
def test_a_schema_refuses_what_avcore_refuses(fake_registry: Registry, path: str, value: Any, message: str) -> None:
    resolved = resolve_config(fake_registry, method="m", task="seg", need_data=False)
    schema, tree = run_schema(resolved.config, fake_registry), copy.deepcopy(resolved.tree())
    assert list(faults(tree, schema)) == []
    *sections, last = path.split(".")
    node = tree
    for name in sections:
        node = node[name]
    node[last] = value
    assert [fault[: len(message)] for fault in faults(tree, schema)] == [message]


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    counts: dict[str, int] = field(default_factory=dict)
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)
    inner: Inner = field(default_factory=Inner)
    length: int | None = None  # rows per block


def test_settings_of_every_type_have_help_and_default() -> None:
    found = _properties(Settings)
    assert found["length"] == {
        "anyOf": [{"type": "integer"}, {"type": "null"}],
        "description": "rows per block",
        "default": None,
    }
    assert found["counts"] == {"type": "object", "additionalProperties": {"type": "integer"}, "default": {}}
    assert found["pairs"]["items"]["maxItems"] == 2
    assert found["pairs"]["default"] == [[1, 2]]
    assert found["inner"]["properties"] == {"depth": {"type": "integer", "default": 1}}
