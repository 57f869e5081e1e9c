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
    checkpoint_filter: Any = importlib.import_module(type(model).__module__).checkpoint_filter_fn
    try:
        renamed = checkpoint_filter(kept, model)
        # The filter makes a head of CLIP's projection.
        filtered = {key: value.float() for key, value in renamed.items() if not key.startswith(heads)}
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        _refuse_positions(model, kept, f"'{path}' ({setting})")
        raise AVCoreError(f"'{path}' does not fit this backbone ({setting}): {error}") from error
    faults = state_faults(own, filtered)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise AVCoreError(f"'{path}' does not fit this backbone ({setting}): {shown}.")
    model.load_state_dict(filtered, strict=True)
    return _stretched(model, kept, f"'{path}' ({setting})")


def _positions(model: Any, tensors: Mapping[str, Tensor]) -> tuple[int, int, str, int]:
    """Of a file how many position vectors, of the model how many before the patches, its grid, and the side of that.

    All 0 where the file has none under timm's name or CLIP's, the model has none, or both have as many.
    """
    own, given = getattr(model, "pos_embed", None), tensors.get("pos_embed", tensors.get("visual.positional_embedding"))
    if own is None or given is None or given.ndim < 2 or given.shape[-2] == own.shape[1]:
        return 0, 0, "", 0
    rows, columns = model.patch_embed.grid_size
    return given.shape[-2], own.shape[1] - rows * columns, f"{rows} x {columns}", rows if rows == columns else 0


def _refuse_positions(model: Any, tensors: Mapping[str, Tensor], where: str) -> None:
    """Say so if a file's position vectors are those of no square grid behind as many tokens as the model has."""
    count, before, grid, _ = _positions(model, tensors)
    if not count or _root(count - before):
        return
    others = [(n, _root(count - n)) for n in (0, 1, 2, 5) if n != before]
    fits = [f"{n} before {root} x {root} patches" for n, root in others if root]
    raise AVCoreError(
        f"{where} has {count} positions, {' or '.join(fits) or 'those of no square grid'}, and this model takes "
        f"{before} before {grid} patches: name the model that the file was trained as."
    )


def _stretched(model: Any, tensors: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """What to tell of position vectors that timm stretched to the grid of a model."""
    count, before, grid, side = _positions(model, tensors)
    found = _root(count - before)
    if not count or not found or found == side:
        return ()
    return (
        f"{where} has positions of {found} x {found} patches, stretched to {grid} here; as they are with "
        f"size={found * model.patch_embed.patch_size[0]}.",
    )


def _root(count: int) -> int:
    """The whole square root; 0 if there is none."""
    root = math.isqrt(max(count, 0))
    return root if root * root == count else 0


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
