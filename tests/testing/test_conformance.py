"""`check_plugin`, `parametrize_with_checks` and ``avcore plugins check``: counts, reasons, expected failures."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from avcore.cli.check import check as command
from avcore.discovery import LoadedPlugin
from avcore.errors import AVCoreError
from avcore.specs import DatasetSpec, FusionSpec, HeadSpec, MethodSpec, PromptSpec, TaskSpec
from avcore.testing import Report, Result, check_plugin, parametrize_with_checks
from avcore.testing.checks import load_checks
from avcore.testing.subject import Subject

Make = Callable[..., None]
PAGE = Path(__file__).parents[2] / "docs" / "plugins-testing.md"

# Only its package can be looked at, which is quick.
SILENT = ""
METHOD = """
    from avcore.hookspecs import hookimpl
    from avcore.specs import MethodSpec

    @hookimpl
    def avcore_methods():
        return [MethodSpec(name="mine", prompts=("segment_embedding",), summary="one line", paper="arXiv:0")]
    """
TYPED = "package: typed"


def test_a_report_counts_and_keeps_the_reasons(make: Make) -> None:
    make(offers=METHOD, typed=False)
    report = check_plugin("avcore-mine")
    states = {result.id: result.state for result in report.results}
    assert states[TYPED] == "failed"
    assert states["method mine: parts"] == "passed"
    assert states["method mine: recipes"] == "skipped", [r for r in report.results if r.state == "failed"]
    reasons = {result.id: result.reason for result in report.results}
    assert "add the empty file" in reasons[TYPED]
    assert reasons["method mine: recipes"] == "It has no recipes."
    total = len(report.results)
    assert report.counts == {"run": total - 6, "passed": total - 7, "failed": 1, "skipped": 6, "expected_failures": 0}
    assert (report.distribution, report.version, report.ok) == ("avcore-mine", "1.2", False)
    record = json.loads(report.to_json())
    assert record["counts"] == report.counts
    assert record["results"][0] == {
        "id": "package: entry point",
        "state": "passed",
        "reason": "",
        "seconds": record["results"][0]["seconds"],
    }


def test_nothing_fails_for_what_a_neighbour_offers(
    make_plugin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = MethodSpec(name="mine", prompts=("mine.rows",), summary="one line", paper="arXiv:0")
    rows = PromptSpec(name="mine.rows", build="toy.x:Rows", summary="rows")
    task, data = (
        TaskSpec(name="hum", build="a:b", head="x"),
        DatasetSpec(name="d", build="a:b", tasks=("hum",), default_for=("hum",)),
    )

    def loaded(name: str, **specs: Any) -> LoadedPlugin:
        return LoadedPlugin(distribution=name, version="1", module="m", specs=specs, plugin=make_plugin(**specs))

    own = loaded("avcore-mine", methods=(mine,), prompts=(rows,))
    same = loaded("avcore-same", fusions=(FusionSpec(name="mine", build="a:b"),), prompts=(rows,), methods=(mine,))
    one = loaded("avcore-one", tasks=(task,), datasets=(data,), heads=(HeadSpec(name="x", build="a:b"),))
    other = loaded("avcore-other", heads=(HeadSpec(name="x", build="a:b"),), datasets=(replace(data, name="e"),))
    monkeypatch.setattr("avcore.testing.subject.load_plugins", lambda policy: (own, same, one, other))
    found = Subject(own).beside({})
    assert found.methods.origin("mine") == found.prompts.origin("mine.rows") == "avcore-mine"
    assert "mine" not in found.fusions
    assert found.parts_of("mine", "prompts") == ("mine.rows",)
    assert found.tasks.origin("hum") == "avcore-one"
    assert "x" not in found.heads  # two neighbours offer it
    assert [spec.name for spec in found.datasets if spec.default_for] == ["d"]


def test_an_expected_failure_is_counted_apart_and_its_reason_kept(make: Make) -> None:
    make(offers=SILENT, typed=False)
    report = check_plugin("avcore-mine", expected_failures={TYPED: "not yet"})
    assert report.ok
    assert report.counts["expected_failures"] == 1
    assert {result.reason for result in report.results if result.state == "expected failure"} == {"not yet"}


def test_an_expected_failure_that_passes_fails(make: Make) -> None:
    make(offers=SILENT)
    report = check_plugin("avcore-mine", expected_failures={TYPED: "not yet"})
    assert not report.ok
    (failed,) = [result for result in report.results if result.state == "failed"]
    assert failed.id == TYPED
    assert "take it out of expected_failures" in failed.reason


@pytest.mark.parametrize(
    ("expected", "says"),
    [({"package: tiped": "why"}, "Did you mean 'package: typed'"), ({TYPED: " "}, "no reason")],
)
def test_an_expected_failure_has_a_name_and_a_reason(make: Make, expected: dict[str, str], says: str) -> None:
    make(offers=SILENT)
    with pytest.raises(AVCoreError, match=says):
        check_plugin("avcore-mine", expected_failures=expected)
    with pytest.raises(AVCoreError, match=says):
        parametrize_with_checks("avcore-mine", expected_failures=expected)


@pytest.mark.parametrize("given", ["data", "sets"])
def test_data_and_settings_are_for_what_the_plugin_declares(make: Make, given: str) -> None:
    make(offers=METHOD)
    with pytest.raises(AVCoreError, match=f"{given} names 'other'.*It declares: mine"):
        check_plugin("avcore-mine", **{given: {"other": []}})


def test_a_report_of_nothing_is_not_ok() -> None:
    assert not Report(distribution="x", version="1", results=()).ok
    assert not Report(distribution="x", version="1", results=(Result(id="a", state="skipped", reason="b"),)).ok


def forked_pytest(directory: Path, *arguments: str) -> tuple[int | None, str]:
    """The code with which pytest leaves, and what it shows, without a second import of torch."""
    shown = directory / "shown"

    def run() -> None:
        os.chdir(directory)
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            del os.environ[name]
        with shown.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            code = pytest.main([*arguments])
            file.flush()
            os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(120)
    return process.exitcode, shown.read_text()


def test_pytest_sees_passes_skips_and_strict_expected_failures(make: Make, tmp_path: Path) -> None:
    make(offers=METHOD, typed=False)
    test = tmp_path / "test_mine.py"
    test.write_text(
        "from avcore.testing import parametrize_with_checks\n\n"
        "EXPECTED = {'package: typed': 'not yet', 'package: licence': 'never'}\n\n"
        "@parametrize_with_checks('avcore-mine', expected_failures=EXPECTED)\n"
        "def test_conforms(check):\n    check()\n"
    )
    code, shown = forked_pytest(tmp_path, "-p", "no:cacheprovider", "-rsxf", "-q", str(test))
    assert code == 1, shown
    assert "[XPASS(strict)] never" in shown
    assert "XFAIL test_mine.py::test_conforms[package: typed] - not yet" in shown
    assert "It has no recipes." in shown
    assert re.search(r"1 failed, 1\d passed, 6 skipped, 1 xfailed", shown), shown


def test_the_command_line_prints_reasons_and_leaves_with_1(make: Make) -> None:
    make(offers=METHOD, typed=False)
    done = CliRunner().invoke(command, ["avcore-mine"])
    assert done.exit_code == 1
    assert "FAIL     package: typed\n         avcore_mine has no py.typed" in done.output
    assert "skip     method mine: recipes\n         It has no recipes." in done.output
    assert done.output.rstrip().endswith("1 failed, 6 skipped, 0 expected failures")


def test_the_command_line_prints_json_and_leaves_with_0(make: Make) -> None:
    make(offers=SILENT)
    done = CliRunner().invoke(command, ["avcore-mine", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["counts"]["failed"] == 0


def test_the_command_line_refuses_what_it_cannot_read(make: Make) -> None:
    make(offers=SILENT)
    done = CliRunner().invoke(command, ["avcore-mine", "--data", "folder"])
    assert isinstance(done.exception, AVCoreError)
    assert "NAME=FOLDER" in str(done.exception)


def test_importing_the_kit_imports_neither_torch_nor_pytest() -> None:
    code = (
        "import sys, avcore.cli.check; from avcore.testing import check_plugin, parametrize_with_checks;"
        "print([name for name in ('torch', 'pytest', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


KINDS = {
    "The package": "package",
    "Settings": "settings",
    "Prompts and fusions": "part",
    "Backbones": "backbone",
    "Heads": "head",
    "Tasks": "task",
    "Data sets": "data set",
    "Methods": "method",
}


def test_the_page_lists_every_check_with_what_it_asks() -> None:
    listed = []
    kind = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            kind = KINDS[line.removeprefix("### ")]
        elif row := re.fullmatch(r"\| `(.+?)` \| (.+) \|", line):
            listed.append((kind, row[1], row[2]))
    expected = [(one.kind, one.name, one.asks) for one in load_checks()]
    assert sorted(listed) == sorted(expected)
