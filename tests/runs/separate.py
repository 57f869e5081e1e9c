"""``avcore`` in a process of its own, with the toy world as its only plugin."""

import importlib
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def avcore_with_the_toy_world(cache: str, arguments: Sequence[str]) -> None:
    """What the command line does with these arguments; leaves the process as it does."""
    spec = importlib.util.spec_from_file_location("avcore_toy_world", Path(__file__).with_name("toy_world.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["avcore_toy_world"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # A process takes its way of starting others from its parent; by another way loaders could not import the module.
    multiprocessing.set_start_method("fork", force=True)
    os.environ["AVCORE_CACHE"] = cache
    os.environ.pop("AVCORE_DATA", None)

    from avcore.cli import main
    from avcore.registry import Registry

    registry = Registry.from_modules({"toy-world": module.Plugin()})
    for name in ("avcore.runs.start", "avcore.runs.base", "avcore.assemble", "avcore.cli.options"):
        vars(importlib.import_module(name))["load_registry"] = lambda: registry
    main(list(arguments))
