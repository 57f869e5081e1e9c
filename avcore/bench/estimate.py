"""What a training step would cost on a CUDA device, from shapes alone: no device, no weights, no data."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from avcore.bench.counting import Counting, CudaRules
from avcore.config import RunConfig
from avcore.engine.optim import build_optimizer
from avcore.errors import AssemblyError
from avcore.gradients import blank_batch
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.runs.base import build_model
from avcore.shapes import RememberedShapes
from avcore.states import parameter_groups

__all__ = ["Estimate", "estimate", "shapes_of"]

STATES = {"adam": 2, "adamw": 2, "sgd": 1}
"""Tensors that an optimiser keeps for each trained one."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a step, or of a forward for evaluation.

    Attributes:
        clips: of the batch.
        peak: bytes in use at most, weights, the state of the optimiser and the batch among them.
        kept: bytes of what is there between forward and backward besides: what the backward pass needs.
        kept_tensors: how many storages these are.
        fixed: bytes of what is there between steps: weights, the state of the optimiser, the batch.
        kernels: operators that reach the dispatcher, views left out, of ``forward`` (with the losses), ``backward`` and
            ``optimiser``.
        flop: of products and convolutions, of ``forward`` and ``backward``.
    """

    clips: int
    peak: int
    kept: int
    kept_tensors: int
    fixed: int
    kernels: Mapping[str, int]
    flop: Mapping[str, int]


def shapes_of(config: RunConfig, registry: Registry) -> AVModel:
    """The model of a configuration on the meta device, its frozen weights in the run's precision.

    Raises:
        AVCoreError: as `assemble`.
    """
    return build_model(config, registry, meta=True)


def estimate(model: AVModel, clips: int, *, training: bool = True) -> Estimate:
    """The cost of one step of a batch of ``clips``: forward, losses, backward, update.

    Args:
        model: as `shapes_of` makes it.
        clips: B.
        training: False for the forward of an evaluation.

    Raises:
        AVCoreError: the head does not say what its loss reads.
    """
    if training and not model.head.targets:
        raise AssemblyError(
            f"Head '{model.config.head.name}' does not declare what its loss reads (Head.targets), so no batch can be "
            "made up for it: choose another head (--set head.name=NAME), or ask its author."
        )
    rules, counting = CudaRules(), Counting()
    for tensor in (*model.parameters(), *model.buffers()):
        counting.hold(tensor)
    model.train(training)
    with torch.device("meta"), RememberedShapes(), rules, counting:
        counting.phase = "batch"
        batch = blank_batch(model, clips, companions=True)
        made, counting.live, counting.peak, counting.tensors = counting.live, 0, 0, 0
        counting.phase = "forward"
        with torch.set_grad_enabled(training):
            with torch.autocast("cpu", torch.bfloat16, enabled=model.config.train.precision == "bf16"):
                output = model(batch)
            rules.forget()
            if training:
                loss = torch.stack([one.reshape(()) for one in model.losses(output, batch).values()]).sum()
        del output
        kept, kept_tensors = counting.live, counting.tensors
        if training:
            counting.phase = "backward"
            # Not `Tensor.backward`, which leaves the rules while it runs: what is recomputed would not be under them.
            engine = torch.autograd.Variable._execution_engine
            engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, accumulate_grad=True)
    trained = [one for group in parameter_groups(model).values() for _, one in group]
    optimizer = model.config.optim.optimizer
    states = STATES[optimizer] * sum(one.numel() * one.element_size() for one in trained) if training else 0
    for one in trained:
        one.grad = None
    phases = ("forward", "backward") if training else ("forward",)
    kernels = {phase: counting.kernels[phase].total() for phase in phases}
    if training:
        kernels["optimiser"] = _updates(model)
    fixed = counting.fixed + made + states
    return Estimate(
        clips=clips,
        peak=fixed + counting.peak,
        kept=kept,
        kept_tensors=kept_tensors,
        fixed=fixed,
        kernels=kernels,
        flop={phase: counting.flop[phase] for phase in phases},
    )


def _updates(model: AVModel) -> int:
    """Operators of the fused optimiser: two for each group, three for the norm, and what clips by it."""
    groups = len(build_optimizer(parameter_groups(model), model.config.optim).param_groups)
    return 2 * groups + 3 + (4 if model.config.optim.clip_norm is not None else 0)
