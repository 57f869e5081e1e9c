"""The keys under which every recipe saves what it trains, frozen: adapters and checkpoints of today stay loadable.

A change here breaks files that people have. If it is meant, say so in the changelog and write the list anew with
``python tests/test_saved_keys.py``.
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from avcore.assemble import assemble
from avcore.config import recipes_of, resolve_config
from avcore.gradients import Followed
from avcore.registry import load_registry
from avcore.states import trainable_state

FILE = Path(__file__).with_name("saved_keys.json")


def recipes() -> list[str]:
    """``method/task[.variant]`` of every recipe whose task is installed."""
    registry = load_registry()
    return [
        f"{method}/{task}" + (f".{variant}" if variant else "")
        for method in registry.methods.names()
        for task, variant in recipes_of(registry.methods[method])
        if task in registry.tasks
    ]


def saved_keys(recipe: str) -> dict[str, Any]:
    """How many keys there are of each pattern, in which # stands for numbers of blocks, and a digest of all of them."""
    method, task, variant = re.fullmatch(r"([^/]+)/([^.]+)(?:\.(.+))?", recipe).groups()
    registry = load_registry()
    config = resolve_config(registry, method=method, task=task, recipe=variant, need_data=False).config
    keys = sorted(trainable_state(assemble(config, registry, meta=True)))
    patterns = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "#", key) for key in keys)
    return {"sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(), "patterns": dict(sorted(patterns.items()))}


def frozen() -> dict[str, dict[str, Any]]:
    """Recipe -> what `saved_keys` gave when the list was written; recipes with equal keys share an entry."""
    return {recipe: entry["keys"] for entry in json.loads(FILE.read_text()) for recipe in entry["recipes"]}


def write() -> None:
    """Write the list anew."""
    entries: dict[str, dict[str, Any]] = {}
    for recipe in recipes():
        keys = saved_keys(recipe)
        entries.setdefault(keys["sha256"], {"recipes": [], "keys": keys})["recipes"].append(recipe)
    FILE.write_text(json.dumps(list(entries.values()), indent=1) + "\n")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the forward on the meta device, which changes no key and takes most of the time."""
    monkeypatch.setattr("avcore.assemble.follow_losses", lambda model: Followed())


def test_every_recipe_is_in_the_list_and_no_other() -> None:
    assert sorted(frozen()) == sorted(recipes()), f"{FILE.name} lacks recipes or has too many: see {__file__}"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("recipe", recipes())
def test_the_saved_keys_are_those_of_the_list(recipe: str) -> None:
    before, now = frozen()[recipe], saved_keys(recipe)
    assert now["patterns"] == before["patterns"], f"{recipe} saves under other keys than {FILE.name} says: {__doc__}"
    assert now["sha256"] == before["sha256"], f"{recipe} numbers its keys otherwise than {FILE.name} says: {__doc__}"


if __name__ == "__main__":
    write()
