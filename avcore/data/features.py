"""Features that others computed, one file for each clip, as inputs of a model."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avcore.errors import DataError

__all__ = ["read_features"]


def read_features(path: str | os.PathLike[str], shape: Sequence[int], *, key: str | None = None) -> Tensor:
    """Read an array of a declared shape from ``.npy``, ``.pt`` or ``.h5``, for `Dataset.inputs`.

    HDF5 takes h5py, which the extra ``avcore[hdf5]`` brings.

    Args:
        path: of the file; nothing in it is executed.
        shape: what one clip has, such as (T, D).
        key: of the array in an HDF5 file or a torch file of named tensors; None takes the only one.

    Returns:
        float32 of that shape; whole numbers become int64.

    Raises:
        DataError: the file is missing, holds no such array, or one of another shape or with values that are not
            finite; names the file, what was found and what is wanted.
    """
    file = Path(path)
    if not _is_file(file):
        raise DataError(f"The features '{file}' are missing.")
    readers = {".npy": _from_numpy, ".pt": _from_torch, ".pth": _from_torch, ".h5": _from_hdf5, ".hdf5": _from_hdf5}
    if file.suffix not in readers:
        raise DataError(f"The features '{file}' are none of {', '.join(readers)}.")
    try:
        found = readers[file.suffix](file, key)
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"The features '{file}' cannot be read: {reason}") from error
    if tuple(found.shape) != tuple(shape):
        raise DataError(f"The features '{file}' are {tuple(found.shape)}, and {tuple(shape)} is wanted.")
    if not found.is_floating_point():
        return found.long()
    if not torch.isfinite(found).all():
        raise DataError(f"The features '{file}' hold values that are not finite.")
    return found.float()


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a sentence in place of a path: the name is too long
        return False


def _from_numpy(file: Path, key: str | None) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.load(file, allow_pickle=False)))


def _from_torch(file: Path, key: str | None) -> Tensor:
    found = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(found, dict):
        found = found[_chosen(file, found, key)]
    if not isinstance(found, Tensor):
        raise DataError(f"The features '{file}' hold {type(found).__name__}, and a tensor is wanted.")
    return found


def _from_hdf5(file: Path, key: str | None) -> Tensor:
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(f"Reading '{file}' takes h5py: pip install 'avcore[hdf5]'.") from None
    with h5py.File(file, "r") as opened:
        return torch.from_numpy(np.asarray(opened[_chosen(file, opened, key)]))


def _chosen(file: Path, arrays: Collection[str], key: str | None) -> str:
    """The key that is asked for, or the only one there is."""
    names = [str(name) for name in arrays]
    if key is None and len(names) == 1:
        return names[0]
    if key is None:
        raise DataError(f"The features '{file}' hold {', '.join(names) or 'nothing'}: name one of them with key=.")
    if key not in arrays:
        raise DataError(f"The features '{file}' hold {', '.join(names) or 'nothing'}, and '{key}' is wanted.")
    return key
