"""Pretrained weights into a timm model: from timm's hub, from a file, or none on request."""

import importlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from avcore.backbones import read_tensors, state_faults
from avcore.errors import AVCoreError

__all__ = ["load_file", "swin_keys"]

_SWIN_BUFFERS = ("attn_mask", "relative_position_index", "relative_coords_table")
"""What Swin files of timm 0.6 hold although it follows from the sizes."""


def load_file(model: nn.Module, path: Path, *, setting: str) -> tuple[str, ...]:
    """Load a file strictly into a timm model.

    The file's classifier is left out, since avcore's heads take its place, unless the model has one: a projection.
    timm's own filter of the model's family resizes position vectors and renames the keys of the checkpoints it knows.

    Returns:
        What the user must be told.

    Raises:
        AVCoreError: keys are missing, unexpected or misshapen, or the positions are of no square grid.
    """
    own = model.state_dict()
    tensors = read_tensors(path, own)
    config = getattr(model, "pretrained_cfg", None) or {}
    classifier = config.get("classifier") or "head"
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    heads = tuple(f"{name.partition('.')[0]}." for name in names)
    if any(key.startswith(heads) for key in own):
        heads = ()
    kept = {key: value for key, value in tensors.items() if not key.startswith(heads)}
    notices = _fit_positions(model, kept.get("pos_embed"), f"'{path}' ({setting})")
    checkpoint_filter: Any = importlib.import_module(type(model).__module__).checkpoint_filter_fn
    try:
        renamed = checkpoint_filter(kept, model)
        # The filter makes a head of CLIP's projection.
        filtered = {key: value.float() for key, value in renamed.items() if not key.startswith(heads)}
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise AVCoreError(f"'{path}' does not fit this backbone ({setting}): {error}") from error
    faults = state_faults(own, filtered)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise AVCoreError(f"'{path}' does not fit this backbone ({setting}): {shown}.")
    model.load_state_dict(filtered, strict=True)
    return notices


def _fit_positions(model: Any, positions: Tensor | None, where: str) -> tuple[str, ...]:
    """What to tell of position vectors that timm stretches to the grid of a model.

    Raises:
        AVCoreError: they are not those of a square grid behind as many tokens as the model has before its patches.
    """
    own = getattr(model, "pos_embed", None)
    if positions is None or own is None or positions.ndim != 3 or positions.shape[1] == own.shape[1]:
        return ()
    rows, columns = model.patch_embed.grid_size
    before = own.shape[1] - rows * columns
    count = positions.shape[1]
    side = math.isqrt(max(count - before, 0))
    if side == 0 or side * side != count - before:
        others = [(n, math.isqrt(count - n)) for n in (0, 1, 2, 5) if n != before and count > n]
        fits = [f"{n} before {root} x {root} patches" for n, root in others if root * root == count - n]
        raise AVCoreError(
            f"{where} has {count} positions, {' or '.join(fits) or 'those of no square grid'}, and this model takes "
            f"{before} before {rows} x {columns} patches: name the model that the file was trained as."
        )
    size = side * model.patch_embed.patch_size[0]
    return (
        f"{where} has positions of {side} x {side} patches, stretched to {rows} x {columns} here; as they are with "
        f"size={size}.",
    )


def swin_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swin weights (version 1 or 2) under the names of timm 0.6, renamed to those of timm 1.0.

    There merging ends a stage, ``layers.0.downsample``; here it begins the next, ``layers.1.downsample``. The
    classifier ``head`` is ``head.fc`` now. Masks and tables that follow from the sizes are left out. Names of timm 1.0
    stay as they are, and so do names that are not Swin's.
    """
    old = "layers.0.downsample.reduction.weight" in tensors
    renamed = {}
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] in _SWIN_BUFFERS:
            continue
        if old:
            key = re.sub(r"^layers\.(\d+)\.downsample\.", _one_later, key)
            key = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", key)
        renamed[key] = tensor
    return renamed


def _one_later(found: re.Match[str]) -> str:
    return f"layers.{int(found[1]) + 1}.downsample."
