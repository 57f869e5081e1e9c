"""``avcore runs``: what lies in a folder of runs. Imports no torch."""

from pathlib import Path
from typing import Any

import click

from avcore.cli.usage import UsageGroup
from avcore.engine.files import json_text
from avcore.engine.listing import ListedRun, find_runs, read_run
from avcore.errors import AVCoreError, typed
from avcore.registry import Registry, load_registry
from avcore.report.published import published_scores, render_published
from avcore.report.tables import Cell, brought_by, render_table

__all__ = ["runs"]

COLUMNS = ("run", "status", "task", "method", "data", "score", "epochs", "started (UTC)", "seconds")


@click.group(cls=UsageGroup)
def runs() -> None:
    """List runs and show what one reached."""


@runs.command("list")
@click.argument("folder", metavar="[DIR]", default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, one for each run.")
def list_(folder: str, as_json: bool) -> None:
    """List the runs in DIR (default: runs), also those that are broken or were interrupted.

    The score is the one that selects the best checkpoint, on test, or on the split that was measured. DEMO marks scores
    that mean nothing.

    \b
    Examples:
      avcore runs list
      avcore runs list sweeps/july --json
    """  # noqa: D301 - click's mark for unwrapped lines
    root = Path(folder)
    found, registry = [read_run(directory) for directory in find_runs(root)], load_registry()
    if as_json:
        click.echo(json_text([_record(run, root, registry) for run in found]))
        return
    if not found:
        click.echo(f"No runs in {root}.")
        return
    click.echo(render_table(COLUMNS, [_row(run, root, registry) for run in found]))
    for run in found:
        if run.problem:
            click.echo(f"{_name(run, root)} is broken: {run.problem}.")


@runs.command()
@click.argument("directory", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print one object, with the results and the configuration.")
def show(directory: str, as_json: bool) -> None:
    """Show what one run was asked for and what it reached, beside what its recipe says was published.

    \b
    Example:
      avcore runs show runs/NAME
    """  # noqa: D301 - click's mark for unwrapped lines
    path = Path(directory)
    if find_runs(path) != [path]:
        raise AVCoreError(
            f"{path} is not the directory of a run: 'avcore runs list {typed(path)}' looks for runs in it."
        )
    run, registry = read_run(path), load_registry()
    if as_json:
        record = _record(run, path, registry)
        results = run.results and run.results.to_json()
        beside = _published(run, registry)
        click.echo(json_text({**record, "results": results, "published": beside, "config": run.config}))
        return
    _print(run, registry)


def _name(run: ListedRun, root: Path) -> str:
    return str(run.directory.relative_to(root)) if run.directory != root else str(root)


def _published(run: ListedRun, registry: Registry) -> list[dict[str, Any]]:
    return published_scores(run.results, run.names_in(registry)) if run.results else []


def _is_demo(run: ListedRun, registry: Registry) -> bool:
    name, registry = run.dataset, run.names_in(registry)
    return name is not None and registry.datasets.offers(name) and registry.datasets[name].demo


def _record(run: ListedRun, root: Path, registry: Registry) -> dict[str, Any]:
    (done, asked), results = run.epochs, run.results
    score = results.score if results else None
    return {
        "name": _name(run, root),
        "directory": str(run.directory),
        "status": run.status,
        "problem": run.problem,
        "task": run.task,
        "method": run.label,
        "dataset": run.dataset,
        "demo": _is_demo(run, registry),
        "split": score and score.split,
        "metric": score and score.name,
        "score": score and score.value,
        "epochs_done": done,
        "epochs": asked,
        "started": run.started.isoformat() if run.started else None,
        "seconds": results and results.seconds,
        "seeds": list(results.seeds) if results else [],
    }


def _row(run: ListedRun, root: Path, registry: Registry) -> list[Cell]:
    return [
        _name(run, root),
        run.status,
        run.task,
        run.label or ("head alone" if run.config or run.results else None),
        _data(run, registry),
        _score(run),
        _epochs(run),
        f"{run.started:%Y-%m-%d %H:%M}" if run.started else None,
        round(run.results.seconds) if run.results else None,
    ]


def _data(run: ListedRun, registry: Registry) -> str | None:
    return f"{run.dataset} DEMO" if _is_demo(run, registry) else run.dataset


def _score(run: ListedRun) -> str | None:
    if run.results is None or run.results.score is None:
        return None
    split, name, value = run.results.score
    seeds = f" (mean of {len(run.results.seeds)} seeds)" if run.results.seeds else ""
    return f"{split} {name} {value:.2f}{seeds}"


def _epochs(run: ListedRun) -> str | None:
    done, asked = run.epochs
    if done is None and asked is None:
        return None
    return f"{'–' if done is None else done}/{'–' if asked is None else asked}"


def _print(run: ListedRun, registry: Registry) -> None:
    results, (done, asked) = run.results, run.epochs
    facts: dict[str, Any] = {
        "status": f"{run.status} ({run.problem})" if run.problem else run.status,
        "task": run.task,
        "method": run.label,
        "data": _data(run, registry),
        "epochs": f"{done} of {asked}" if done is not None else asked,
        "started": f"{run.started:%Y-%m-%d %H:%M} UTC" if run.started else None,
    }
    if results:
        facts |= {
            "prompts": ", ".join(results.prompts),
            "fusions": ", ".join(results.fusions),
            "visual": results.visual,
            "audio": results.audio,
            "text": results.text,
            "text_audio": results.text_audio,
            "protocol": results.protocol,
            "seed": ", ".join(map(str, results.seeds)) or results.seed,
            "seconds": results.seconds,
            "commit": results.commit,
        }
    click.echo(run.directory)
    for key, value in facts.items():
        if value not in (None, ""):
            click.echo(f"  {key:<10} {value}")
    if results and results.metrics:
        shown = {**results.metrics, **brought_by(results.shapley)}
        rows = [[split, name, value] for split, scores in shown.items() for name, value in scores.items()]
        click.echo("\n".join([render_table(["split", "metric", "value"], rows), *results.caveats]))
        if beside := _published(run, registry):
            click.echo(f"\n{render_published(beside, results)}")
