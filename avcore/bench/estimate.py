"""What a training step would cost on a CUDA device, from shapes alone: no device, no weights, no data."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from avcore.assemble import assemble
from avcore.bench.counting import Counting, CudaRules
from avcore.config import RunConfig
from avcore.engine.optim import build_optimizer
from avcore.gradients import blank_batch
from avcore.model import AVModel
from avcore.registry import Registry
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
        kept: bytes of what is kept for the backward pass, parameters left out.
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

    def to_json(self) -> dict[str, Any]:
        """The fields, for a record."""
        return asdict(self)


def shapes_of(config: RunConfig, registry: Registry) -> AVModel:
    """The model of a configuration on the meta device, its frozen weights in the run's precision.

    Raises:
        AVCoreError: as `assemble`.
    """
    model = assemble(config, registry, meta=True)
    if config.train.precision == "bf16":
        model.towers.to(torch.bfloat16)
    return model


def estimate(model: AVModel, clips: int, *, training: bool = True) -> Estimate:
    """The cost of one step of a batch of ``clips``: forward, losses, backward, update.

    Args:
        model: as `shapes_of` makes it.
        clips: B.
        training: False for the forward of an evaluation.
    """
    rules, counting = CudaRules(), Counting()
    for tensor in (*model.parameters(), *model.buffers()):
        counting.hold(tensor)
    kept = _Kept(model)
    model.train(training)
    with torch.device("meta"), RememberedShapes(), rules, counting:
        counting.phase = "batch"
        batch = blank_batch(model, clips, companions=True)
        made, counting.live, counting.peak = counting.live, 0, 0
        counting.phase = "forward"
        hooks = torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack) if training else nullcontext()
        with torch.set_grad_enabled(training), hooks:
            with torch.autocast("cpu", torch.bfloat16, enabled=model.config.train.precision == "bf16"):
                output = model(batch)
            rules.forget()
            if training:
                loss = torch.stack([one.reshape(()) for one in model.losses(output, batch).values()]).sum()
        del output
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
        kept=kept.bytes,
        kept_tensors=len(kept.seen),
        fixed=fixed,
        kernels=kernels,
        flop={phase: counting.flop[phase] for phase in phases},
    )


class _Kept:
    """Hooks of autograd: what is kept for the backward pass, each storage once, parameters left out."""

    def __init__(self, model: AVModel) -> None:
        self.own = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}
        self.seen: set[int] = set()
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own and storage._cdata not in self.seen:
            # Until the backward pass frees it, no other storage has this address.
            self.seen.add(storage._cdata)
            self.bytes += storage.nbytes()
        # What an operator keeps of its own result would keep itself alive.
        return tensor.detach()

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        return tensor


def _updates(model: AVModel) -> int:
    """Operators of the fused optimiser: two for each group, three for the norm, and what clips by it."""
    groups = len(build_optimizer(parameter_groups(model), model.config.optim).param_groups)
    return 2 * groups + 3 + (4 if model.config.optim.clip_norm is not None else 0)
