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
    Rows,
    TextTower,
    Tower,
    digest,
    norms_of,
    plus,
    run_phases,
    state_faults,
    without_blocks,
)
from avcore.backbones.copies import has_copy
from avcore.backbones.files import read_tensors
from avcore.backbones.hub import ask_hub_once
from avcore.backbones.lean import directions, gated_linear, made_again, quick_gelu
from avcore.backbones.rows import apart, beside_rows, pieces_of, queries_keys_apart, spread, together
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
    "Rows",
    "TextTower",
    "Tower",
    "apart",
    "ask_hub_once",
    "attend",
    "attend_in_windows",
    "beside_rows",
    "digest",
    "directions",
    "fused",
    "gated_linear",
    "has_copy",
    "made_again",
    "norms_of",
    "pieces_of",
    "plus",
    "queries_keys_apart",
    "quick_gelu",
    "read_tensors",
    "run_phases",
    "split_heads",
    "spread",
    "state_faults",
    "together",
    "without_blocks",
]
