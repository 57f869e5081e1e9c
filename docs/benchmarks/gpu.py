"""Whether avcore computes on a GPU what it computes elsewhere, and how fast and in how much memory it does.

    python docs/benchmarks/gpu.py --out gpu.json
    python docs/benchmarks/gpu.py --out dry.json --dry-run
    python docs/benchmarks/gpu.py --out plan.json --plan

First checks, then rows in order of importance, each written as soon as it is done, until ``--minutes`` are over; what
was not reached is listed. ``--dry-run`` does all of it on the CPU at small width, ``--plan`` says how long each row
should take. Needs a checkout: pytest, and the tests of which it takes models and batches. Random weights, noise, no
network.
"""

import argparse
import gc
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Read by cuBLAS when CUDA starts; without it no product repeats bit for bit.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from on_gpu.checks import attention, compiled, methods, passed, resume
from on_gpu.golden import golden
from on_gpu.rows import CHECKS, FILLING, GRAPHS, LAUNCH, RATE, ROWS, Found, budget, kept, measured

from avcore.bench.record import about
from avcore.engine.files import write_json
from avcore.registry import Registry, load_registry


class OutOfTime(BaseException):  # no Exception, so that no row takes it for its own failure
    """The minutes are over."""


def attempt(what: Callable[[], Found]) -> Found:
    """What it finds and how long it took, or why it failed."""
    begin = time.perf_counter()
    try:
        found = what()
    except Exception as error:  # whatever one does, the others are measured
        lines = str(error).strip().splitlines() or [""]
        found = {"failed": f"{type(error).__name__}: {lines[0]}"}
    return {**found, "seconds": round(time.perf_counter() - begin, 1)}


def collect(
    jobs: Sequence[tuple[str, str, Callable[[], Found]]], record: Found, write: Callable[[Found], None], device: str
) -> bool:
    """Do one job after the other; the record is written after each.

    Args:
        jobs: ``checks`` or ``rows``, name, what finds it.
        record: what is known before; what is found goes into it.
        write: keeps a record.
        device: where they run.

    Returns:
        Whether every job that was reached came to its end and every check passed.
    """
    record |= {"checks": {}, "rows": {}, "left_out": [name for _, name, _ in jobs], "ended": "killed"}
    ended = "done"
    for kind, name, job in jobs:
        try:
            found = attempt(job)
        except OutOfTime:
            ended = "out of time"
            break
        record[kind][name] = found
        record["left_out"].remove(name)
        told = found.get("failed") or ("ok" if passed(found) else "NOT AS IT SHOULD BE")
        print(f"{name}: {told}, {found['seconds']} s", flush=True)
        write(record)
        if fault := freed(device):
            ended = f"the device is lost: {fault}"
            break
    record["ended"] = ended
    write(record)
    done = [*record["checks"].values(), *record["rows"].values()]
    return not ended.startswith("the device") and all("failed" not in one and passed(one) for one in done)


def freed(device: str) -> str:
    """Give back what the last job held; says why the device can no longer be used, if so."""
    torch._dynamo.reset()
    gc.collect()
    if not device.startswith("cuda"):
        return ""
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError as error:  # an illegal access, after which nothing runs
        return str(error).splitlines()[0]
    return ""


def jobs_of(registry: Registry, device: str, *, small: bool) -> list[tuple[str, str, Callable[[], Found]]]:
    """Checks, then the rows; what is compiled is checked behind the first row that is."""
    rows = list(kept(ROWS, small=small))
    jobs = [("rows", row.name, partial(measured, row, registry, device, small=small)) for row in rows]
    if not small:
        first = next(at for at, row in enumerate(rows) if row.compile != "off")
        jobs.insert(first + 1, ("checks", "compiled", partial(compiled, device)))
    return [
        ("checks", "attention", partial(attention, device, registry, small=small)),
        ("checks", "golden", partial(golden, device)),
        ("checks", "methods", partial(methods, device, small=small)),
        ("checks", "resume", partial(resume, device)),
        *jobs,
    ]


def plan(out: Path, minutes: float) -> None:
    """Print and write how long each row should take, and which the minutes reach."""
    assumed = {"flop_per_s": RATE, "s_per_kernel": LAUNCH, "s_per_parameter": FILLING, "graphs_s": GRAPHS}
    record = {**about("gpu_plan", torch.device("meta"), {"minutes": minutes}), "checks_s": CHECKS, **assumed}
    rows = []
    for row in budget(ROWS, load_registry()):
        rows.append({**row, "reached": row["end_s"] <= 60 * minutes})
        late = "" if rows[-1]["reached"] else ", not reached"
        print(f"{row['row']}: {row['before_s']:.1f} + {row['device_s']:.1f} s, ends at {row['end_s']:.0f} s{late}")
    write_json(out, {**record, "rows": rows})
    print(f"{sum(row['reached'] for row in rows)} of {len(rows)} rows within {minutes:g} minutes; {out}")


def main() -> None:
    """Check, measure, write; ends with 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="record, written after each check and each row")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which it stops (10)")
    parser.add_argument("--device", default="cuda", help="cuda, or cuda:N")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at small width, two steps")
    parser.add_argument("--plan", action="store_true", help="measure nothing: how long each row should take")
    given = parser.parse_args()
    if given.plan:
        plan(given.out, given.minutes)
        return
    small, device = given.dry_run, "cpu" if given.dry_run else given.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device here. --dry-run tries everything on the CPU, at small width.")

    def stop(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * given.minutes)
    settings = {"small": small, "minutes": given.minutes}
    record = about("gpu", torch.device(device), settings)
    jobs = jobs_of(load_registry(), device, small=small)
    good = collect(jobs, record, partial(write_json, given.out), device)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"{record['ended']}; {len(record['left_out'])} left out; {given.out}")
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
