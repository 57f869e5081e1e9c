"""Checkpoints of other projects as named tensors. Nothing in a file is ever executed."""

import logging
import os
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore.errors import AVCoreError

__all__ = ["read_tensors"]

_logger = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the tensors."""
PARALLEL = ("module.", "_orig_mod.")
"""What data parallel training and compiling put before every name."""
HOLDERS = ("model.", "net.", "network.", "backbone.", "encoder.")
"""What modules that train a network, such as Lightning's, put before every name of it."""


def read_tensors(path: str | os.PathLike[str], own: Collection[str] | None = None) -> dict[str, Tensor]:
    """Read ``.safetensors``, or a torch file that holds nothing but tensors and plain values, on the CPU.

    The usual wrappers are taken off: ``state_dict``, ``model_state_dict``, ``model``, or the only mapping of tensors in
    it, and a ``module.`` before every name. Where the file has more tensors of the same names, such as a moving
    average in ``model_ema``, it is logged which were taken.

    Args:
        path: of the file.
        own: the names that they are for: a ``model.``, ``net.``, ``backbone.``, ... before every name of the file and
            before none of these is taken off too.

    Raises:
        AVCoreError: the file is missing, is no checkpoint, holds code or other objects, or is no mapping of names to
            tensors, or of several.
    """
    file = Path(path)
    if not file.is_file():
        raise AVCoreError(f"Weights file '{file}' does not exist.")
    found = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    while isinstance(found, Mapping) and (key := _wrapper(found, file)) is not None:
        found = found[key]
    if not isinstance(found, Mapping) or not found:
        raise AVCoreError(f"Weights file '{file}' is no mapping of names to tensors.")
    others = [f"'{key}' holds {type(value).__name__}" for key, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise AVCoreError(f"Weights file '{file}' is no mapping of names to tensors: {', '.join(others[:5])}.")
    return _bare({str(key): value for key, value in found.items()}, own)


def _wrapper(found: Mapping[Any, Any], file: Path) -> Any:
    """The key under which the tensors lie; None if they lie here.

    Raises:
        AVCoreError: they lie under several keys that are all strange.
    """
    sets = {key: set(_bare(value, None)) for key, value in found.items() if _is_state(value)}
    taken = next((key for key in WRAPPERS if isinstance(found.get(key), Mapping)), None)
    if taken is None and sets and not any(isinstance(value, Tensor) for value in found.values()):
        if len(sets) > 1:
            raise AVCoreError(
                f"Weights file '{file}' holds several mappings of names to tensors: {_listed(sets)}. Which one? Save "
                f"it by itself: {_saving(file, next(iter(sets)))}."
            )
        (taken,) = sets
    used = set(_bare(_inner(found[taken]), None)) if taken is not None else set()
    others = [key for key, names in sets.items() if key != taken and 2 * len(names & used) > len(names)]
    if others:
        _logger.warning(
            f"Weights file '{file}' holds the same names under {_listed([taken, *others])}: '{taken}' was taken. To "
            f"use '{others[0]}', save it by itself: {_saving(file, others[0])}."
        )
    return taken


def _inner(value: Any) -> Any:
    """What lies within wrappers; nothing if that is no mapping of names to tensors."""
    while isinstance(value, Mapping) and (inner := [value[key] for key in WRAPPERS if key in value]):
        value = inner[0]
    return value if _is_state(value) else {}


def _is_state(value: Any) -> bool:
    """Whether it is a mapping of names to tensors."""
    whole = isinstance(value, Mapping) and bool(value)
    return whole and all(isinstance(key, str) and isinstance(one, Tensor) for key, one in value.items())


def _bare(tensors: Mapping[str, Tensor], own: Collection[str] | None) -> dict[str, Tensor]:
    """The tensors without what stands before every name."""
    prefixes = [one for one in HOLDERS if own is not None and not any(name.startswith(one) for name in own)]
    for prefix in (*PARALLEL, *prefixes):
        if tensors and all(key.startswith(prefix) for key in tensors):
            return _bare({key.removeprefix(prefix): value for key, value in tensors.items()}, own)
    return dict(tensors)


def _listed(keys: Collection[Any]) -> str:
    *first, last = (f"'{key}'" for key in keys)
    return f"{', '.join(first)} and {last}"


def _saving(file: Path, key: Any) -> str:
    return f"torch.save(torch.load('{file}', weights_only=True)['{key}'], '{key}.pth')"


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
