"""Full disks, and losses that are not finite: one clear line, and what was reached stays."""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

import avcore
from avcore.cli import main
from avcore.engine.checkpoint import CheckpointStore
from avcore.engine.step import NonFiniteError
from avcore.errors import AVCoreError
from avcore.states import trainable_state


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond so many bytes, as on a full disk (EFBIG in place of ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def latest(directory):
    return CheckpointStore(directory / "checkpoints").open("latest").progress.step


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("size", [0, 600])
def test_a_full_disk_names_the_path_and_leaves_the_old_checkpoint(start, world, tmp_path, monkeypatch, end_of, size):
    """At 0 bytes the log fails first, at 600 the tensors of a checkpoint."""
    # Young files are not remembered by the cache, so that it would write when they have come of age.
    monkeypatch.setattr("avcore.data.cache.SETTLED_NS", 0)
    whole = start(epochs=3, out=tmp_path / "whole")
    with largest_file(size) as fill:
        world.MOMENTS["saved"] = fill
        with pytest.raises(AVCoreError, match=rf"Cannot write .*{tmp_path / 'run'}.*: File too large"):
            start(epochs=3)
    assert latest(tmp_path / "run") == 3
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "interrupted"
    assert not list((tmp_path / "run").rglob(".tmp-*"))
    world.MOMENTS.clear()
    avcore.run(resume=tmp_path / "run", quiet=True)
    assert end_of(tmp_path / "run") == end_of(whole.directory)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_whoever_writes_the_path_is_named(start, world, tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number), str(tmp_path / "run" / "pictures" / "test-1.png"))

    monkeypatch.setattr("avcore.runs.evaluations.save_pictures", refuse)
    with pytest.raises(AVCoreError, match=rf"Cannot write .*test-1\.png: {os.strerror(number)}"):
        start(epochs=1)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "failed"


