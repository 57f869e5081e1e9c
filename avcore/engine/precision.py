"""What is trained stays in float32, whatever the frozen weights are stored in."""

from collections.abc import Iterable

import torch
from torch import nn

from avcore.errors import AssemblyError

__all__ = ["check_trainable_dtype"]


def check_trainable_dtype(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Refuse trainable parameters in half precision: small updates would be rounded away.

    Raises:
        AVCoreError: names the first such parameter.
    """
    for name, parameter in parameters:
        if torch.finfo(parameter.dtype).bits < 32:
            raise AssemblyError(f"The trainable parameter '{name}' is stored as {parameter.dtype}; keep it in float32.")
