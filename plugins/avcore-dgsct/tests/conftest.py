"""Small models with DG-SCT: a Swin-V2 for pictures and an HTS-AT for sound, of different widths, grids and depths."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from small import assemble_small
from torch import nn

import avcore_avar
import avcore_ave
import avcore_avqa
import avcore_avs
import avcore_avvp
import avcore_dgsct
import avcore_timm
from avcore import BackboneSpec, hookimpl
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.tasks import Batch
from avcore_timm.settings import SwinSettings

SMALL = (
    "visual.weights=random",
    "audio.weights=random",
    "audio.repeat_seconds=null",
    "data.segments=4",
    "data.clip_seconds=1.2",
    "data.window_seconds=0.3",
    "data.window_margin=0.3",
    "parts.dgsct.reduction=2",
    "parts.dgsct.tokens=3",
)
EVENTS = (
    "head.visual_width=12",
    "head.audio_width=6",
    "head.temporal={width: 8, feed_forward: 12, heads: 2, dropout: 0}",
    "head.input_dropout=0",
)
MASKS = (
    "head.size=32",
    "head.width=8",
    "head.audio_width=6",
    "head.output_widths=[6, 4]",
    "head.temporal={width: 8, feed_forward: 12, heads: 2, dropout: 0}",
    "head.input_dropout=0",
)

PARSING = (
    "head.width=8",
    "head.heads=2",
    "head.temporal={width: 4, feed_forward: 6, heads: 2, dropout: 0}",
    "task_options.features=[]",
)
HEADS = {"ave": EVENTS, "avvp": PARSING}


class SmallBackbones:
    """A Swin-V2 with 6 blocks on grids of 8, 4, 2 and 1; the HTS-AT of the tests has 5 blocks on 16, 8, 4 and 2."""

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        arguments = {
            "img_size": 32,
            "window_size": 4,
            "embed_dim": 24,
            "depths": (1, 1, 3, 1),
            "num_heads": (1, 2, 4, 8),
        }
        return [
            BackboneSpec(
                name="small_swins",
                build="avcore_timm.swin:build_v2",
                config=SwinSettings,
                presets={"small": {"model": "swinv2_tiny_window8_256", "arguments": arguments}},
            )
        ]


@pytest.fixture(scope="session")
def registry() -> Registry:
    modules = {
        "avcore-timm": avcore_timm,
        "avcore-dgsct": avcore_dgsct,
        "avcore-ave": avcore_ave,
        "avcore-avqa": avcore_avqa,
        "avcore-avs": avcore_avs,
        "avcore-avar": avcore_avar,
        "avcore-avvp": avcore_avvp,
        "small": SmallBackbones(),
    }
    return Registry.from_modules(modules)


@pytest.fixture(scope="session")
def make(registry: Registry) -> Callable[..., AVModel]:
    """``make(*settings, task=, visual=, audio=, meta=, moved=, ...)``: by default a small model for four segments."""

    def made(
        *sets: str,
        task: str = "ave",
        visual: str | None = "small",
        audio: str | None = "test_htsat",
        meta: bool = False,
        moved: bool = False,
        **options: Any,
    ) -> AVModel:
        if visual == "small":
            own = any(setting.startswith("head.name=") for setting in sets)
            sets = (*SMALL, *(() if own else HEADS.get(task, MASKS)), *sets)
        resolved = resolve_config(
            registry, method="dgsct", task=task, visual=visual, audio=audio, sets=sets, need_data=False, **options
        )
        small = visual == "small" and not meta
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
            tensor.add_(torch.rand(tensor.shape, generator=draws, dtype=tensor.dtype) * 0.2 - 0.1)


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
    """Two clips of four segments for the small model, with the targets of both tasks."""
    draws = torch.Generator().manual_seed(0)
    return Batch(
        frames=torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8, generator=draws),
        waveform=torch.randint(-9999, 9999, (2, 38400), dtype=torch.int16, generator=draws),
        targets={
            "labels": torch.randint(0, 29, (2, 4), generator=draws),
            "masks": torch.randint(0, 2, (2, 4, 32, 32), generator=draws).float(),
            "labelled": torch.ones(2, 4, dtype=torch.bool),
        },
        names=["a", "b"],
        samples=torch.arange(2),
        valid=torch.ones(2, dtype=torch.bool),
    )
