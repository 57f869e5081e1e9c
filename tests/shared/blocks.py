"""What stands within blocks, to compare with."""

import copy

from torch import nn

from avcore.backbones import Block


def unwrapped(model: nn.Module) -> nn.Module:
    """A copy of a frozen model as it was before blocks took the places of its layers."""
    plain = copy.deepcopy(model)
    for parent in list(plain.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Block):
                setattr(parent, name, child.inner)
    return plain
