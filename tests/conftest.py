"""A small world of fake plugins, and a way to install one as a real distribution."""

import gc
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from avcore.config import require
from avcore.hookspecs import hookimpl
from avcore.registry import Registry, _load_registry
from avcore.specs import (
    BackboneSpec,
    ClipSettings,
    DatasetSpec,
    FusionSpec,
    HeadSpec,
    MethodSpec,
    PromptSpec,
    TaskSpec,
)

# Until all is imported there is nothing to collect.
gc.disable()


def pytest_collection_finish() -> None:
    """What imports have made stays: a collection that looked at all of it would take a fifth of a second each time.

    A model is made of thousands of objects, for which Python would begin several collections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(7000, 10, 5)
    gc.enable()


@dataclass(frozen=True, kw_only=True)
class ToyVitSettings:
    weights: str = "hub"  # hub, random or a file
    patch: Literal["repeat", "one"] = "repeat"  # how sound enters
    mean: tuple[float, float, float] | None = None  # of each colour


@dataclass(frozen=True, kw_only=True)
class ToySwinSettings:
    weights: str = "hub"
    window: int = 7


@dataclass(frozen=True, kw_only=True)
class RowsSettings:
    length: int = 10  # rows per block
    std: float = 0.02

    def __post_init__(self) -> None:
        require(self.length > 0, "length", self.length, "1 or more")


@dataclass(frozen=True, kw_only=True)
class MixSettings:
    reduction: int = 4


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    width: int = 256


@dataclass(frozen=True, kw_only=True)
class PointSettings:
    points: int = 9


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    weight: float = 0.5


@dataclass(frozen=True, kw_only=True)
class FileSettings(ClipSettings):
    size: int = field(default=224, metadata={"help": "side of a picture", "option": "PIXELS"})


def namespace(**declared: list[Any]) -> SimpleNamespace:
    """A plugin that declares ``kind=[specs]``."""

    def hook(kind: str, specs: list[Any]) -> Callable[[], list[Any]]:
        def declare() -> list[Any]:
            return specs

        declare.__name__ = f"avcore_{kind}"
        return hookimpl(declare)

    return SimpleNamespace(**{f"avcore_{kind}": hook(kind, specs) for kind, specs in declared.items()})


@pytest.fixture(scope="session")
def make_plugin() -> Callable[..., SimpleNamespace]:
    """``make_plugin(prompts=[spec], ...)`` is a plugin that declares these."""
    return namespace


@pytest.fixture(scope="session")
def recipe_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a package with recipes ``seg.yaml``, ``seg.large.yaml`` and ``seg.demo.yaml``."""
    root = tmp_path_factory.mktemp("recipes")
    folder = root / "toy_recipe_package" / "recipes"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "seg.yaml").write_text(
        textwrap.dedent("""
        summary: the plain one
        settings:
          visual: {backbone: toy_large, weights: published, patch: one}
          audio: {patch: one}
          parts:
            m: {rows: {length: 20}, mix: {reduction: 8}}
          optim: {lr: 3e-4}
          train: {epochs: 15}
        published: [{metric: score, dataset: seg-files, value: 80.7, source: table 3}]
        """)
    )
    (folder / "seg.large.yaml").write_text("settings: {train: {epochs: 99}}\n")
    (folder / "seg.demo.yaml").write_text("summary: of a few pixels\nsettings: {parts: {m: {mix: {reduction: 2}}}}\n")
    sys.path.insert(0, str(root))
    yield "toy_recipe_package"
    sys.path.remove(str(root))


