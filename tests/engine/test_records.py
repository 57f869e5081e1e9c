import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from toy_results import result

from avcore.engine.records import RunRecord, commit_of, default_directory, peak_bytes, refuse_no_unicode, versions
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError


def test_default_directory_names_task_method_and_time(tmp_path):
    with default_directory("avs", "copl", tmp_path) as path:
        assert re.fullmatch(r"avs-copl-\d{8}T\d{6}Z", path.name)
    with default_directory("avs", None, tmp_path) as plain:
        assert plain.name.startswith("avs-plain-")


def test_runs_that_begin_at_once_have_a_directory_each(tmp_path):
    def begin(_: int) -> Path:
        with default_directory("avs", "copl", tmp_path) as path:
            return path

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(begin, range(40)))) == 40


def test_a_directory_goes_again_where_nothing_came_of_the_run(tmp_path):
    def stop(root: Path, leave: str | None) -> None:
        with default_directory("avs", "copl", root) as path:
            if leave is not None:
                (path / leave).touch()
            raise AVCoreError("no such data")

    for leave, left in ((None, 0), ("log.txt", 1)):
        with pytest.raises(AVCoreError, match="no such data"):
            stop(tmp_path / "runs", leave)
        assert len(list((tmp_path / "runs").glob("*"))) == left


def test_a_default_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").touch()
    with (
        pytest.raises(AVCoreError, match=r"Cannot make the run directory .*runs"),
        default_directory("avs", None, tmp_path / "runs"),
    ):
        pass


def test_a_directory_with_files_is_refused(tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(AVCoreError, match="not empty"):
        RunRecord(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_place_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AVCoreError, match=r"Cannot make the run directory .*file/run"):
        RunRecord(tmp_path / "file" / "run")


def test_what_is_written(tmp_path):
    record = RunRecord(tmp_path / "run")
    record.write_config("task: avs\nprompts:\n- a.b\ndata:\n  root: null\n")
    record.write_results(result())
    record.log("one\ntwo")
    record.close()
    assert (tmp_path / "run/config.yaml").read_text() == "task: avs\nprompts:\n- a.b\ndata:\n  root: null\n"
    assert RunResult.read(tmp_path / "run/results.json") == result()
    assert re.fullmatch(r"(\d\d:\d\d:\d\d (one|two)\n){2}", (tmp_path / "run/log.txt").read_text())
    assert (tmp_path / "run/checkpoints").is_dir()
    assert (tmp_path / "run/pictures").is_dir()


def test_versions_name_what_computes():
    found = versions()
    assert found["torch"] == torch.__version__
    assert {"numpy", "timm", "av"} <= set(found)
    assert "pytest" not in found


def git(path: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", "-C", str(path), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_damaged_distribution_stops_no_run(tmp_path, monkeypatch):
    damaged = tmp_path / "toy_bad-1.0.dist-info"
    damaged.mkdir()
    (damaged / "METADATA").write_bytes(b"Name: toy-bad\nSummary: caf\xe9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "torch" in versions()


def test_commit_of_a_working_tree(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1\n")
    git(tmp_path, "init")
    assert commit_of(package) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(package) == commit
    (package / "a.py").write_text("2\n")
    assert commit_of(package) == f"{commit}-dirty"


def test_an_installed_package_in_a_foreign_repository_has_no_commit(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "theirs.py").touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "theirs")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "avcore.py").touch()
    assert commit_of(tmp_path / "venv") is None


def test_peak_memory_of_this_process_is_plausible():
    assert 50e6 < peak_bytes(torch.device("cpu")) < 200e9


def test_names_that_are_no_unicode_are_written_as_escapes(tmp_path):
    record = RunRecord(tmp_path / "run")
    record.log("train: clip caf\udce9 cannot be read")
    record.write_results(result(broken={"train": {"caf\udce9": "/data/caf\udce9.mp4 is empty"}}))
    record.close()
    assert "caf\\udce9 cannot" in (tmp_path / "run/log.txt").read_text()
    assert RunResult.read(tmp_path / "run/results.json").broken == {
        "train": {"caf\udce9": "/data/caf\udce9.mp4 is empty"}
    }


def test_a_directory_of_no_unicode_is_refused(tmp_path):
    refuse_no_unicode(tmp_path / "caf\u00e9")
    with pytest.raises(AVCoreError, match=r"caf.udce9' is no UTF-8.*name another --out"):
        refuse_no_unicode(tmp_path / "caf\udce9")
