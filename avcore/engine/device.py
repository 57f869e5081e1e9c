"""Which device a run uses."""

import torch

from avcore.errors import ConfigError
from avcore.ranks import ranks

__all__ = ["choose_device"]


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that is there.

    ``auto`` takes the CUDA device of this process (the first one, if there is one process), and the CPU where there is
    none; so does ``cuda``.

    Raises:
        AVCoreError: no such kind of device, or it is not in this machine.
    """
    if name == "auto":
        return torch.device("cuda", ranks().local) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise ConfigError(f"device={name} is not a device: write auto, cpu, cuda or cuda:0.")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"device={name}: PyTorch {torch.__version__} sees no CUDA device here; use device=cpu.")
    number = int(index or ranks().local)
    if number >= torch.cuda.device_count():
        raise ConfigError(f"device={name}: this machine has CUDA devices 0 to {torch.cuda.device_count() - 1}.")
    return torch.device("cuda", number)
