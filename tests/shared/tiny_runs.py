"""Runs of a task on real media with a tiny random backbone, which comes with no plugin."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from installed import installed

import avcore_timm
from avcore.hookspecs import hookimpl
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore_timm.settings import ViTSettings

__all__ = ["only"]

TINY = {"model": "vit_tiny_patch16_224", "arguments": {"img_size": 48, "embed_dim": 48, "depth": 4, "num_heads": 3}}


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    return [BackboneSpec(name="tiny", build="avcore_timm.vit:build", config=ViTSettings, presets={"tiny": TINY})]


def only(*plugins: ModuleType) -> object:
    """A fixture for every test of a module: these plugins and backbone ``tiny`` are installed; the cache is empty."""
    named = {one.__name__.replace("_", "-"): one for one in (avcore_timm, *plugins)}
    registry = Registry.from_modules({**named, "tiny": SimpleNamespace(avcore_backbones=avcore_backbones)})

    @pytest.fixture(autouse=True)
    def prepared(tmp_path: Path) -> Iterator[None]:
        with installed(registry) as patch:
            patch.setenv("AVCORE_CACHE", str(tmp_path / "cache"))
            patch.delenv("AVCORE_DATA", raising=False)
            yield

    return prepared
