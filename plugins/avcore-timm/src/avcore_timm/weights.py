"""Pretrained weights into a timm model: from timm's hub, from a file, or none on request."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from avcore.backbones import state_faults
from avcore.errors import AVCoreError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

__all__ = ["load_file", "read_tensors"]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors: safetensors, or a torch file that holds nothing but tensors.

    Raises:
        AVCoreError: the file is missing or is neither; nothing in it is ever executed.
    """
    if not path.is_file():
        raise AVCoreError(f"Weights file '{path}' does not exist.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            return load_safetensors(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise AVCoreError(
            f"Weights file '{os.fspath(path)}' cannot be read as safetensors or as a plain torch checkpoint: {error}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise AVCoreError(f"Weights file '{path}' is no mapping of names to tensors.")
    return found


def load_file(model: "VisionTransformer", path: Path, *, setting: str) -> None:
    """Load a file strictly into a timm Vision Transformer without classifier.

    The file's classifier is left out, since avcore's heads take its place; timm's own filter resizes position vectors
    and renames the keys of the checkpoints it knows.

    Raises:
        AVCoreError: keys are missing, unexpected or misshapen; they are named.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    tensors = read_tensors(path)
    config = getattr(model, "pretrained_cfg", None) or {}
    classifier = config.get("classifier") or "head"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = {key: value for key, value in tensors.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    own = model.state_dict()
    try:
        filtered = {key: value.float() for key, value in checkpoint_filter_fn(kept, model).items()}
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise AVCoreError(f"'{path}' does not fit this backbone ({setting}): {error}") from error
    faults = state_faults(own, filtered)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise AVCoreError(f"'{path}' does not fit this backbone ({setting}): {shown}.")
    model.load_state_dict(filtered, strict=True)
