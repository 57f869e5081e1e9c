"""The batch script for SLURM with stubs of its commands: two nodes that are this machine, a job whose time ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import avcore

SCRIPT = Path(__file__).parents[1] / "examples" / "slurm" / "avcore.sbatch"
STUBS = {
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; echo 127.0.0.2; else echo "$@" >> "$CALLS"; fi',
    "scancel": 'echo "scancel $@" >> "$CALLS"; kill "$(cat "$CALLS.step")"',
}


@pytest.fixture
def job(tmp_path):
    """Starts the script as a job of two nodes with the stubs; the file ``calls`` has what they were told."""

    def start(*arguments, **stubs):
        for name, body in {**STUBS, **stubs}.items():
            stub = tmp_path / name
            stub.write_text(f"#!/bin/bash\n{body}\n")
            stub.chmod(0o755)
        told = {
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_GPUS_ON_NODE": "1",
        }
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(["bash", SCRIPT, *arguments], env={**os.environ, **told}, **pipe)

    return start


def test_two_nodes_meet_and_each_starts_its_process(job):
    both = '"$@" & first=$!; "$@" & second=$!; wait "$first" && wait "$second"'
    process = job("--version", srun=both)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count(f"avcore {avcore.__version__}") == 2, said


def test_a_job_whose_time_ends_saves_and_is_queued_again(job, tmp_path):
    step = 'echo $$ > "$CALLS.step"; echo "$@" > "$CALLS.srun"; exec sleep 60'
    process = job("run", "--out", "some where", srun=step)
    while not (tmp_path / "calls.srun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 0
    number = os.getpid()
    assert (tmp_path / "calls").read_text().splitlines() == [f"scancel --signal=TERM {number}.0", f"requeue {number}"]
    words = (tmp_path / "calls.srun").read_text().split()
    assert words[0] == "torchrun"
    assert words[words.index("-m") :] == ["-m", "avcore", "run", "--out", "some", "where"]
    assert words[words.index("--rdzv-endpoint") + 1].startswith("127.0.0.1:")


def test_a_run_that_fails_fails_the_job(job):
    process = job("run", srun="exit 3")
    process.communicate(timeout=30)
    assert process.returncode == 3
