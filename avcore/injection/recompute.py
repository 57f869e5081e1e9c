"""Pieces of a forward of which the backward pass keeps what goes in and makes the rest again (`train.memory`)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from avcore.injection.standing import Place, Statistics, found_in, standing

__all__ = ["Recomputed"]

T = TypeVar("T")


class Recomputed:
    """Calls functions; between forward and backward nothing is kept of them but their inputs.

    Gradients are those of the plain call, also of tensors that the function finds elsewhere. Draws are repeated,
    running statistics change once.

    Args:
        modules: those whose parameters and statistics the functions find, with all their submodules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = tuple(dict.fromkeys(modules))

    def __call__(self, function: Callable[..., T], *given: Any) -> T:
        """What ``function(*given)`` returns.

        A compiler decides by itself what it keeps; without gradients nothing is kept anyway.
        """
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return function(*given)
        places, statistics = found_in(self._modules), Statistics(self._modules)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _as_before(places, statistics)

        made: T = checkpoint(function, *given, use_reentrant=False, context_fn=contexts)
        return made


@contextmanager
def _as_before(places: list[Place], statistics: Statistics) -> Iterator[None]:
    with standing(places), statistics.at_rest():
        yield
