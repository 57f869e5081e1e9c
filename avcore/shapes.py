"""Models for their shapes alone, made and run quickly on the meta device, where torch works much out in Python."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["RememberedShapes", "WithoutValues"]

MOST = 20_000
"""Results that are kept in a process; each is a few numbers."""

_ANEW, _IN_PLACE = "anew", "in place"
_APART = "torch._decomp.decompositions"

_OPERATORS = {"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"}
_INITIALISERS = {"constant_", "kaiming_uniform_"}
"""Of `torch.nn.init`, those that a mode is shown whole; the others call operators."""
_FILLS = frozenset(_OPERATORS | _INITIALISERS)


class _UnknownError(Exception):
    """An argument that nothing can be remembered of, or a tensor with values."""


class WithoutValues(DeviceContext):
    """Within, tensors are made on the meta device and are not given initial values.

    They have none anyhow, but torch works out each of these operations: that is most of the time that making a model
    takes. Tensors made elsewhere are filled as ever. Not for running a model: what a forward pass does in place
    would be left out too.
    """

    def __init__(self) -> None:
        super().__init__(torch.device("meta"))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The tensor itself, for what would only change its values."""
        if getattr(func, "__name__", "") in _FILLS:
            filled = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


class RememberedShapes(TorchDispatchMode):
    """While it is on, an operator on tensors without values gives what it gave for such arguments before, anew.

    Autograd stands above it, so that the graph is the true one. What changes the values of its first argument alone
    gives that, and there is nothing to change. What gives a view, or makes one of its argument, is called as ever.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    _made: dict[Any, Any] = {}  # noqa: RUF012 - shared on purpose
    _kinds: dict[Any, str | None] = {}  # noqa: RUF012 - operator: what is remembered of it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        given = kwargs or {}
        kind = self._kind(func)
        if kind is None:
            return func(*args, **given)
        try:
            key = (func, _key(args), _key(tuple(given.items())))
        except _UnknownError:
            return func(*args, **given)
        if key in self._made:
            return args[0] if kind is _IN_PLACE else _again(self._made[key])
        out = self._worked_out(func, args, given)
        form = True if kind is _IN_PLACE else _form(out)
        if form is not None:
            if len(self._made) >= MOST:
                self._made.clear()
            self._made[key] = form
        return out

    def _worked_out(self, func: Any, args: Any, given: Any) -> Any:
        """What torch gives; where it takes a tensor's operator apart into others, these are remembered too."""
        apart = func.py_kernels.get(torch._C.DispatchKey.Meta)
        if getattr(apart, "__module__", "") != _APART or not isinstance(args[0], Tensor):
            return func(*args, **given)
        with self:
            out = apart(*args, **given)
        return tuple(out) if isinstance(out, tuple) else out

    def _kind(self, func: Any) -> str | None:
        if func not in self._kinds:
            self._kinds[func] = _kind_of(func)
        return self._kinds[func]


def _kind_of(func: Any) -> str | None:
    schema = getattr(func, "_schema", None)
    if schema is None:
        return None
    written = [one.alias_info is not None and one.alias_info.is_write for one in schema.arguments]
    aliased = [one.alias_info is not None for one in schema.returns]
    if not any(written):
        return None if any(aliased) else _ANEW
    alone = written[0] and not any(written[1:]) and aliased == [True]
    return _IN_PLACE if alone and torch.Tag.inplace_view not in func.tags else None


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
