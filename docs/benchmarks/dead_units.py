"""Count the units of a head that are dead: channels behind a ReLU that no position of a batch of val wakes.

python docs/benchmarks/dead_units.py RUN [RUN ...]
"""

import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import avcore

AWAKE = 1e-4
"""Share of positions at which a unit that is not dead is above 0."""


class Units(TorchFunctionMode):
    """Writes down, for each ReLU of maps (M, C, Y, X), which channels are dead."""

    def __init__(self) -> None:
        super().__init__()
        self.dead: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.relu, torch.nn.functional.relu) and out.ndim == 4:
            self.dead.append((out > 0).float().mean((0, 2, 3)) < AWAKE)
        return out


def main() -> None:
    """A line for each run."""
    for path in sys.argv[1:]:
        run = avcore.load_run(path)
        with torch.no_grad(), Units() as units:
            run.model(next(iter(run.data.loader("val"))))
        dead = torch.cat(units.dead)
        print(f"{path}: {int(dead.sum())} of {len(dead)} dead")


if __name__ == "__main__":
    main()
