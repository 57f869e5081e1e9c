"""Parts of avcore-ladder beside a toy's towers."""

from typing import Any

import torch

import avcore_ladder
from avcore.model import AVModel
from avcore.states import parameter_groups
from avcore.testing import ToyBackbones, make_model

__all__ = ["beside"]


def beside(toy: str, listed: tuple[str, ...], **options: Any) -> AVModel:
    """A model of these parts, of which nothing is zero any longer; ``options`` are those of `make_model`."""
    model = make_model(
        ToyBackbones(),
        toy,
        listed=listed,
        others={"avcore-ladder": avcore_ladder},
        on_meta_first=False,
        **options,
    )
    torch.manual_seed(0)
    for _, parameter in parameter_groups(model)["parts"]:
        parameter.data += torch.randn_like(parameter) * 0.1
    return model
