import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from avcore.registry import load_registry
from avcore_timm.shapes import Unfilled


class Noted(TorchDispatchMode):
    """The names of the operations that reach torch's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["test_vit", "swinv2_tiny_window8_256", "test_htsat", "test_ast"])
def test_models_on_the_meta_device_are_not_filled(name: str) -> None:
    spec, preset = load_registry().backbones.find(name)
    with Noted() as noted, torch.device("meta"):
        made = spec.load()(spec.config(), name=name, preset=preset)
    assert all(tensor.is_meta for tensor in made.state_dict().values())
    assert not noted.names & {"erfinv_", "clamp_"}


def test_elsewhere_tensors_are_filled() -> None:
    with Unfilled():
        assert nn.init.constant_(torch.empty(3), 2.0).eq(2).all()
        assert torch.ones(3).mul_(2).eq(2).all()
        assert nn.init.constant_(tensor=torch.ones(3, device="meta"), val=2.0).is_meta
