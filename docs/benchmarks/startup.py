"""Processor time that commands take to start, of two checkouts in turn: ``startup.py BEFORE AFTER --out startup.json``.

Every command is a process of its own on one thread, with a warm file cache, a warm demo and no network. Of each the
best of three is kept: what else runs on a machine only adds to it. Run it with the virtual environment of either.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

COMMANDS = {
    "--help": ["--help"],
    "plugins list": ["plugins", "list"],
    "config show copl avs": ["config", "show", "--plugin", "copl", "--task", "avs"],
    "params dgsct avqa": ["params", "--plugin", "dgsct", "--task", "avqa"],
    "params dgsct avs": ["params", "--plugin", "dgsct", "--task", "avs"],
    "run copl avs, first step": [
        *["run", "--plugin", "copl", "--task", "avs", "--epochs", "1", "--no-baseline"],
        *["--set", "train.log_every=1"],
    ],
}
MODULES = "import sys; from avcore.cli import main; main(sys.argv[1:], standalone_mode=False); print(len(sys.modules))"


def environment(checkout: Path) -> dict[str, str]:
    """Its sources first on the path."""
    sources = [checkout, *sorted(checkout.glob("plugins/*/src"))]
    given = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**given, "PYTHONPATH": ":".join(map(str, sources)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def seconds(checkout: Path, name: str) -> float:
    """User and system seconds of one call; of a run until the line of its first step."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "avcore", *COMMANDS[name]]
        if name.startswith("run"):
            command += ["--out", f"{folder}/run"]
        with subprocess.Popen(
            command, env=environment(checkout), cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("epoch 1/"):
                    process.kill()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def modules(checkout: Path, name: str) -> int:
    """How many modules a command has imported when it is done."""
    command = [sys.executable, "-c", MODULES, *COMMANDS[name]]
    done = subprocess.run(command, env=environment(checkout), capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    sides = {"before": given.before.resolve(), "after": given.after.resolve()}
    rows = {}
    for name in COMMANDS:
        measured: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(given.repeats + 1):  # the first fills the caches
            for side, checkout in sides.items():
                taken = seconds(checkout, name)
                measured[side] += [taken] if turn else []
        rows[name] = {side: {"cpu_seconds": round(min(found), 2)} for side, found in measured.items()}
        if name.startswith(("params", "plugins", "config")):
            for side, checkout in sides.items():
                rows[name][side]["modules"] = modules(checkout, name)
        print(name, rows[name], flush=True)
    commits = {
        side: subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for side, checkout in sides.items()
    }
    record = {
        "what": "user and system seconds of a process, best of turns; one thread",
        "repeats": given.repeats,
        "commits": commits,
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores, shared with other work",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "timm")}},
        "commands": rows,
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
