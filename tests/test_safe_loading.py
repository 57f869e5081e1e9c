"""Files are data: no source executes what a file says, installs anything or imports what is not allowed."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_results import result

import avcore
from avcore.errors import AVCoreError

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for pattern in (
        "avcore/**/*.py",
        "plugins/*/src/**/*.py",
        "plugins/*/scripts/**/*.py",
        "docs/**/*.py",
        "examples/**/*.py",
    )
    for path in ROOT.glob(pattern)
)
UNPICKLERS = ("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
INSTALLERS = ("pip", "ensurepip", "setuptools")


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def unsafe(source: str) -> list[str]:
    """Imports and calls that may execute what a file says, or install something."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            case ast.Call():
                names = _unsafe_call(node)
            case _:
                continue
        banned = (*UNPICKLERS, *INSTALLERS)
        found += [f"line {node.lineno}: {name}" for name in names if name.partition(".")[0] in banned]
        if isinstance(node, ast.ImportFrom):
            found += [f"line {node.lineno}: {name}" for name in names if name in ("torch.load", "yaml.load")]
        if isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {name}" for name in names]
    return found


def _unsafe_call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    wrong = (
        (name == "torch.load" and settings.get("weights_only") != "True")
        or settings.get("allow_pickle") == "True"
        or name in ("torch.jit.load", "torch.package.PackageImporter", "eval", "exec")
        or (name == "yaml.load" and "Safe" not in settings.get("Loader", ""))
        or name in ("yaml.unsafe_load", "yaml.full_load")
    )
    return [name] if wrong else []


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_no_file_is_loaded_by_executing_it(path: Path) -> None:
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "from torch import load",
        "numpy.load(path, allow_pickle=True)",
        "import pickle",
        "import pickle as harmless",
        "from pickle import loads",
        "import joblib",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "import pip",
    ],
)
def test_unsafe_sources_are_seen(source: str) -> None:
    assert unsafe(source) != []


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "numpy.load(path)", "model.eval()", "from safetensors.torch import load"],
)
def test_safe_sources_pass(source: str) -> None:
    assert unsafe(source) == []


GOOD = """
from avcore.hookspecs import hookimpl
from avcore.specs import BackboneSpec, HeadSpec, TaskSpec

@hookimpl
def avcore_backbones():
    return [BackboneSpec(name="trunk", build="toy.x:Trunk")]

@hookimpl
def avcore_heads():
    return [HeadSpec(name="head", build="toy.x:Head")]

@hookimpl
def avcore_tasks():
    return [TaskSpec(name="hum", build="toy.x:Hum", head="head")]
"""


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("prompts: [evil.rows]", r"Unknown prompt 'evil.rows'.*Plugins that are blocked: toy-evil"),
        ("prompts: ['toy-evil:evil.rows']", "Unknown prompt 'toy-evil:evil.rows'"),
        ("prompts: ['{module}:Rows']", "Unknown prompt"),
        ("prompts: [none]\nhead: {{name: '{module}:Head'}}", "Unknown head"),
        ("prompts: [none]\n_target_: {module}.Rows", "Unknown key '_target_'"),
        ("method: not-installed-anywhere", "Unknown method 'not-installed-anywhere'"),
    ],
)
def test_loading_a_run_imports_no_plugin_that_is_not_allowed_and_installs_none(
    install_plugin: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, message: str
) -> None:
    module = install_plugin("toy-evil", f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    install_plugin("toy-good", GOOD)
    monkeypatch.setenv("AVCORE_PLUGINS", "toy-good")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"task: hum\nvisual: {{backbone: trunk}}\n{written.format(module=module)}\n")
    result().write(run / "results.json")
    with pytest.raises(AVCoreError, match=message):
        avcore.load_run(run)
    assert module not in sys.modules
    assert not (tmp_path / "proof").exists()
