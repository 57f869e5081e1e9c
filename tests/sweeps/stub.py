"""In place of ``avcore``: a run that takes a moment, and is counted. Also a sweep of such runs, to be killed."""

import json
import os
import sys
import time
from pathlib import Path


def stub_run(arguments: list[str]) -> int:
    out = Path(arguments[arguments.index("--out") + 1])
    time.sleep(0.05)
    if "--set=fail=true" in arguments:
        print("Traceback, and much more\navcore: error: It cannot be done: leave it.\nlast words", file=sys.stderr)
        return 2
    if "--set=die=true" in arguments:
        os.kill(os.getpid(), 9)
    out.mkdir(parents=True, exist_ok=True)
    with open(out.parents[1] / "made.txt", "a") as file:
        file.write(f"{out.parent.name}/{out.name}\n")
    results = json.loads(os.environ["STUB_RESULTS"]) | {"seed": int(arguments[arguments.index("--seed") + 1])}
    (out / "config.yaml").write_text("task: seg\n")
    (out / "environment.json").write_text(json.dumps({key: os.environ.get(key) for key in ("OMP_NUM_THREADS",)}))
    (out / "results.json").write_text(json.dumps(results))
    return 0


def swept(folder: str) -> None:
    from avcore.sweeps import Sweep, grid_from, launch

    launch.COMMAND = (sys.executable, "-S", __file__)
    grid = grid_from({"task": "seg", "seeds": [0, 1], "vary": {"optim.lr": [*range(20)]}}, "forty", "forty.yaml")
    launch.launch_here(Sweep(Path(folder), grid), 2, print)


if __name__ == "__main__":
    if sys.argv[1] == "sweep":
        swept(sys.argv[2])
    else:
        sys.exit(stub_run(sys.argv[1:]))
