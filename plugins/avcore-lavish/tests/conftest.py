"""Small models with LAVISH."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from small import assemble_small
from torch import nn

import avcore_ave
import avcore_avs
import avcore_lavish
import avcore_timm
from avcore import BackboneSpec, hookimpl
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.tasks import Batch
from avcore_timm.settings import SwinSettings, ViTSettings


class SmallBackbones:
    """ViTs and Swin Transformers of two widths each, small enough to train in a test."""

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        def vit(width: int) -> dict[str, Any]:
            arguments = {"img_size": 32, "embed_dim": width, "depth": 4, "num_heads": 2}
            return {"model": "vit_tiny_patch16_224", "arguments": arguments}

        def swin(width: int, third: int) -> dict[str, Any]:
            sizes = {"img_size": 32, "window_size": 2, "embed_dim": width}
            depths = {"depths": (1, 1, third, 1), "num_heads": (2, 2, 2, 2)}
            return {"model": "swinv2_tiny_window8_256", "arguments": {**sizes, **depths}}

        return [
            BackboneSpec(
                name="small_vits",
                build="avcore_timm.vit:build",
                config=ViTSettings,
                presets={"small": vit(32), "wider": vit(48)},
            ),
            BackboneSpec(
                name="small_swins",
                build="avcore_timm.swin:build_v2",
                config=SwinSettings,
                presets={"small_swin": swin(32, 3), "narrow_swin": swin(16, 1)},
            ),
        ]


@pytest.fixture(scope="session")
def registry() -> Registry:
    modules = {
        "avcore-timm": avcore_timm,
        "avcore-lavish": avcore_lavish,
        "avcore-ave": avcore_ave,
        "avcore-avs": avcore_avs,
        "small": SmallBackbones(),
    }
    return Registry.from_modules(modules)


@pytest.fixture(scope="session")
def make(registry: Registry) -> Callable[..., AVModel]:
    """``make(*settings, task=, visual=, meta=, ...)``: by default a small model for clips of two segments."""

    def made(
        *sets: str, task: str = "ave", visual: str = "small", meta: bool = False, moved: bool = False, **options: Any
    ) -> AVModel:
        if visual.startswith("small"):
            sets = ("visual.weights=random", "data.segments=2", "data.clip_seconds=2", *sets)
        resolved = resolve_config(
            registry, method="lavish", task=task, visual=visual, sets=sets, need_data=False, **options
        )
        small = visual.startswith("small") and not meta
        model = (assemble_small if small else partial(assemble, meta=meta))(resolved.config, registry)
        if moved:
            move(model.part_modules)
        return model

    return made


def move(module: nn.Module) -> None:
    """Move every parameter and running statistic, so that gates, norms and latent tokens all matter."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            tensor.add_(torch.rand(tensor.shape, generator=draws, dtype=tensor.dtype) * 0.5)


@pytest.fixture(scope="session")
def moved() -> Callable[[nn.Module], nn.Module]:
    """``moved(module)``: the module with every parameter and running statistic moved, in double precision."""

    def apply(module: nn.Module) -> nn.Module:
        module.double()
        move(module)
        return module

    return apply


@pytest.fixture
def batch() -> Batch:
    """Two clips of two segments for the small model."""
    draws = torch.Generator().manual_seed(0)
    return Batch(
        frames=torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8, generator=draws),
        waveform=torch.randint(-9999, 9999, (2, 32000), dtype=torch.int16, generator=draws),
        targets={"labels": torch.randint(0, 29, (2, 2), generator=draws)},
        names=["a", "b"],
        samples=torch.arange(2),
        valid=torch.ones(2, dtype=torch.bool),
    )
