"""How parts act on the forward: their base classes, the sites, the merging rules, the plan of pairs."""

from avcore.injection.parts import (
    Edit,
    Edits,
    Fusion,
    FusionLayer,
    Layer,
    PairLayout,
    Part,
    Prompt,
    PromptLayer,
)
from avcore.injection.plan import PlanEntry, make_plan
from avcore.injection.recompute import Recomputed
from avcore.injection.step import Mounted, Step, sites_of
from avcore.injection.views import BlockView, PairView, SideView, StreamView

__all__ = [
    "BlockView",
    "Edit",
    "Edits",
    "Fusion",
    "FusionLayer",
    "Layer",
    "Mounted",
    "PairLayout",
    "PairView",
    "Part",
    "PlanEntry",
    "Prompt",
    "PromptLayer",
    "Recomputed",
    "SideView",
    "Step",
    "StreamView",
    "make_plan",
    "sites_of",
]
