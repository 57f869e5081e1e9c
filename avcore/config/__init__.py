"""The configuration of a run: layers, merging, validation against the dataclasses of specs. Imports no torch."""

from avcore.config.describe import Setting, describe
from avcore.config.leaves import plain
from avcore.config.recipes import Recipe, demo_tasks_of, load_demo_recipe, load_recipe, recipes_of
from avcore.config.records import Chosen, DataConfig, OptimConfig, RunConfig, StreamConfig, TrainConfig
from avcore.config.resolve import Resolved, resolve_config
from avcore.config.schema import core_schema, run_schema
from avcore.config.settings import require

__all__ = [
    "Chosen",
    "DataConfig",
    "OptimConfig",
    "Recipe",
    "Resolved",
    "RunConfig",
    "Setting",
    "StreamConfig",
    "TrainConfig",
    "core_schema",
    "demo_tasks_of",
    "describe",
    "load_demo_recipe",
    "load_recipe",
    "plain",
    "recipes_of",
    "require",
    "resolve_config",
    "run_schema",
]
