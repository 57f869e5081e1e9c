"""Real little distributions, each broken in its own way, installed beside a sound one."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from avcore.cli import main
from avcore.discovery import Lifecycle, PluginPolicy, load_plugins
from avcore.errors import AVCoreError, Preempted
from avcore.registry import Registry, load_registry

InstallPlugin = Callable[..., str]

HEADER = """
from avcore.hookspecs import hookimpl
from avcore.specs import BackboneSpec, DatasetSpec, FusionSpec, HeadSpec, MethodSpec, PromptSpec, TaskSpec
"""
ROWS = """
@hookimpl
def avcore_prompts():
    return [PromptSpec(name="{name}", build="toy.x:Rows")]
"""
GOOD = HEADER + ROWS.format(name="good.rows")
TASK = """
@hookimpl
def avcore_tasks():
    return [TaskSpec(name="hum", build="toy.x:Hum", head="good.head")]
"""


def returning(hook: str, value: str) -> str:
    return f"{HEADER}{ROWS.format(name='bad.rows')}\n@hookimpl\ndef {hook}():\n    return {value}\n"


CONFIG = (
    "from dataclasses import dataclass, field\n"
    "@dataclass(frozen=True, kw_only=True)\nclass Settings:\n    {body}\n"
    + returning("avcore_fusions", "[FusionSpec(name='x', build='a:b', config=Settings)]")
)

BROKEN = {
    "raises on import": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named"),
    "is no Python": ("def avcore_prompts(:\n", "SyntaxError: invalid syntax"),
    "leaves on import": ("raise SystemExit(3)", "SystemExit: 3"),
    "panics on import": ("class Panic(BaseException): pass\nraise Panic('rust')", "Panic: rust"),
    "raises what cannot be printed": (
        "class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute",
        "Mute: (its message cannot be printed)",
    ),
    "raises in a hook": (returning("avcore_fusions", "[1 / 0]"), "ZeroDivisionError: division by zero"),
    "raises in a later hook, after a sound one": (returning("avcore_tasks", "undefined"), "NameError: "),
    "unknown hook": (
        GOOD + "@hookimpl\ndef avcore_promts():\n    return []\n",
        "the unknown hook 'avcore_promts'. Did you mean 'avcore_prompts'?",
    ),
    "unknown hook without the mark": (
        GOOD + "def avcore_fusion():\n    return []\n",
        "'avcore_fusion' is no hook. Did you mean 'avcore_fusions'?",
    ),
    "forgotten mark": (HEADER + "def avcore_prompts():\n    return []\n", "lacks the decorator @hookimpl"),
    "argument that the contract lacks": (
        GOOD + "@hookimpl\ndef avcore_run_started(run, epoch):\n    pass\n",
        "Argument(s) {'epoch'}",
    ),
    "returns nothing": (returning("avcore_fusions", "None"), "returned None; it must return a list of FusionSpec"),
    "returns one record": (returning("avcore_fusions", "FusionSpec(name='x', build='a:b')"), "must return a list"),
    "returns text": (returning("avcore_fusions", "['x']"), "returned a str among its records"),
    "returns another kind": (returning("avcore_fusions", "[PromptSpec(name='x', build='a:b')]"), "a PromptSpec among"),
    "a text for a tuple": (
        returning("avcore_datasets", "[DatasetSpec(name='x', build='a:b', tasks='hum')]"),
        "DatasetSpec 'x': tasks is 'hum'; it must be a tuple of texts",
    ),
    "a list for a mapping": (
        returning("avcore_backbones", "[BackboneSpec(name='x', build='a:b', presets=['tiny'])]"),
        "presets is ['tiny']; it must be a mapping with texts as keys",
    ),
    "nothing for a text": (
        returning("avcore_methods", "[MethodSpec(name='x', recipes=None)]"),
        "recipes is None; it must be text",
    ),
    "a value for a mapping of mappings": (
        returning("avcore_backbones", "[BackboneSpec(name='x', build='a:b', presets={'tiny': 3})]"),
        "presets is {'tiny': 3}; it must be a mapping with texts as keys and mappings as values",
    ),
    "a stream that there is not": (
        returning("avcore_backbones", "[BackboneSpec(name='x', build='a:b', streams=('video',))]"),
        "streams is ('video',); it must list visual, audio or text, or several of them",
    ),
    "an encoder that there is not": (
        returning("avcore_heads", "[HeadSpec(name='x', build='a:b', encoders=('words',))]"),
        "encoders is ('words',); it may list text",
    ),
    "a head that brings no settings": (
        returning("avcore_heads", "[HeadSpec(name='x', build='a:b', defaults=lambda settings: 3)]"),
        "defaults is 3; it must be a mapping of settings",
    ),
    "raises half-way through its records": (
        f"{HEADER}{ROWS.format(name='bad.rows')}\n@hookimpl\ndef avcore_fusions():\n"
        "    yield FusionSpec(name='x', build='a:b')\n    raise RuntimeError('half')\n",
        "RuntimeError: half",
    ),
    "never ends importing itself": ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "settings that refuse their defaults": (
        CONFIG.format(body="a: int = 1\n    def __post_init__(self): raise RuntimeError('post')"),
        "config Settings refuses its own defaults: RuntimeError: post",
    ),
    "a default that cannot be made": (
        CONFIG.format(body="a: list = field(default_factory=lambda: 1 / 0)"),
        "config Settings refuses its own defaults: ZeroDivisionError: division by zero",
    ),
    "settings of unknown types": (
        CONFIG.format(body="a: 'Nowhere' = 1"),
        "the types of config Settings cannot be read: NameError: name 'Nowhere' is not defined",
    ),
    "needs that fail": (
        returning("avcore_fusions", "[FusionSpec(name='x', build='a:b', requires=lambda config: 1 / 0)]"),
        "requires fails for the default settings: ZeroDivisionError",
    ),
    "needs that are none": (
        returning("avcore_fusions", "[FusionSpec(name='x', build='a:b', requires=lambda config: 'both')]"),
        "requires returned 'both'; it must return a set of Need",
    ),
    "a value for a function": (
        returning("avcore_fusions", "[FusionSpec(name='x', build='a:b', requires=())]"),
        "requires is (); it must be a function",
    ),
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(("source", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_left_out_whole_and_alone(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    module = install_plugin("toy-bad", source)
    install_plugin("toy-good", GOOD)
    listed = invoke("plugins", "list")
    assert listed.exit_code == 0
    assert listed.stderr.startswith("avcore: warning: plugin toy-bad 1.2 is broken: ")
    assert listed.stderr.endswith(" (left out, see 'avcore plugins doctor')\n")
    assert listed.stderr.count("\n") == 1
    core, bad, good = json.loads(invoke("plugins", "list", "--json").stdout)
    assert (core["state"], bad["state"], good["state"]) == ("ok", "broken", "ok")
    assert message in bad["error"]
    assert bad["offers"] == {}

    registry = load_registry()
    assert registry.prompts.names() == ["good.rows", "segment_embedding"]
    assert module not in sys.modules
    assert "toy-bad" not in [impl.plugin_name for impl in hooks_of(registry)]
    with pytest.raises(AVCoreError, match=r"Unknown prompt 'bad.rows'.*broken: toy-bad"):
        registry.prompts["bad.rows"]

    doctor = invoke("plugins", "doctor")
    assert doctor.exit_code == 1
    assert "toy-bad 1.2: broken" in doctor.stdout
    assert "Traceback (most recent call last)" in doctor.stdout
    found, _ = json.loads(invoke("plugins", "doctor", "--json").stdout)
    assert message in found["error"]
    assert "Traceback" in found["traceback"]
    assert found["version"] == "1.2"
    assert Path(found["origin"]).name == "site"
    assert found["import_ms"] > 0

    monkeypatch.setenv("AVCORE_STRICT_PLUGINS", "1")
    strict = invoke("plugins", "list")
    assert (strict.exit_code, strict.stdout, strict.stderr.count("\n")) == (2, "", 1)
    assert strict.stderr.startswith("avcore: error: Plugin toy-bad 1.2 is broken: ")


def hooks_of(registry: Registry) -> list:
    return Lifecycle(registry.plugins)._manager.hook.avcore_run_started.get_hookimpls()


@pytest.mark.parametrize("kind", ["prompt", "task"])
def test_a_name_of_two_distributions_breaks_neither(install_plugin: InstallPlugin, kind: str) -> None:
    source, name = {"prompt": (ROWS.format(name="twin"), "twin"), "task": (TASK, "hum")}[kind]
    install_plugin("toy-a", HEADER + source)
    install_plugin("toy-b", HEADER + source)
    install_plugin("toy-good", GOOD)
    registry = load_registry()
    assert [plugin.state for plugin in registry.plugins] == ["ok"] * 4
    table = registry.prompts if kind == "prompt" else registry.tasks
    with pytest.raises(AVCoreError, match=f"{kind} '{name}' is offered by toy-a and by toy-b: write 'toy-a:{name}'"):
        table[name]
    assert table.origin(f"toy-b:{name}") == "toy-b"
    assert registry.prompts.origin("good.rows") == "toy-good"


@pytest.mark.parametrize("requires", ["avcore>=99", "avcore<0.0.1"])
def test_a_plugin_for_another_avcore_is_not_imported(
    install_plugin: InstallPlugin, tmp_path: Path, requires: str
) -> None:
    install_plugin("toy-bad", f"open({str(tmp_path / 'proof')!r}, 'w')\n" + GOOD, requires=requires)
    install_plugin("toy-good", GOOD)
    bad, good = load_plugins()
    assert (bad.state, good.state) == ("broken", "ok")
    assert f"it requires {requires}, but avcore " in bad.error
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("variable", "value"), [("AVCORE_BLOCK", "Toy.Bad"), ("AVCORE_PLUGINS", "toy-good"), ("--block", "toy-bad")]
)
def test_the_lists_act_before_import(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    install_plugin("toy-bad", f"open({str(tmp_path / 'proof')!r}, 'w')\n" + GOOD)
    install_plugin("toy-good", GOOD)
    monkeypatch.setenv("AVCORE_BLOCK", "")
    option = [variable, value] if variable.startswith("-") else []
    if not option:
        monkeypatch.setenv(variable, value)
    assert "toy-bad" in invoke(*option, "plugins", "list").stdout
    assert invoke(*option, "plugins", "doctor").exit_code == 0
    assert invoke(*option, "plugins", "show", "good.rows").exit_code == 0
    assert not (tmp_path / "proof").exists()
    monkeypatch.setenv("AVCORE_BLOCK", "")
    monkeypatch.delenv("AVCORE_PLUGINS", raising=False)
    invoke("plugins", "list")
    assert (tmp_path / "proof").exists()


def test_a_plugin_that_prints_does_not_spoil_json(install_plugin: InstallPlugin) -> None:
    install_plugin("toy-loud", "print('welcome')\n" + GOOD)
    result = invoke("plugins", "list", "--json")
    assert [row["distribution"] for row in json.loads(result.stdout)] == ["avcore", "toy-loud"]
    assert result.stderr == "welcome\n"


def avcore(site: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where no test has imported anything."""
    environment = {**os.environ, "PYTHONPATH": str(site), "AVCORE_PLUGINS": "", **variables}
    command = [sys.executable, "-c", "from avcore.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_light_module_that_imports_torch_is_named(install_plugin: InstallPlugin, tmp_path: Path) -> None:
    install_plugin("toy-heavy", "import torch\n" + GOOD)
    site = tmp_path / "site"
    # Real enough for whoever looks at sys.modules, and quick.
    (site / "torch.py").write_text("")
    listed = avcore(site, "plugins", "list", AVCORE_PLUGINS="toy-heavy")
    assert listed.returncode == 0
    assert "imports torch when it is loaded: every command starts slowly. (see" in listed.stderr
    assert "prompts: good.rows (slow: imports torch)" in listed.stdout
    assert "its light module imports torch" in avcore(site, "plugins", "doctor", AVCORE_PLUGINS="toy-heavy").stdout
    strict = avcore(site, "--strict-plugins", "plugins", "list", AVCORE_PLUGINS="toy-heavy")
    assert (strict.returncode, strict.stdout, strict.stderr.count("\n")) == (2, "", 1)
    assert "Plugin toy-heavy 1.2 imports torch" in strict.stderr


DAMAGED = {
    "half removed": ("METADATA", None, "ZeroDivisionError"),
    "metadata that are no text": ("METADATA", b"Name: toy-bad\nSummary: caf\xe9\n", "METADATA cannot be read"),
    "malformed": ("entry_points.txt", b"[avcore.plugins]\nmain\n", "entry_points.txt cannot be read"),
    "entry points that are no text": (
        "entry_points.txt",
        b"[avcore.plugins]\nmain = caf\xe9\n",
        "entry_points.txt cannot be read",
    ),
    "no reference": ("entry_points.txt", b"[avcore.plugins]\nmain = a b !!\n", "entry point 'main' is 'a b !!'"),
}


@pytest.mark.parametrize(("file", "content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_installation_takes_no_other_with_it(
    install_plugin: InstallPlugin, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    site = tmp_path / "site"
    install_plugin("toy-good", GOOD)
    module = install_plugin("toy-bad", "1 / 0")
    path = site / "toy_bad-1.2.dist-info" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    listed = avcore(site, "plugins", "doctor", "--json")
    rows = {row["distribution"]: row for row in json.loads(listed.stdout)}
    # Without metadata it is known by its module.
    bad = rows.get("toy-bad") or rows[module]
    assert (bad["state"], rows["toy-good"]["state"]) == ("broken", "ok")
    assert message in bad["error"]


def test_a_failing_lifecycle_hook_is_a_warning_or_strictly_an_error(
    install_plugin: InstallPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    install_plugin("toy-bad", GOOD + "@hookimpl\ndef avcore_run_started(run):\n    raise SystemExit('no disk')\n")
    install_plugin("toy-good", GOOD + "@hookimpl\ndef avcore_run_started(run):\n    run.append('told')\n")
    plugins, told = load_plugins(), []
    Lifecycle(plugins).call("avcore_run_started", run=told)
    assert re.search(r"toy-bad: its hook avcore_run_started failed and is off .*no disk", caplog.messages[-1])
    assert told == ["told"]
    with pytest.raises(AVCoreError, match="Plugin toy-bad: its hook avcore_run_started failed: SystemExit: no disk"):
        Lifecycle(plugins, strict=True).call("avcore_run_started", run=told)


@pytest.mark.parametrize("signalled", ["KeyboardInterrupt", "Preempted"])
def test_a_signal_that_comes_in_a_plugin_is_not_held_against_it(install_plugin: InstallPlugin, signalled: str) -> None:
    raising = f"from avcore.errors import Preempted\nraise {signalled}\n"
    kind = {"KeyboardInterrupt": KeyboardInterrupt, "Preempted": Preempted}[signalled]
    install_plugin("toy-bad", raising)
    with pytest.raises(kind):
        load_plugins()
    install_plugin("toy-worse", f"{GOOD}@hookimpl\ndef avcore_run_started(run):\n    raise run\n")
    plugins = load_plugins(PluginPolicy(block=frozenset({"toy-bad"})))
    with pytest.raises(kind):
        Lifecycle(plugins).call("avcore_run_started", run=kind())


@pytest.mark.parametrize("raised", ["ZeroDivisionError('half')", "SystemExit(0)"])
def test_a_plugin_that_fails_while_it_is_used_is_named_at_the_end(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    module = install_plugin("toy-bad", f"{GOOD}\ndef use():\n    raise {raised}\n")
    plugin = load_registry().plugins[1].plugin
    assert plugin.__name__ == module
    monkeypatch.setattr("avcore.cli.plugins.load_plugins", lambda policy: plugin.use())
    result = invoke("plugins", "doctor")
    assert result.exit_code == 1
    *trace, last = result.stderr.splitlines()
    assert trace[0] == "Traceback (most recent call last):"
    kind, text = raised.rstrip("')").replace("'", "").split("(")
    assert last == f"avcore: error: plugin toy-bad 1.2 failed: {kind}: {text}. Tell its author."


def test_a_defect_of_avcore_itself_is_held_against_no_plugin(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("toy-good", GOOD)
    monkeypatch.setattr("avcore.cli.plugins.load_plugins", lambda policy: 1 / 0)
    assert isinstance(invoke("plugins", "doctor").exception, ZeroDivisionError)
