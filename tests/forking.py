"""Run command lines in processes forked from one that has imported what takes seconds: torch, timm, TensorBoard.

A request is a line on standard input: ``words`` (``avcore ...`` or ``python FILE ...``), ``cwd``, ``environment``,
``out``, the file for what is shown, and ``clips``, the sizes of the demo's splits. The answer is a line with the exit
code.
"""

import gc
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any


def _next_request() -> dict[str, Any]:
    """Answer requests for ever; return one in each process that is forked for it."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def _perform(asked: dict[str, Any]) -> None:
    """Do what is asked; leaves the process as the command does."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    shown = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(shown, 1)
    os.dup2(shown, 2)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    avcore_demo.provide.COUNTS = dict.fromkeys(avcore_demo.provide.COUNTS, asked["clips"])
    command, *arguments = asked["words"]
    if command == "avcore":
        from avcore.cli import main

        sys.argv = [command, *arguments]
        sys.exit(main())
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).parent.absolute())
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    from avcore import compat

    compat.install()
    import timm  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import avcore.cli.params
    import avcore.runs  # noqa: F401
    import avcore_demo.provide
    from avcore.registry import _load_registry, load_registry

    # Imports the plugins; each command then reads its own environment.
    load_registry()
    _load_registry.cache_clear()
    # A collection in a child would look at every object made so far, and so copy the memory that is shared until then.
    gc.collect()
    gc.freeze()

    _perform(_next_request())