class _Capabilities(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextlib.contextmanager
def permissions_that_count():
    """Root may write everywhere; within it, it may not, as anybody else (Linux: CAP_DAC_OVERRIDE is put down)."""
    libc, version = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (_Capabilities * 2)()
    if os.geteuid() or libc.capget(version, held):
        yield
        return
    before = held[0].effective
    try:
        held[0].effective = before & ~0b110
        assert libc.capset(version, held) == 0
        yield
    finally:
        held[0].effective = before
        libc.capset(version, held)


@pytest.fixture
def forbid():
    """Takes the permissions of paths away, and gives them back in the end."""
    before = {}

    def take(path, mode):
        before.setdefault(path, path.stat().st_mode)
        path.chmod(mode)

    with permissions_that_count():
        yield take
    for path, mode in before.items():
        path.chmod(mode)


def test_a_folder_that_may_not_be_written_any_more_costs_no_work(start, world, tmp_path, end_of, forbid):
    whole = start(epochs=2, out=tmp_path / "whole")
    checkpoints = tmp_path / "run" / "checkpoints"
    world.MOMENTS["saved"] = lambda: forbid(checkpoints, 0o555)
    with pytest.raises(AVCoreError, match=rf"^Cannot write the checkpoint {checkpoints}/step-\d+: Permission denied"):
        start(epochs=2)
    world.MOMENTS.clear()
    assert latest(tmp_path / "run") == 3
    checkpoints.chmod(0o755)
    avcore.run(resume=tmp_path / "run", quiet=True)
    assert end_of(tmp_path / "run") == end_of(whole.directory)


FORBIDDEN = {
    "out": (lambda run: run.parent, 0o555, ["run", "--plugin", "rowing", "--task", "listen", "--out", "{}-2"]),
    "a folder that cannot be entered": (lambda run: run, 0o000, ["run", "--resume", "{}"]),
    "a checkpoint": (lambda run: next(run.glob("checkpoints/step-*/model.*")), 0o000, ["eval", "{}"]),
    "the results": (lambda run: run / "results.json", 0o000, ["run", "--resume", "{}", "--epochs", "9"]),
    "the log": (lambda run: run / "log.txt", 0o444, ["run", "--resume", "{}", "--epochs", "9"]),
    "a folder to list": (lambda run: run, 0o000, ["runs", "list", "{}"]),
}


@pytest.mark.parametrize(("which", "mode", "command"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_may_not_be_used_is_named_in_one_line(start, tmp_path, forbid, which, mode, command):
    start(epochs=1, out=tmp_path / "runs" / "run")
    path = which(tmp_path / "runs" / "run")
    forbid(path, mode)
    result = CliRunner().invoke(main, [word.format(tmp_path / "runs" / "run") for word in command])
    assert result.exit_code == 2
    assert result.stderr.startswith("avcore: error: Cannot ")
    assert result.stderr.endswith(": Permission denied.\n")
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr


def test_a_demo_that_cannot_be_made_names_the_folder(start, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AVCORE_CACHE", str(tmp_path / "file"))
    message = rf"'toy-demo' cannot be made in {tmp_path / 'file'}: Not a directory\. .*AVCORE_CACHE"
    with pytest.raises(AVCoreError, match=message):
        start()


def test_other_errors_of_the_system_keep_their_traceback(start, monkeypatch):
    def refuse(*arguments):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr("avcore.runs.evaluations.save_pictures", refuse)
    with pytest.raises(ConnectionResetError):
        start(epochs=1)


# --------------------------------------------------------------------------------------------------------------------
# Losses and gradients that are not finite


def test_a_bad_step_is_written_down_and_what_was_reached_saved(start, tmp_path):
    with pytest.raises(
        NonFiniteError, match=r"step 1 \(epoch 0\).*train\.nonfinite=skip.*nonfinite-step-00000001\.json"
    ):
        start("none", prompts="exploder")
    found = json.loads((tmp_path / "run" / "nonfinite-step-00000001.json").read_text())
    assert (found["step"], found["epoch"], found["what"], found["losses"]) == (1, 0, "loss", {"entropy": "nan"})
    assert len(found["clips"]) == 4
    assert all(name.startswith("train") for name in found["clips"])
    assert found["config"]["prompts"] == ["exploder"]
    assert latest(tmp_path / "run") == 1


def test_bad_steps_may_be_skipped_and_are_counted(start, world, tmp_path, capsys):
    world.Exploder.until = 12
    run = start("none", prompts="exploder", set=["train.nonfinite=skip", "train.nonfinite_limit=2"], quiet=False)
    assert run.results.skipped_steps == 2
    assert [step["step"] for step in world.STEPS] == [0, 3, 4, 5]
    out = capsys.readouterr().out
    assert "step 1 is skipped: its loss is not finite (1 of 2 that may be), see" in out
    assert "(2 of 2 that may be)" in out
    assert len(list(run.directory.glob("nonfinite-*.json"))) == 2
    assert all(value.isfinite().all() for value in trainable_state(run.model).values())


def test_more_bad_steps_than_the_limit_stop_the_run(start, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 4 \(epoch 1\).*train\.nonfinite_limit=3 steps were skipped"):
        start("none", prompts="exploder", set=["train.nonfinite=skip", "train.nonfinite_limit=3"])
    assert latest(tmp_path / "run") == 4


def test_a_run_that_stopped_so_may_go_on_by_skipping(start, world, tmp_path):
    with pytest.raises(NonFiniteError):
        start("none", prompts="exploder")
    world.Exploder.calls, world.Exploder.until = 4, 8
    run = avcore.run(resume=tmp_path / "run", set=["train.nonfinite=skip"], quiet=True)
    assert (run.results.status, run.results.skipped_steps) == ("finished", 1)


def test_a_clip_that_cannot_be_read_costs_no_work(start, world, tmp_path):
    count = 0

    def spoil():
        nonlocal count
        count += 1
        if count == 29:
            raise AVCoreError("clip 7 is broken")

    world.MOMENTS["data"] = spoil
    with pytest.raises(AVCoreError, match="clip 7 is broken"):
        start()
    assert latest(Path(tmp_path / "run")) == 4


def test_a_killed_loader_process_costs_no_work_and_is_no_plugins_fault(start, world, tmp_path):
    run, count = os.getpid(), 0

    def kill():
        nonlocal count
        count += 1
        if count == 14 and os.getpid() != run:
            os.kill(os.getpid(), signal.SIGKILL)

    world.MOMENTS["data"] = kill
    with pytest.raises(AVCoreError, match=r"^A loader process was killed: this machine is probably out of memory\."):
        start(epochs=2, set=["data.workers=1"])
    assert "to go on: avcore run --resume" in (tmp_path / "run" / "log.txt").read_text()
    world.MOMENTS.clear()
    assert avcore.run(resume=tmp_path / "run", set=["data.workers=0"], quiet=True).results.status == "finished"
