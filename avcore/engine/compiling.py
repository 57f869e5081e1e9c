"""`torch.compile` of the steps of a model, as ``train.compile`` says."""

import torch

from avcore.errors import ConfigError
from avcore.model import AVModel
from avcore.ranks import ranks, share

__all__ = ["compile_steps"]


def compile_steps(model: AVModel, device: torch.device) -> str:
    """Compile as ``train.compile`` says, once; graphs are made when they are first run.

    Front ends, what lies before and behind the steps, frozen streams alone, encoders of sentences and the head stay as
    they are.

    Returns:
        What the user must be told; empty for nothing.

    Raises:
        AVCoreError: nothing can be compiled here. With ``auto`` the model stays as it is then.
    """
    train = model.config.train
    left = train.compile == "off" or (train.compile == "auto" and device.type == "cpu")
    if left or model.clips.compiled:
        return ""
    if fault := _fault(device):
        said = f"train.compile={train.compile}: PyTorch cannot compile for {device.type} here ({fault})"
        if train.compile == "auto":
            return f"{said}; the run goes on without"
        raise ConfigError(
            f"{said}. Install a C++ compiler and Python's headers (Debian: apt-get install g++ python3-dev), name "
            "another by CXX=..., or set train.compile=off."
        )
    cuda_graphs = train.compile == "reduce-overhead"
    evaluation = -(-train.eval_batch_size // ranks().world)
    model.clips.compile_steps(share(train.batch_size), evaluation, cuda_graphs=cuda_graphs)
    return ""


def _fault(device: torch.device) -> str:
    """Why torch.compile does not work here, tried on two numbers; empty if it does."""
    try:
        torch.compile(_double)(torch.ones(2, device=device))
    except Exception as error:  # of the compiler, the linker, Triton: each has its own
        inner = getattr(error, "inner_exception", error)
        lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
        return f"{type(inner).__name__}: {lines[0].rstrip('.')}" if lines else type(inner).__name__
    return ""


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2
