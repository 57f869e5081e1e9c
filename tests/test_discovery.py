import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from avcore.discovery import Lifecycle, LoadedPlugin, PluginPolicy, declarations, load_plugins
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.specs import DatasetSpec, FusionSpec, PromptSpec

GOOD = """
from avcore.hookspecs import hookimpl
from avcore.specs import PromptSpec

@hookimpl
def avcore_prompts():
    return [PromptSpec(name="{name}", build="toy.x:Rows")]
"""


def module(**functions: Any) -> types.ModuleType:
    made = types.ModuleType("fake_plugin")
    for name, function in functions.items():
        setattr(made, name, function)
    return made


def returning(value: Any, name: str = "avcore_prompts") -> types.ModuleType:
    def declare() -> Any:
        return value

    return module(**{name: hookimpl(declare)})


def test_a_real_distribution_is_loaded(install_plugin: Callable[..., str]) -> None:
    name = install_plugin("toy-good", GOOD.format(name="good"))
    (plugin,) = load_plugins()
    assert (plugin.distribution, plugin.version, plugin.entry_point, plugin.module) == ("toy-good", "1.2", "main", name)
    assert plugin.state == "ok"
    assert plugin.counts["prompts"] == 1
    assert plugin.counts["fusions"] == 0
    assert plugin.import_ms > 0
    assert plugin.heavy == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (GOOD.format(name="x") + "    raise RuntimeError('after')", None),
        (GOOD.format(name="x").replace("return [", "raise RuntimeError('two\\nlines')\n    return ["), "two lines"),
        (GOOD.format(name="x") + "@hookimpl\ndef avcore_promts():\n    return []\n", "Did you mean 'avcore_prompts'?"),
    ],
)
def test_a_broken_plugin_is_left_out_alone(
    install_plugin: Callable[..., str], caplog: pytest.LogCaptureFixture, source: str, message: str | None
) -> None:
    install_plugin("toy-bad", source)
    install_plugin("toy-good", GOOD.format(name="good"))
    bad, good = load_plugins()
    assert good.state == "ok"
    if message is None:  # the line after `return` is never reached
        assert (bad.state, caplog.messages) == ("ok", [])
        return
    assert bad.state == "broken"
    assert (bad.specs, bad.plugin) == ({}, None)
    assert message in bad.error
    assert "\n" not in bad.error
    assert "Traceback" in bad.traceback
    (said,) = caplog.messages
    assert "toy-bad 1.2 is broken" in said


