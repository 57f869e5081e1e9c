"""Features that others computed, out of the files in which they come."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from avcore import read_features
from avcore.errors import DataError

MADE = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "clip.h5"
    with h5py.File(path, "w") as file:
        file["clap"] = MADE
        file["ids"] = np.arange(4, dtype=np.int32)
    return path


def test_arrays_of_an_hdf5_file_are_read_by_their_keys(stored: Path) -> None:
    assert torch.equal(read_features(stored, (2, 3), key="clap"), torch.from_numpy(MADE))
    assert torch.equal(read_features(stored, (4,), key="ids"), torch.arange(4))
    with pytest.raises(DataError, match=r"clip\.h5' hold clap, ids, and 'clip' is wanted"):
        read_features(stored, (2, 3), key="clip")
    with pytest.raises(DataError, match=r"clip\.h5' hold clap, ids: name one of them with key="):
        read_features(stored, (2, 3))


def test_the_only_array_of_a_file_needs_no_key(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "clip.h5", "w") as file:
        file["clap"] = MADE
    torch.save({"clap": torch.from_numpy(MADE)}, tmp_path / "clip.pt")
    for name in ("clip.h5", "clip.pt"):
        assert torch.equal(read_features(tmp_path / name, (2, 3)), torch.from_numpy(MADE))
    torch.save({"clap": torch.from_numpy(MADE), "ids": torch.arange(4)}, tmp_path / "clip.pt")
    with pytest.raises(DataError, match="hold clap, ids: name one of them with key="):
        read_features(tmp_path / "clip.pt", (2, 3))


def test_without_h5py_the_extra_that_brings_it_is_named(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"takes h5py: pip install 'avcore\[hdf5\]'"):
        read_features(stored, (2, 3), key="clap")


@pytest.mark.parametrize("given", ["", "no/such/file.npy", "how many words are too many " * 40])
def test_what_is_no_file_is_missing(given: str) -> None:
    with pytest.raises(DataError, match="are missing"):
        read_features(given, (3,))
