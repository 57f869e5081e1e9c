"""Frozen encoders behind one interface; the core knows no family of them."""

from avcore.backbones.attention import attend, row_columns, split_heads
from avcore.backbones.base import Backbone, BackboneBuilder, Block, Frozen, Projection, Tower, digest, state_faults
from avcore.backbones.files import read_tensors

__all__ = [
    "Backbone",
    "BackboneBuilder",
    "Block",
    "Frozen",
    "Projection",
    "Tower",
    "attend",
    "digest",
    "read_tensors",
    "row_columns",
    "split_heads",
    "state_faults",
]
