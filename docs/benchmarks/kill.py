"""Kill a run with SIGKILL at random moments, go on with it, and see that nothing is lost.

    python docs/benchmarks/kill.py --moments 200 --out docs/benchmarks/kill.json

A short training on the demo, saved every second step, is first done without a stop. Then it is begun again and killed,
every other time in the middle of a save, gone on with and killed again; when it comes to its end it must be where the
first one was, bit for bit, and another begins. After every kill:

* the latest checkpoint loads, and is not older than the last one whose save had ended: at most one save interval lost;
* what an earlier kill left unfinished is gone.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Command = Callable[[Sequence[str]], None]
"""Does what ``avcore`` does with these arguments; picklable."""

DEMO = (
    *("run", "--plugin", "copl", "--task", "avs", "--no-baseline", "--epochs", "3"),
    *("--set", "train.save_every=2", "--set", "train.batch_size=8", "--set", "train.eval_every=3"),
)


def command_line(arguments: Sequence[str]) -> None:
    """``avcore`` itself."""
    from avcore.cli import main

    main(list(arguments))


def telling_run(command: Command, arguments: Sequence[str], told: Connection) -> None:
    """A run that tells when a save begins (``None``) and when it has ended (its step)."""
    from avcore.engine.checkpoint import CheckpointStore

    save = CheckpointStore.save

    def telling(store: Any, snapshot: Any, progress: Any, **rest: Any) -> Path:
        told.send(None)
        path = save(store, snapshot, progress, **rest)
        told.send(progress.step)
        return path

    CheckpointStore.save = telling  # type: ignore[assignment, method-assign]
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    command(arguments)


def start(context: Any, command: Command, arguments: Sequence[str]) -> tuple[Any, Connection]:
    """A run in a process of its own."""
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=telling_run, args=(command, arguments, told))
    process.start()
    told.close()
    return process, heard


def drain(heard: Connection) -> list[int | None]:
    """What a run still tells, to its end."""
    said = []
    with contextlib.suppress(EOFError, OSError):
        while True:
            said.append(heard.recv())
    return said


def kill_in_a_while(process: Any, heard: Connection, draws: random.Random, *, saving: bool) -> tuple[bool, list[int]]:
    """Kill a run, if it does not end before; whether it was killed, and the steps of the saves that had ended."""
    said: list[int | None] = []
    wanted = draws.randrange(1, 4) if saving else 1
    with contextlib.suppress(EOFError):
        while said.count(None) < wanted:
            said.append(heard.recv())
        time.sleep(draws.uniform(0, 0.02 if saving else 0.5))
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    said += drain(heard)
    process.join()
    return process.exitcode == -signal.SIGKILL, [step for step in said if step is not None]


def state_of(directory: Path) -> dict[str, str]:
    """Hashes of what the latest checkpoint holds."""
    from avcore.engine.checkpoint import CheckpointStore
    from avcore.engine.files import sha256

    found = CheckpointStore(directory / "checkpoints").open("latest")
    return {name: sha256(found.path / name) for name in ("model.safetensors", "optimizer.safetensors")}


def harness(
    command: Command, arguments: Sequence[str], work: Path, *, moments: int, seed: int, preload: Sequence[str] = ()
) -> dict[str, Any]:
    """Kill so many times; how often what happened. What runs import slowly is imported once: ``preload`` names more.

    Raises:
        AssertionError: something was lost, or left behind.
    """
    from avcore.engine.checkpoint import CheckpointStore

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["avcore.runs", "torch.utils.tensorboard", *preload])
    process, heard = start(context, command, [*arguments, "--out", str(work / "straight")])
    drain(heard)
    process.join()
    assert process.exitcode == 0, f"the run itself left with {process.exitcode}"
    expected = state_of(work / "straight")

    draws = random.Random(seed)
    killed = in_saves = torn = finished = reached = 0
    directory = work / "run-0"
    while killed < moments or directory.exists():
        saving = killed % 2 == 1
        process, heard = start(context, command, [*arguments, "--out", str(directory), "--resume"])
        if killed < moments:
            was_killed, saved = kill_in_a_while(process, heard, draws, saving=saving)
        else:
            was_killed, saved = False, []
            drain(heard)
            process.join()
        reached = max([reached, *saved])
        left = {path.name.rpartition("-")[2] for path in directory.rglob(".tmp-*")}
        if was_killed:
            killed += 1
            print(f"killed {killed} of {moments}", file=sys.stderr, flush=True)
            in_saves += saving
            torn += bool(left)
            assert len(left) <= 1, f"kill {killed}: the processes {left} left something, so one start cleaned nothing"
            if reached:
                found = CheckpointStore(directory / "checkpoints").open("latest").progress.step
                assert found >= reached, f"kill {killed}: step {reached} was saved, and the latest is {found}"
            continue
        assert process.exitcode == 0, f"after kill {killed} the run left with {process.exitcode}"
        assert state_of(directory) == expected, f"after kill {killed} the run came to another end"
        assert not left, f"after kill {killed} the finished run left something unfinished"
        shutil.rmtree(directory)
        finished += 1
        directory, reached = work / f"run-{finished}", 0
    return {
        "kills": killed,
        "aimed at saves": in_saves,
        "in the middle of a write": torn,
        "runs that came to the same end": finished,
        "versions": {name: version(name) for name in ("avcore", "torch", "safetensors")},
    }


def main() -> None:
    """Kill as often as was asked, and write down what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=200, help="how often to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = harness(
            command_line, DEMO, Path(work), moments=given.moments, seed=given.seed, preload=("torch._dynamo",)
        )
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
