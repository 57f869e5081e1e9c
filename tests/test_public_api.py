"""The names that stay stable, and what importing them costs."""

import importlib
import inspect
import json
import multiprocessing
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import avcore
from avcore import hookspecs
from avcore.cli import COMMANDS

NAMES = [
    "AVCoreError", "AVModel", "AssemblyError", "AudioGeometry", "BackboneSpec", "Batch", "BlockLayout", "Clip",
    "ClipSettings", "ConfigError", "DataError", "Dataset", "DatasetSpec", "Edit", "Edits", "Event", "Features",
    "FilterBankGeometry", "Fusion", "FusionLayer", "FusionSpec", "Head", "HeadSpec", "ImageGeometry", "Input",
    "MelGeometry", "MethodSpec", "Need", "NoConfig", "PluginError", "Progress", "Prompt", "PromptLayer",
    "PromptSpec", "Run", "RunResult", "SoundFrontEnd", "StageLayout", "StreamFeatures", "StreamLayout", "Task",
    "TaskSpec", "TextGeometry", "Windows", "__version__", "by_number", "convert_checkpoint", "create_model",
    "hookimpl", "load_adapter", "load_run", "load_trainable_state", "open_data", "parameter_groups", "read_features",
    "read_mask", "run", "save_adapter", "trainable_state", "zero_shot",
]  # fmt: skip


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_public_names_are_exactly_these():
    assert avcore.__all__ == NAMES
    assert set(NAMES) <= set(dir(avcore))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_under_its_own_name(name):
    found = getattr(avcore, name)
    if name not in ("__version__", "hookimpl"):
        assert found.__name__ == name


def test_the_version_is_that_of_the_distribution():
    assert avcore.__version__ == version("avcore")


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        avcore.trian  # noqa: B018


def test_importing_avcore_and_its_specs_imports_nothing_heavy():
    script = """
import json, sys
import avcore
avcore.PromptSpec, avcore.hookimpl, avcore.AVCoreError, avcore.__version__
print(json.dumps(sorted({"torch", "numpy", "timm", "av"} & set(sys.modules))))
"""
    assert json.loads(python(script)) == []


def test_run_is_a_function_whatever_was_imported_before():
    """A submodule of the same name would take its place. Forked, so that torch is not imported once more."""

    def imported_anew():
        for name in [name for name in sys.modules if name.partition(".")[0] == "avcore"]:
            del sys.modules[name]
        importlib.import_module("avcore.runs.start")
        importlib.import_module("avcore.cli.run")
        new = importlib.import_module("avcore")
        assert new is not avcore
        assert callable(new.run), new.run
        assert importlib.import_module("avcore.runs").run is new.run

    process = multiprocessing.get_context("fork").Process(target=imported_anew)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert not (Path(avcore.__file__).parent / "run.py").exists()


STABLE = (Path(__file__).parents[1] / "docs" / "stability.md").read_text()


def promised(section: str) -> list[str]:
    """What ``docs/stability.md`` lists between ``<!-- section -->`` and ``<!-- end -->``."""
    return re.findall(r"`([^`]+)`", STABLE.split(f"<!-- {section} -->")[1].split("<!-- end -->")[0])


def test_the_page_of_what_stays_stable_lists_the_public_names():
    assert promised("names") == avcore.__all__


def test_the_page_of_what_stays_stable_lists_the_hooks_with_their_arguments():
    hooks = [value for value in vars(hookspecs).values() if hasattr(value, "avcore_spec")]
    assert promised("hooks") == [f"{one.__name__}({', '.join(inspect.signature(one).parameters)})" for one in hooks]


def test_the_page_of_what_stays_stable_lists_the_commands():
    assert promised("commands") == list(COMMANDS)


def test_the_page_of_what_stays_stable_lists_the_environment_variables():
    core = Path(avcore.__file__).parent
    # Those of the kit for tests point to reference data.
    sources = [path for path in core.rglob("*.py") if core / "testing" not in path.parents]
    used = {name for path in sources for name in re.findall(r'"(AVCORE_[A-Z_]+)"', path.read_text())}
    assert used == set(promised("variables"))
