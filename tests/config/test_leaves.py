from collections.abc import Mapping
from typing import Any

import pytest

from avcore.config.leaves import Layer, Leaf, Leaves, flatten, nest, overlay, section
from avcore.errors import AVCoreError


def leaves(tree: Mapping[str, Any], layer: str = "--set x") -> Leaves:
    return {key: Leaf(value, Layer(layer, user=True)) for key, value in flatten(tree).items()}


def test_trees() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d.e": [1]}) == {"a.b": 1, "a.c": {}, "d.e": [1]}
    assert nest({"a.b": 1, "a.c": {}, "d": 2}) == {"a": {"b": 1, "c": {}}, "d": 2}


def test_overlay_replaces_values_and_subtrees() -> None:
    def values(merged: Leaves) -> dict[str, Any]:
        return {key: leaf.value for key, leaf in merged.items()}

    below = leaves({"a": {"b": 1, "c": 2}, "d": None})
    assert values(overlay(below, leaves({"a": {"b": 3}}))) == {"a.b": 3, "a.c": 2, "d": None}
    assert values(overlay(below, leaves({"a": None}))) == {"a": None, "d": None}
    assert values(overlay(below, leaves({"a": {}, "d": {"e": 1}}))) == {"a.b": 1, "a.c": 2, "d.e": 1}


def test_a_value_for_a_section_is_refused() -> None:
    with pytest.raises(AVCoreError, match=r"'visual' is a section \(--set x gives it 'vit'\); .* visual.KEY"):
        section(leaves({"visual": "vit"}), "visual")
    assert section(leaves({"visual": None}), "visual") == {}
