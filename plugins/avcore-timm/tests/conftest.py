"""Small Swin Transformers of both versions, every weight random, and models on them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from avcore.hookspecs import hookimpl
from avcore.model import AVModel
from avcore.specs import BackboneSpec
from avcore.testing.toys import make_model
from avcore_timm.settings import SwinSettings
from avcore_timm.swin import Swin, build, build_v2

# Stages of 4 x 4, 2 x 2, 1 and 1 windows; the second blocks of the first two are shifted.
ARGUMENTS = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2, 3, 1), "num_heads": (1, 2, 4, 8)}
TIMM_NAMES = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}
BUILDERS = {"swin": build, "swinv2": build_v2}


@hookimpl
def avcore_backbones() -> list[BackboneSpec]:
    """``small_swin`` and ``small_swinv2``."""
    return [
        BackboneSpec(
            name=f"small_{family}",
            build=f"avcore_timm.swin:{BUILDERS[family].__name__}",
            config=SwinSettings,
            presets={f"small_{family}": {"model": model, "arguments": ARGUMENTS}},
        )
        for family, model in TIMM_NAMES.items()
    ]


@pytest.fixture(params=TIMM_NAMES)
def family(request: pytest.FixtureRequest) -> str:
    """``swin``, then ``swinv2``."""
    found: str = request.param
    return found


@pytest.fixture
def small_swin() -> Callable[..., Swin]:
    """Make a small one; ``move`` every weight from where timm starts it, so that nothing is zero by chance."""

    def make(family: str, settings: SwinSettings | None = None, *, move: bool = True, **arguments: Any) -> Swin:
        torch.manual_seed(0)
        preset = {"model": TIMM_NAMES[family], "arguments": {**ARGUMENTS, **arguments}}
        made: Swin = BUILDERS[family](settings or SwinSettings(weights="random"), name="small", preset=preset)
        if not move:
            return made
        moved = {key: value + torch.randn_like(value) * 0.05 for key, value in made.state_dict().items()}
        made.load_state_dict(moved)
        return made

    return make


@pytest.fixture
def swin_model() -> Callable[..., AVModel]:
    """Make a whole model on a small one, with parts as `make_model` takes them."""

    def make(family: str, **options: Any) -> AVModel:
        return make_model(SimpleNamespace(avcore_backbones=avcore_backbones), f"small_{family}", **options)

    return make
