"""What stands in the places of trained parameters while a forward lasts, and again where a piece of it is recomputed.

Where frozen weights and tokens are in half precision, what parts train is cast to it once for each forward, many
tensors together, and stands there under its own name: so a part computes in the type of the tokens, and no operation
casts for itself. The parameters proper stay in float32, and so do their gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

__all__ = ["Place", "Statistics", "cast_together", "found_in", "standing"]


TOGETHER = 2**23
"""Numbers cast at once. Their gradients wait in half precision until the last is there, and several processes add them
up while the rest of the backward pass runs: not all of a large method's at its end."""


class Place(NamedTuple):
    """Where a parameter is looked for, and what is found there."""

    module: nn.Module
    name: str
    tensor: Tensor


def found_in(modules: Iterable[nn.Module]) -> list[Place]:
    """The parameters of modules themselves, without those of their submodules, or what stands in their places."""
    return [
        Place(module, name, tensor)
        for module in modules
        for name, tensor in module._parameters.items()
        if tensor is not None
    ]


@contextmanager
def standing(places: Iterable[Place]) -> Iterator[None]:
    """Within it, each tensor stands in its place; afterwards, what stood there before."""
    before: list[Place] = []
    try:
        for module, name, tensor in places:
            held: Any = module._parameters[name]
            before.append(Place(module, name, held))
            _put(module, name, tensor)
        yield
    finally:
        for module, name, tensor in reversed(before):
            _put(module, name, tensor)


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    module._parameters[name] = tensor  # type: ignore[assignment]
    if isinstance(module, nn.RNNBase):  # it keeps a second list
        module._flat_weights[module._flat_weights_names.index(name)] = tensor


def cast_together(modules: Iterable[nn.Module], dtype: torch.dtype) -> list[Place]:
    """Casts of the parameters of modules, made in few goes.

    Batch norms keep float32, as their running statistics do: they take tokens in half precision as they are. So do
    parameters that their module names in ``stays_single``.

    Args:
        modules: without their submodules, in the order in which a forward comes to them.
        dtype: what their parameters in float32 become.
    """
    found = [
        place
        for place in found_in(module for module in modules if not isinstance(module, _BatchNorm))
        if place.tensor.dtype == torch.float32 and place.name not in getattr(place.module, "stays_single", ())
    ]
    groups: list[list[Tensor]] = []
    room = 0
    for tensor in {id(place.tensor): place.tensor for place in found}.values():
        if tensor.numel() > room:
            groups.append([])
            room = TOGETHER
        groups[-1].append(tensor)
        room -= tensor.numel()
    made: dict[int, Tensor] = {}
    for group in groups:
        # Those that would leave the ones behind them at odd addresses come last.
        ordered = sorted(group, key=lambda tensor: tensor.numel() % 8 > 0)
        made |= zip(map(id, ordered), _Cast.apply(dtype, *ordered), strict=True)  # type: ignore[no-untyped-call]
    return [Place(module, name, made[id(tensor)]) for module, name, tensor in found]


class _Cast(torch.autograd.Function):
    """Tensors in another type, through one buffer; gradients come back in their own type through another."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.kind = given[0].dtype
        return _copied(given, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        pieces = iter(_copied([grad for grad in grads if grad is not None], ctx.kind))
        return None, *(None if grad is None else next(pieces) for grad in grads)


def _copied(given: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Copies in another type, one behind the other in one buffer, by one operator."""
    sizes = [tensor.numel() for tensor in given]
    flat = given[0].new_empty(sum(sizes), dtype=dtype)
    made = tuple(piece.view(tensor.shape) for piece, tensor in zip(flat.split(sizes), given, strict=True))
    torch._foreach_copy_(made, tuple(given))
    return made


class Statistics:
    """What a forward changes in place, running statistics and other buffers that are saved, as it was before.

    Args:
        modules: without their submodules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        training = [module for module in modules if module.training and module._buffers]
        self.norms = [module for module in training if isinstance(module, _NormBase)]
        self.others = [
            (module, name, own.clone())
            for module in training
            if not isinstance(module, _NormBase)
            for name, own in module._buffers.items()
            if own is not None and name not in module._non_persistent_buffers_set
        ]

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Within it a forward finds what it found before, and what it changes of it is lost."""
        momenta = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        others = [(module, name, module._buffers[name]) for module, name, _ in self.others]
        try:
            for norm in self.norms:
                norm.momentum, norm.num_batches_tracked = 0.0, None
            for module, name, before in self.others:
                module._buffers[name] = before.clone()
            yield
        finally:
            for norm, momentum, tracked in momenta:
                norm.momentum, norm.num_batches_tracked = momentum, tracked
            for module, name, own in others:
                module._buffers[name] = own
