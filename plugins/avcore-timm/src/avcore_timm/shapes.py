"""Models for their shapes alone, made quickly."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Unfilled"]

_FILLS = frozenset({"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"})


class Unfilled(TorchFunctionMode):
    """Within, tensors on the meta device are not given initial values.

    They have none anyhow, but torch works out each of these operations in Python: it is most of the time that making a
    model takes. Tensors on other devices are filled as ever.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The tensor itself, for what would only change its values."""
        if args and getattr(func, "__name__", "") in _FILLS and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))
