import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from avcore.cli.new import new
from avcore.cli.usage import UsageGroup
from avcore.errors import AVCoreError


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``avcore plugins new`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(new, list(arguments))


def files_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_plugin_is_written_and_the_next_steps_are_said(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("my-method", "--kind", "prompt", "--author", " Ada   Lovelace ")
    assert result.exit_code == 0, result.output
    made = tmp_path / "avcore-my-method"
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert "src/avcore_my_method/prompts.py" in files_in(made)
    assert 'authors = [{ name = "Ada Lovelace" }]' in (made / "pyproject.toml").read_text()
    head, *steps = result.stdout.splitlines()
    assert head == f"avcore-my-method: {len(files_in(made))} files in avcore-my-method. Now:"
    assert [step.strip() for step in steps] == [
        "pip install -e 'avcore-my-method[test]'",
        "pytest avcore-my-method",
        "avcore run --task avs --prompts my_method --fusion none",
    ]


def test_the_place_can_be_chosen(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("x", "--kind", "task", "--out", "some where/x")
    assert result.exit_code == 0, result.output
    assert "pytest 'some where/x'" in result.stdout
    assert (tmp_path / "some where" / "x" / "README.md").is_file()


def test_git_says_who_the_author_is(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text("[user]\n\tname = Grace Hopper\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    assert invoke("x", "--kind", "prompt").exit_code == 0
    assert "Grace Hopper" in (tmp_path / "avcore-x" / "pyproject.toml").read_text()


def test_without_git_a_placeholder_is_the_author(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert invoke("x", "--kind", "prompt").exit_code == 0
    assert '"Your Name"' in (tmp_path / "avcore-x" / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/name", "is no name for a plugin"),
        ("lambda", "keeps 'lambda'"),
        ("timm", "'avcore-timm' is installed already"),
        ("segment_embedding", "'segment_embedding' is taken: avcore offers it among its prompts"),
    ],
)
def test_wrong_and_taken_names_are_refused(
    invoke: Callable[..., Result], tmp_path: Path, name: str, message: str
) -> None:
    result = invoke(name, "--kind", "prompt")
    assert isinstance(result.exception, AVCoreError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "avcore-x").mkdir()
    (tmp_path / "avcore-x" / "thesis.tex").write_text("years of work")
    result = invoke("x", "--kind", "prompt")
    assert isinstance(result.exception, AVCoreError)
    assert "'avcore-x' is not empty" in str(result.exception)
    assert files_in(tmp_path / "avcore-x") == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(invoke: Callable[..., Result], tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    result = invoke("x", "--kind", "prompt")
    tmp_path.chmod(stat.S_IRWXU)
    assert isinstance(result.exception, AVCoreError)
    assert "cannot be written: Permission denied" in str(result.exception)


def test_a_missing_or_unknown_kind_is_answered_with_the_kinds() -> None:
    group = UsageGroup("plugins", commands={"new": new})
    for arguments in (["new", "x"], ["new", "x", "--kind", "prompts"]):
        result = CliRunner().invoke(group, arguments)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert "prompt" in result.stderr
        assert "--help" in result.stderr


def test_the_help_has_examples() -> None:
    text = CliRunner().invoke(new, ["--help"]).stdout
    assert "avcore plugins new my-method --kind method" in text


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, avcore.cli.new; sys.exit(bool({'torch', 'numpy', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
