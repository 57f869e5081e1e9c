from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from avcore.config.describe import describe
from avcore.config.leaves import Layer, Leaf, Leaves, flatten, plain
from avcore.config.settings import build, require
from avcore.errors import AVCoreError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Everything:
    whole: int = 1
    number: float = 1.0
    switch: bool = False
    text: str = "a"
    place: Path | None = None
    choice: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    pair: tuple[float, float] = (0.9, 0.999)
    many: tuple[str, ...] = ()
    mixed: int | float | str = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    deep: tuple[tuple[int, int], ...] = ()
    anything: Any = None

    def __post_init__(self) -> None:
        require(self.whole >= 0, "whole", self.whole, "0 or more")


def leaves(tree: Mapping[str, Any], layer: str = "--set x") -> Leaves:
    return {key: Leaf(value, Layer(layer, user=True)) for key, value in flatten(tree).items()}


def made(**given: Any) -> Everything:
    return build(Everything, leaves(given), "at")


@pytest.mark.parametrize(
    ("key", "value", "result"),
    [
        ("whole", 3, 3),
        ("number", 2, 2.0),
        ("switch", True, True),
        ("text", "3", "3"),
        ("place", None, None),
        ("place", "/a/../b", Path("/b")),
        ("choice", "b", "b"),
        ("colour", "blue", Colour.BLUE),
        ("pair", [0, 1], (0.0, 1.0)),
        ("many", ["x", "y"], ("x", "y")),
        ("mixed", 1, 1),
        ("mixed", 1.5, 1.5),
        ("mixed", "x", "x"),
        ("weights", {"x": 1}, {"x": 1.0}),
        ("weights", {}, {}),
        ("inner", {"depth": 4}, Inner(depth=4)),
        ("inner", {}, Inner()),
        ("deep", [[1, 2], [3, 4]], ((1, 2), (3, 4))),
        ("anything", [1, "x"], [1, "x"]),
    ],
)
def test_values_become_the_type_of_the_field(key: str, value: Any, result: Any) -> None:
    found = getattr(made(**{key: value}), key)
    assert found == result
    assert type(found) is type(result)


def test_a_choice_that_yaml_reads_as_a_switch_is_the_word() -> None:
    @dataclass(frozen=True)
    class Switched:
        one: Literal["off", "auto"] = "auto"
        both: Literal["yes", "on"] = "yes"

    assert build(Switched, leaves({"one": False}), "at").one == "off"
    for given in ({"one": True}, {"both": True}, {"both": False}):
        with pytest.raises(AVCoreError, match="must be one of"):
            build(Switched, leaves(given), "at")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("whole", 1.5, "a whole number"),
        ("whole", True, "a whole number"),
        ("number", "x", "a number"),
        ("number", True, "a number"),
        ("switch", 1, "true or false"),
        ("text", 3, "text"),
        ("place", "", "a path or null"),
        ("choice", "c", "one of 'a', 'b'"),
        ("colour", "green", "one of 'red', 'blue'"),
        ("pair", [1, 2, 3], "a list of 2: a number, a number"),
        ("many", "x", "a list, each text"),
        ("weights", {"x": "y"}, "a mapping, each value a number"),
        ("inner", 3, "a section with the keys depth"),
        ("whole", {"x": 1}, "a whole number"),
    ],
)
def test_a_wrong_type_names_key_layer_value_and_what_is_allowed(key: str, value: Any, expected: str) -> None:
    with pytest.raises(AVCoreError) as caught:
        made(**{key: value})
    assert str(caught.value).startswith(f"'at.{key}' is {value!r} (--set x); it must be {expected}.")


def test_numbers_for_text_suggest_quoting() -> None:
    with pytest.raises(AVCoreError, match=r"Quote it to make it text: at.text=\"'3'\""):
        made(text=3)


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert made(place="sub").place == tmp_path / "sub"


def test_out_of_range_names_key_layer_and_what_is_allowed() -> None:
    given = {**leaves({"whole": -1}, "file run.yaml"), **leaves({"text": "x"}, "--set text=x")}
    with pytest.raises(AVCoreError) as caught:
        build(Everything, given, "at")
    assert str(caught.value) == "at.whole must be 0 or more, not -1 (file run.yaml)."


def test_unknown_keys_get_the_near_miss_and_the_list() -> None:
    with pytest.raises(
        AVCoreError, match=r"Unknown key 'at.swich' \(--set x\). Did you mean 'at.switch'\? Keys of 'at'"
    ):
        made(swich=1)
    with pytest.raises(AVCoreError, match=r"Unknown key 'at.inner.dept'.*Did you mean 'at.inner.depth'"):
        made(inner={"dept": 1})


def test_plain_and_back() -> None:
    original = made(place="/x", colour="blue", inner={"depth": 3}, deep=[[1, 2]], weights={"a": 2})
    tree = plain(original)
    assert tree["place"] == "/x"
    assert tree["deep"] == [[1, 2]]
    assert build(Everything, leaves(tree), "at") == original


@pytest.mark.parametrize(("kind", "default"), [(int, "two"), (float, None), (complex, 1j)])
def test_a_default_that_could_not_be_read_back_is_refused(kind: type, default: Any) -> None:
    made = make_dataclass("Settings", [("length", kind, default)], frozen=True, kw_only=True)
    with pytest.raises(AVCoreError, match=rf"The default of 'length' in .*Settings is {default!r}; it must be "):
        build(made, {}, "parts.x")
    with pytest.raises(AVCoreError, match="The default of 'length'"):
        describe(made)
