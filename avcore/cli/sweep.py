"""``avcore sweep``: many runs, from one file."""

from pathlib import Path
from typing import Any

import click

from avcore.config.recipes import parse_yaml
from avcore.engine.files import json_text
from avcore.errors import ConfigError
from avcore.registry import load_registry
from avcore.report.tables import Cell, render_table
from avcore.sweeps.folder import Given, Sweep, SweptRun
from avcore.sweeps.grid import find_grid, shipped_grids
from avcore.sweeps.launch import launch_here, launch_queued

__all__ = ["sweep"]


@click.command()
@click.argument("grid", metavar="[GRID]", required=False)
@click.option("--out", metavar="DIR", help="Folder of the sweep.  [default: sweeps/NAME]")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, help="Runs at once, each with its share of threads or a GPU."
)
@click.option("--data", metavar="PATH", help="Folder of the data set, for rows that name none.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: auto]")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="What differs from machine to machine, such as files of weights (repeatable).",
)
@click.option(
    "--submit", type=click.Choice(["slurm", "local"]), help="Give the runs to submitit: to SLURM, or to this machine."
)
@click.option(
    "--queue",
    "queue",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --submit: as submitit takes it, such as slurm_partition=gpu or timeout_min=600 (repeatable).",
)
@click.option("--list", "listed", is_flag=True, help="Name the sweeps that installed methods ship, and run nothing.")
@click.option("--status", is_flag=True, help="Say how far each run is, and run nothing.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a list of objects, one for each run; the rest is on stderr."
)
def sweep(
    grid: str | None,
    out: str | None,
    jobs: int,
    data: str | None,
    device: str | None,
    sets: tuple[str, ...],
    submit: str | None,
    queue: tuple[str, ...],
    listed: bool,
    status: bool,
    as_json: bool,
) -> None:
    """Run what a file asks for: rows, or the cross product of methods, tasks and settings, each with several seeds.

    GRID is a file, or METHOD:NAME for the table of a paper that a method ships. Every run is a process of its own with
    a folder of its own. Given again, the command goes on: finished runs are read, interrupted ones resumed, failed ones
    tried again. One that fails stops no other; then the exit code is 1.

    \b
    Examples:
      avcore sweep grid.yaml --jobs 4
      avcore sweep stfp:ablation --data FOLDER
      avcore sweep grid.yaml --submit slurm --queue slurm_partition=gpu --queue timeout_min=600
      avcore sweep grid.yaml --status
      avcore compare --sweep sweeps/grid
    """  # noqa: D301 - click's mark for unwrapped lines
    registry = load_registry()
    if listed:
        shipped = [(name, find_grid(name, registry)) for name in shipped_grids(registry)]
        rows: list[list[Cell]] = [[name, one.size, one.summary] for name, one in shipped]
        click.echo(
            json_text([{"name": name, "runs": one.size, "summary": one.summary} for name, one in shipped])
            if as_json
            else render_table(["sweep", "runs", "what"], rows)
        )
        return
    if grid is None:
        raise click.UsageError("Which grid? Give a file, or METHOD:NAME.")
    if queue and submit is None:
        raise ConfigError("--queue goes with --submit slurm or --submit local.")
    asked = find_grid(grid, registry)
    folder = Path(out) if out else Path("sweeps") / asked.name
    done = Sweep(folder.absolute(), asked, Given(data=data and str(Path(data).absolute()), device=device, sets=sets))

    def tell(line: str) -> None:
        click.echo(line, err=as_json)

    if not status:
        if submit is None:
            launch_here(done, jobs, tell)
        else:
            launch_queued(done, submit, _parameters(queue), jobs, tell)
    runs = [(run, run.state) for run in done.runs]
    if as_json:
        click.echo(json_text([_record(run, state) for run, state in runs]))
    else:
        click.echo(render_table(["run", "state", "score", "s"], [_row(run, state) for run, state in runs]))
        for run, state in runs:
            if state == "failed":
                click.echo(f"{run.name} failed: {run.reason} ({run.log})")
        click.echo(f"sweep: {folder}")
    if not status and any(state == "failed" for _, state in runs):
        raise click.exceptions.Exit(1)


def _parameters(pairs: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--queue {pair}: write KEY=VALUE, such as slurm_partition=gpu.")
        found |= parse_yaml(f"{key}: {value}", f"--queue {pair}")
    return found


def _record(run: SweptRun, state: str) -> dict[str, Any]:
    results = run.results
    return {
        "row": run.row.name,
        "seed": run.seed,
        "state": state,
        "reason": run.reason,
        "directory": str(run.directory),
        "metrics": results and results.metrics,
    }


def _row(run: SweptRun, state: str) -> list[Cell]:
    results = run.results
    score = results.score if results else None
    shown = score and f"{score.split} {score.name} {score.value:.2f}"
    return [run.name, state, shown, round(results.seconds) if results else None]
