"""What `torch.compile` makes of one step of the forward: a pair of blocks with the parts at their sites."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from avcore.backbones import Tower
from avcore.injection import Step
from avcore.model import AVModel

__all__ = ["Captured", "capture", "tokens_for"]


@dataclass(frozen=True)
class Captured:
    """A step that became one graph.

    Attributes:
        graph: as traced, before a backend lowers it.
        output: what the compiled step returned: tokens of each stream, carried rows, offers.
    """

    graph: fx.GraphModule
    output: tuple[dict[str, Tensor], dict[tuple[str, str], Tensor], list[tuple[str, Tensor]]]

    @property
    def nodes(self) -> int:
        """How many operations the graph holds; inputs, parameters and the output do not count."""
        return sum(node.op.startswith("call_") for node in self.graph.graph.nodes)


def capture(step: Step, x: Mapping[str, Tensor], carried: Mapping[tuple[str, str], Tensor] | None = None) -> Captured:
    """Compile a step, ``model.steps[i]``, with ``fullgraph=True`` and run it.

    The graph is executed as traced, so that no compiler is needed.

    Args:
        step: one entry of a model's plan.
        x: tokens (M, N, D) of each stream that runs.
        carried: rows from the step before; none by default.

    Raises:
        torch._dynamo.exc.TorchDynamoException: the step does not trace into one graph.
    """
    graphs: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, example_inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    output = torch.compile(step, fullgraph=True, backend=keep)(dict(x), dict(carried or {}))
    (graph,) = graphs
    return Captured(graph, output)


def tokens_for(model: AVModel, index: int = 0, clips: int = 2, *, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens (M, N, D) such as entry ``index`` of the plan takes, for the streams that run."""
    draws = torch.Generator().manual_seed(seed)
    entry, made = model.plan[index], {}
    for stream, block in model.steps[index].blocks.items():
        tower = model.towers[stream]
        assert isinstance(tower, Tower)
        layout = tower.layout.blocks[getattr(entry, stream)]
        shape = (clips * model.segments, layout.tokens, layout.width)
        made[stream] = torch.randn(shape, generator=draws).to(block.dtype)
    return made
