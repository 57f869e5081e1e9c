"""What is made for its shapes alone is given no initial values."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from avcore import create_model
from avcore.registry import load_registry
from avcore.shapes import WithoutValues

INITIALISERS = {"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"}


class Noted(TorchDispatchMode):
    """The names of the operations on tensors without values that reach torch's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and getattr(args[0], "is_meta", False):
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["test_vit", "swinv2_tiny_window8_256", "test_htsat", "test_ast"])
def test_backbones_are_not_filled(name: str) -> None:
    spec, preset = load_registry().backbones.find(name)
    with Noted() as noted, WithoutValues():
        made = spec.load()(spec.config(), name=name, preset=preset)
    assert all(tensor.is_meta for tensor in made.state_dict().values())
    assert not noted.names & INITIALISERS


def test_a_whole_model_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.assemble.follow_losses", lambda _: None)
    monkeypatch.setattr("avcore.assemble.leave_untrained", lambda model, _: model)
    with Noted() as noted:
        model = create_model("dgsct", task="ave", visual="test_swinv2", audio="test_htsat", meta=True)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert noted.names
    assert not noted.names & INITIALISERS


def test_elsewhere_tensors_are_filled() -> None:
    with WithoutValues():
        assert nn.init.constant_(torch.empty(3, device="cpu"), 2.0).eq(2).all()
        assert torch.ones(3, device="cpu").mul_(2).eq(2).all()
        assert nn.init.constant_(tensor=torch.ones(3), val=2.0).is_meta
        assert nn.init.kaiming_uniform_(torch.ones(3, 3)).is_meta
