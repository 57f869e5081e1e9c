"""transformers' CLAP, once for all tests, and its file."""

from pathlib import Path
from typing import Any

import pytest
from claps import clap
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def reference() -> Any:
    """In float64, every weight random."""
    return clap()


@pytest.fixture(scope="session")
def saved(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file in the layout of transformers."""
    path = tmp_path_factory.mktemp("clap") / "model.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in reference.state_dict().items()}, path)
    return path