@pytest.fixture
def fake_modules(recipe_package: str) -> dict[str, Any]:
    """Distribution -> plugin namespace: two backbone families, parts, two methods, two tasks, four data sets."""
    backbones = [
        BackboneSpec(
            name="toyvit",
            build="toy.vit:build",
            config=ToyVitSettings,
            presets={"toy_tiny": {"width": 8}, "toy_large": {"width": 64}},
            patterns=("toy_*",),
        ),
        BackboneSpec(name="toyswin", build="toy.swin:build", config=ToySwinSettings, presets={"swin_a": {}}),
    ]
    return {
        "toy-backbones": namespace(backbones=backbones),
        "toy-m": namespace(
            prompts=[
                PromptSpec(name="m.rows", build="toy.m:Rows", config=RowsSettings, summary="rows", paper="arXiv:1"),
                PromptSpec(name="m.deep", build="toy.m:Deep"),
            ],
            fusions=[FusionSpec(name="m.mix", build="toy.m:Mix", config=MixSettings)],
            methods=[
                MethodSpec(name="m", prompts=("m.rows",), fusions=("m.mix",), recipes=recipe_package),
            ],
        ),
        "toy-solo": namespace(
            fusions=[FusionSpec(name="solo", build="toy.solo:Solo")],
            methods=[MethodSpec(name="solo", fusions=("solo",))],
        ),
        "toy-seg": namespace(
            heads=[
                HeadSpec(name="seg.mask", build="toy.seg:Mask", config=MaskSettings),
                HeadSpec(name="seg.points", build="toy.seg:Points", config=PointSettings),
            ],
            tasks=[
                TaskSpec(
                    name="seg",
                    aliases=("segment",),
                    build="toy.seg:Task",
                    config=TaskSettings,
                    head="seg.mask",
                    defaults={"train": {"epochs": 5, "batch_size": 4}, "head": {"width": 128}},
                ),
                TaskSpec(name="cls", build="toy.cls:Task", head="seg.points"),
            ],
            datasets=[
                DatasetSpec(
                    name="seg-files",
                    build="toy.seg:Files",
                    config=FileSettings,
                    tasks=("seg",),
                    official={"train": 90, "val": 10, "test": 20},
                ),
                DatasetSpec(name="cls-a", build="toy.cls:A", tasks=("cls",)),
                DatasetSpec(name="cls-b", build="toy.cls:B", tasks=("cls",)),
            ],
        ),
        "toy-demo": namespace(
            datasets=[
                DatasetSpec(
                    name="seg-demo",
                    build="toy.demo:Demo",
                    tasks=("seg",),
                    default_for=("seg",),
                    provide="toy.demo:render",
                    defaults={"visual": {"backbone": "toy_tiny", "weights": "random"}, "train.epochs": 2},
                    demo=True,
                )
            ]
        ),
    }


@pytest.fixture
def fake_registry(fake_modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of `fake_modules`, with no data root in the environment."""
    monkeypatch.delenv("AVCORE_DATA", raising=False)
    return Registry.from_modules(fake_modules)


InstallPlugin = Callable[..., str]


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InstallPlugin]:
    """``install_plugin("toy-x", source)`` puts a real distribution on sys.path and returns its module's name.

    Plugins that the environment has anyhow are hidden: entry points of this folder alone are seen.
    """
    import importlib.metadata

    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    for variable in ("AVCORE_PLUGINS", "AVCORE_BLOCK", "AVCORE_STRICT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)

    def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
        found = importlib.metadata.distributions(path=[str(site)])
        return [entry for one in found for entry in one.entry_points if entry.group == group]

    monkeypatch.setattr("avcore.discovery.importlib.metadata.entry_points", entry_points)

    def install(
        name: str, source: str, *, requires: str = "", entries: Mapping[str, str] | None = None, version: str = "1.2"
    ) -> str:
        module = f"{name.replace('-', '_')}_{abs(hash(str(site)))}"
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        requirement = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirement}")
        listed = {"main": module} if entries is None else entries
        lines = "".join(f"{key} = {value}\n" for key, value in listed.items())
        (info / "entry_points.txt").write_text(f"[avcore.plugins]\n{lines}")
        return module

    _load_registry.cache_clear()
    yield install
    _load_registry.cache_clear()
