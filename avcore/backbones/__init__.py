"""Frozen encoders behind one interface; the core knows no family of them."""

from avcore.backbones.attention import attend, attend_in_windows, fused, split_heads
from avcore.backbones.base import (
    Backbone,
    BackboneBuilder,
    Block,
    Frozen,
    Increment,
    Phases,
    Point,
    Projection,
    TextTower,
    Tower,
    digest,
    norms_of,
    plus,
    run_phases,
    state_faults,
    without_blocks,
)
from avcore.backbones.files import read_tensors
from avcore.backbones.hub import ask_hub_once
from avcore.backbones.windows import AttentionWindows

__all__ = [
    "AttentionWindows",
    "Backbone",
    "BackboneBuilder",
    "Block",
    "Frozen",
    "Increment",
    "Phases",
    "Point",
    "Projection",
    "TextTower",
    "Tower",
    "ask_hub_once",
    "attend",
    "attend_in_windows",
    "digest",
    "fused",
    "norms_of",
    "plus",
    "read_tensors",
    "run_phases",
    "split_heads",
    "state_faults",
    "without_blocks",
]