def test_strict_makes_a_broken_plugin_an_error(
    install_plugin: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("toy-bad", "1 / 0")
    monkeypatch.setenv("AVCORE_STRICT_PLUGINS", "1")
    with pytest.raises(AVCoreError, match=r"toy-bad 1\.2 is broken: ZeroDivisionError"):
        load_plugins()


@pytest.mark.parametrize(("variable", "value"), [("AVCORE_BLOCK", "Toy_Bad"), ("AVCORE_PLUGINS", "toy-good")])
def test_a_denied_plugin_is_not_imported(
    install_plugin: Callable[..., str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    name = install_plugin("toy-bad", "1 / 0")
    install_plugin("toy-good", GOOD.format(name="good"))
    monkeypatch.setenv(variable, value)
    bad, good = load_plugins()
    assert (bad.state, good.state) == ("blocked", "ok")
    assert name not in sys.modules
    assert variable in bad.error


def test_a_policy_that_names_nothing_installed_is_refused(
    install_plugin: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("toy-good", GOOD.format(name="good"))
    monkeypatch.setenv("AVCORE_BLOCK", "toy-god")
    with pytest.raises(AVCoreError, match="Did you mean 'toy-good'"):
        load_plugins()


@pytest.mark.parametrize(
    ("requires", "state"),
    [
        ("avcore>=0.1,<0.2", "ok"),
        ("avcore>=0.2", "broken"),
        ("AVcore>=9; extra == 'later'", "ok"),
        ("avcore>=9; python_version < '3'", "ok"),
    ],
)
def test_the_requirement_is_checked_before_import(
    install_plugin: Callable[..., str], requires: str, state: str
) -> None:
    name = install_plugin("toy-good", GOOD.format(name="good"), requires=requires)
    (plugin,) = load_plugins(version="0.1.3")
    assert plugin.state == state
    assert (name in sys.modules) == (state == "ok")
    if state == "broken":
        assert "avcore 0.1.3 is installed" in plugin.error


def test_two_entry_points_in_one_distribution_are_refused(install_plugin: Callable[..., str]) -> None:
    install_plugin("toy-two", GOOD.format(name="good"), entries={"a": "toy_a", "b": "toy_b"})
    (plugin,) = load_plugins(PluginPolicy())
    assert plugin.state == "broken"
    assert "2 entry points" in plugin.error


@dataclass(frozen=True)
class NoDefault:
    length: int


@dataclass
class NotFrozen:
    length: int = 1


@dataclass(frozen=True)
class Reserved:
    streams: str = "both"


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (returning(None), "returned None"),
        (returning(PromptSpec(name="x", build="a:b")), "must return a list of PromptSpec"),
        (returning("x"), "returned a str"),
        (returning(["x"]), "returned a str among its records"),
        (returning([FusionSpec(name="x", build="a:b")]), "returned a FusionSpec among"),
        (returning([PromptSpec(name="x", build="a:b")] * 2), "two records named 'x'"),
        (returning([PromptSpec(name="x+y", build="a:b")]), "the name must be made of"),
        (returning([PromptSpec(name="none", build="a:b")]), "not be 'none'"),
        (returning([PromptSpec(name="x", build="a.b")]), "package.module:Name"),
        (returning([PromptSpec(name="x", build="a:b", config=int)]), "config must be a dataclass"),
        (returning([PromptSpec(name="x", build="a:b", config=NotFrozen)]), "must be frozen"),
        (returning([PromptSpec(name="x", build="a:b", config=NoDefault)]), "no default for 'length'"),
        (returning([PromptSpec(name="x", build="a:b", config=Reserved)]), "may not have a field 'streams'"),
        (
            returning([DatasetSpec(name="x", build="a:b", tasks=("t",), config=Reserved)], "avcore_datasets"),
            "must derive from avcore.specs.ClipSettings",
        ),
        (module(avcore_prompts=lambda: []), "lacks the decorator @hookimpl"),
        (module(avcore_prompts=hookimpl(lambda config: [])), "config"),
        (module(avcore_run_started=hookimpl(lambda run, epoch: None)), "epoch"),
        (module(avcore_step_finishd=hookimpl(lambda run: None)), "Did you mean 'avcore_step_finished'"),
    ],
)
def test_what_breaks_the_contract_is_named(plugin: types.ModuleType, message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        declarations(plugin)


def test_wrappers_are_refused() -> None:
    def avcore_prompts() -> Any:
        return (yield)

    with pytest.raises(AVCoreError, match="wrapper"):
        declarations(module(avcore_prompts=hookimpl(wrapper=True)(avcore_prompts)))


def test_declarations_may_be_generators() -> None:
    made = declarations(returning(PromptSpec(name=name, build="a:b") for name in "xy"))
    assert [spec.name for spec in made["prompts"]] == ["x", "y"]


def test_a_failing_lifecycle_hook_is_switched_off_alone(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    def failing(run: Any) -> None:
        calls.append("failing")
        raise RuntimeError("no disk")

    bad = module(
        avcore_run_started=hookimpl(failing), avcore_run_finished=hookimpl(lambda status: calls.append(f"bad {status}"))
    )
    good = module(avcore_run_started=hookimpl(lambda run: calls.append(f"good {run}")))
    lifecycle = Lifecycle(
        [
            LoadedPlugin(distribution="toy-bad", version="1", plugin=bad),
            LoadedPlugin(distribution="toy-good", version="1", plugin=good),
            LoadedPlugin(distribution="toy-broken", version="1", state="broken"),
        ]
    )
    lifecycle.call("avcore_run_started", run="r")
    lifecycle.call("avcore_run_started", run="r")
    (said,) = caplog.messages
    assert re.search(r"toy-bad: its hook avcore_run_started failed.*no disk", said)
    assert sorted(calls) == ["failing", "good r", "good r"]
    lifecycle.call("avcore_run_finished", run="r", status="finished")
    assert calls[-1] == "bad finished"
