import contextlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from installed import installed

import avcore
from avcore.engine.checkpoint import CheckpointStore
from avcore.engine.files import sha256
from avcore.registry import Registry
from avcore.runs import Run
from avcore_demo.layouts import LAYOUTS


@pytest.fixture(scope="session")
def toy_module() -> Iterator[ModuleType]:
    """`toy_world.py`, importable under the name that its specs give."""
    spec = importlib.util.spec_from_file_location("avcore_toy_world", Path(__file__).with_name("toy_world.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["avcore_toy_world"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["avcore_toy_world"]


@pytest.fixture(scope="session")
def toy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def world(toy_module: ModuleType, toy_cache: Path) -> Iterator[ModuleType]:
    """The only installed plugin is the toy world's; what it renders and decodes is kept for the session."""
    with installed(Registry.from_modules({"toy-world": toy_module.Plugin()})) as patch:
        patch.setenv("AVCORE_CACHE", str(toy_cache))
        patch.delenv("AVCORE_DATA", raising=False)
        yield toy_module


@pytest.fixture(scope="module")
def small_demo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pytest.MonkeyPatch]:
    """Demos of ``CLIPS`` of the test module, rendered and decoded once for it; a patch that lasts as long.

    For modules that need the installed plugins: they replace ``calm``, and so the toy world, by one that asks for this.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("AVCORE_DATA", raising=False)
        patch.setattr("avcore_demo.provide.COUNTS", dict.fromkeys(LAYOUTS, request.module.CLIPS))
        yield patch


@pytest.fixture(autouse=True)
def calm(world: ModuleType) -> None:
    """Nothing is left of what the test before asked of the plugin."""
    world.CALLS.clear()
    world.STEPS.clear()
    world.EVALUATED.clear()
    world.INTERRUPT_AT.clear()
    world.MOMENTS.clear()
    world.Exploder.calls = 0
    world.Exploder.until = float("inf")


@pytest.fixture
def start(world: ModuleType, tmp_path: Path) -> Callable[..., Run]:
    """``avcore.run`` in a temporary directory, on the toy task."""

    def run(method: str | None = "rowing", **options: Any) -> Run:
        return avcore.run(method, **{"task": "listen", "out": tmp_path / "run", "quiet": True, **options})

    return run


@pytest.fixture(scope="session")
def end_of() -> Callable[[Path], dict[str, Any]]:
    """What must be equal, bit for bit, of runs that came to the same end: tensors, progress and scores."""

    def read(directory: Path) -> dict[str, Any]:
        results = json.loads((directory / "results.json").read_text())
        found: dict[str, Any] = {key: results[key] for key in ("metrics", "baseline", "params", "status")}
        for which in ("best", "latest"):
            checkpoint = CheckpointStore(directory / "checkpoints").open(which)
            hashes = {file.name: sha256(file) for file in checkpoint.path.glob("*.safetensors")}
            found[which] = (checkpoint.progress, hashes)
        return found

    return read


@pytest.fixture(scope="module")
def finished(world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with its baseline that tests may read but not change, and the text that it showed."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        run = avcore.run(
            "rowing",
            task="listen",
            out=tmp_path_factory.mktemp("runs") / "finished",
            baseline=True,
            set=["train.evaluate=[test, test_swapped]"],
        )
    return SimpleNamespace(run=run, directory=run.directory, results=run.results, text=shown.getvalue())
