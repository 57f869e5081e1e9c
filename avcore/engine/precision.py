"""Number formats: bf16 autocast around the forward, or plain fp32. What is trained stays in fp32 either way."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from avcore.errors import AssemblyError

__all__ = ["autocast", "check_trainable_dtype"]


def autocast(precision: Literal["bf16", "fp32"], device: torch.device) -> torch.autocast:
    """The context in which the forward runs, for ``train.precision``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def check_trainable_dtype(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Refuse trainable parameters in half precision: small updates would be rounded away.

    Raises:
        AVCoreError: names the first such parameter.
    """
    for name, parameter in parameters:
        if torch.finfo(parameter.dtype).bits < 32:
            raise AssemblyError(f"The trainable parameter '{name}' is stored as {parameter.dtype}; keep it in float32.")
