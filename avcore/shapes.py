"""Operators on the meta device, remembered: torch works out many shapes there in Python, block after block the same."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["RememberedShapes"]

MOST = 20_000
"""Results that are kept in a process; each is a few numbers."""


class _UnknownError(Exception):
    """An argument that nothing can be remembered of, or a tensor with values."""


class RememberedShapes(TorchDispatchMode):
    """While it is on, an operator on tensors without values gives what it gave for such arguments before, anew.

    Autograd stands above it, so that the graph is the true one. What changes its arguments, or gives a view of them, is
    called as ever.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    _made: dict[Any, Any] = {}  # noqa: RUF012 - shared on purpose
    _plain: dict[Any, bool] = {}  # noqa: RUF012 - operator: neither changes its arguments nor gives a view

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        given = kwargs or {}
        if not self._is_plain(func):
            return func(*args, **given)
        try:
            key = (func, _key(args), _key(tuple(given.items())))
        except _UnknownError:
            return func(*args, **given)
        if key in self._made:
            return _again(self._made[key])
        out = func(*args, **given)
        if (form := _form(out)) is not None:
            if len(self._made) >= MOST:
                self._made.clear()
            self._made[key] = form
        return out

    def _is_plain(self, func: Any) -> bool:
        if func not in self._plain:
            schema = getattr(func, "_schema", None)
            self._plain[func] = schema is not None and not (
                schema.is_mutable or any(one.alias_info is not None for one in schema.returns)
            )
        return self._plain[func]


def _key(thing: Any) -> Any:
    """What decides the shapes of a result."""
    if isinstance(thing, Tensor):
        if type(thing) not in (Tensor, torch.nn.Parameter) or not thing.is_meta:
            raise _UnknownError
        return thing.shape, thing.stride(), thing.dtype
    if isinstance(thing, list | tuple):
        return tuple(map(_key, thing))
    if thing is None or isinstance(thing, bool | int | float | str | torch.dtype | torch.device | torch.layout):
        return type(thing), thing  # 1, 1.0 and True are equal
    if isinstance(thing, torch.memory_format):
        return thing
    raise _UnknownError


def _form(out: Any) -> Any:
    """A result without its tensors; None where there is something else in it."""
    if isinstance(out, Tensor):
        return (tuple(out.shape), out.stride(), out.dtype) if type(out) is Tensor and out.is_meta else None
    if type(out) in (list, tuple):
        forms = [_form(one) for one in out]
        return None if None in forms else (type(out), forms)
    return None


def _again(form: Any) -> Any:
    if isinstance(form[0], type):
        return form[0](map(_again, form[1]))
    shape, stride, dtype = form
    return torch.ops.aten.empty_strided.default(shape, stride, dtype=dtype, device=torch.device("meta"))
