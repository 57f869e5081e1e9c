"""``avcore compare``: runs beside each other and beside what was published."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import click

from avcore.engine.files import write_atomic
from avcore.errors import ConfigError
from avcore.registry import load_registry
from avcore.report.formats import FORMATS, render
from avcore.report.pareto import Point, draw_pareto
from avcore.report.tables import render_table
from avcore.sweeps.compare import Comparison, compare_runs, compare_sweep
from avcore.sweeps.folder import Sweep

__all__ = ["compare"]

COSTS = {"trained": "trained parameters", "peak": "peak memory, bytes"}


@click.command()
@click.argument("directories", metavar="RUN...", nargs=-1)
@click.option("--sweep", "swept", metavar="DIR", help="Folder of a sweep, in place of RUN: its rows, in their order.")
@click.option("--against", metavar="ROW", help="Row that differences are told from.  [default: that of the sweep]")
@click.option("--split", "splits", multiple=True, help="Split whose score is shown (repeatable).  [default: test]")
@click.option("--score", metavar="NAME", help="Score that is shown.  [default: the one that selects]")
@click.option("--format", "form", type=click.Choice(FORMATS), help="For pages, papers and programs.  [default: plain]")
@click.option("-o", "--out", metavar="FILE", help="Write the table there in place of printing it.")
@click.option("--pareto", metavar="FILE.svg", help="Also draw scores against what they cost.")
@click.option(
    "--cost",
    type=click.Choice([*COSTS]),
    default="trained",
    show_default=True,
    help="What --pareto draws them against.",
)
def compare(
    directories: tuple[str, ...],
    swept: str | None,
    against: str | None,
    splits: tuple[str, ...],
    score: str | None,
    form: str | None,
    out: str | None,
    pareto: str | None,
    cost: str,
) -> None:
    """Lay runs beside each other: mean ± sd over seeds, what they cost, what they stand on, what was published.

    Runs that differ in their seed alone are one row. With --against each row has its difference to that one, with 95 %
    of a paired bootstrap over clips where both kept the scores of the same clips. Published figures stand only beside
    runs on the whole data set as it was published, never beside a demo or a part of it.

    \b
    Examples:
      avcore compare runs/a runs/b --against a
      avcore compare --sweep sweeps/grid --format latex -o table.tex
      avcore compare --sweep sweeps/grid --pareto front.svg --cost peak
    """  # noqa: D301 - click's mark for unwrapped lines
    if bool(directories) == (swept is not None):
        raise click.UsageError("Give one of the two: RUN..., folders of runs, or --sweep DIR.")
    if pareto is not None and Path(pareto).suffix.lower() != ".svg":
        raise ConfigError(f"--pareto {pareto}: it is drawn as SVG; name a file that ends with .svg.")
    registry = load_registry()
    found = (
        compare_sweep(Sweep.read(Path(swept)), registry, against)
        if swept is not None
        else compare_runs([Path(one) for one in directories], registry, against)
    )
    shown = replace(found, score=score or found.score, splits=splits or found.splits)
    columns, rows = shown.table()
    text = render(form, columns, rows, shown.title, shown.notes) if form else _plain(shown)
    if pareto is not None:
        write_atomic(Path(pareto), _picture(shown, cost).encode())
    if out is None:
        click.echo(text)
    else:
        write_atomic(Path(out), f"{text}\n".encode())


def _plain(shown: Comparison) -> str:
    columns, rows = shown.table()
    return "\n".join([render_table(columns, rows, shown.title or None), *shown.notes])


def _picture(shown: Comparison, cost: str) -> str:
    points = []
    for row in shown.rows:
        if row.first is None:
            continue
        values = row.scores(shown.splits[0], [shown.metric(row)])
        peak = max(results.peak_bytes for _, results in row.runs)
        costs = int(row.first.params.get("trainable", 0)) if cost == "trained" else peak
        if values and costs > 0:
            points.append(Point(row.name, costs, fmean(values), stdev(values) if len(values) > 1 else 0.0))
    metrics = {shown.metric(row) for row in shown.rows if row.first}
    if len(metrics) != 1 or not points:
        why = f"rows have different scores ({', '.join(sorted(metrics))})" if len(metrics) > 1 else "no row has both"
        raise ConfigError(f"--pareto: {why}; compare runs of one task that trained something, or name --score.")
    return draw_pareto(points, COSTS[cost], f"{shown.splits[0]} {metrics.pop()}")
