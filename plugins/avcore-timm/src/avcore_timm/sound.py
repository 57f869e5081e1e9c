"""What the families made for sound share: weights from a published file, and no pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from avcore.backbones import read_tensors, state_faults
from avcore.errors import AVCoreError
from avcore_timm.models import random_notices

__all__ = ["Rename", "fill"]

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Tensors under published names to tensors under the backbone's; unknown names stay as they are."""


def fill(
    own: Mapping[str, Tensor], weights: str | None, *, name: str, rename: Rename, published: str
) -> tuple[str, ...]:
    """Load a published file strictly over the weights of a backbone; on the meta device nothing is read.

    Args:
        own: the backbone's tensors by name, changed in place.
        weights: the setting: path of a file, or ``random``.
        name: of the backbone.
        rename: applied to what the file holds.
        published: which file is meant, for who has none.

    Returns:
        What the user must be told.

    Raises:
        AVCoreError: no file is named, or it cannot be read, or keys are missing, unexpected or misshapen; names all.
    """
    if torch.empty(0).device.type == "meta":
        return ()
    if weights is None:
        raise AVCoreError(
            f"'{name}' has no weights: pass a file with --set audio.weights=PATH ({published}), or ask for --set "
            f"audio.weights=random."
        )
    if weights == "random":
        return random_notices(name, True)
    given = rename(read_tensors(Path(weights), own))
    faults = state_faults(own, given)
    if faults:
        raise AVCoreError(f"'{weights}' does not fit '{name}' (audio.weights): {'; '.join(faults)}.")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(given[key])
    return ()
