"""Checkpoints of other projects as named tensors. Nothing in a file is ever executed."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore.errors import AVCoreError

__all__ = ["read_tensors"]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the tensors."""
PARALLEL = "module."
"""What data parallel training puts before every name."""


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read ``.safetensors``, or a torch file that holds nothing but tensors and plain values, on the CPU.

    The usual wrappers are taken off: ``state_dict``, ``model_state_dict``, ``model``, and a ``module.`` before every
    name.

    Raises:
        AVCoreError: the file is missing, is no checkpoint, holds code or other objects, or is no mapping of names to
            tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise AVCoreError(f"Weights file '{file}' does not exist.")
    found = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    while isinstance(found, Mapping):
        inner = [found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)]
        if not inner:
            break
        found = inner[0]
    if not isinstance(found, Mapping) or not found:
        raise AVCoreError(f"Weights file '{file}' is no mapping of names to tensors.")
    others = [f"'{key}' holds {type(value).__name__}" for key, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise AVCoreError(f"Weights file '{file}' is no mapping of names to tensors: {', '.join(others[:5])}.")
    tensors = {str(key): value for key, value in found.items()}
    if all(key.startswith(PARALLEL) for key in tensors):
        tensors = {key.removeprefix(PARALLEL): value for key, value in tensors.items()}
    return tensors


def _read_safetensors(file: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise AVCoreError(f"Weights file '{file}' cannot be read as safetensors: {_one_line(error)}.") from error


def _read_torch(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # A pickle that torch did not write; what is wrong with it is said below.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        wanted = re.search(r"GLOBAL (\S+)|Trying to call reduce for unrecognized function (.+)", str(error))
        if wanted:
            name = wanted[1] or wanted[2]
            raise AVCoreError(
                f"Weights file '{file}' holds more than tensors ({name}). Nothing in it was executed or loaded: ask "
                f"for a file of its state_dict alone."
            ) from error
        raise AVCoreError(
            f"Weights file '{file}' is no checkpoint: neither safetensors nor a torch file ({type(error).__name__})."
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
