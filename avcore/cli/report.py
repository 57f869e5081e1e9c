"""``avcore report``: a page for a browser of a run, or of a folder of runs. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from avcore.engine.listing import ListedRun
    from avcore.registry import Registry
    from avcore.report.page import RunPage

__all__ = ["report"]


@click.command()
@click.argument("directory", metavar="RUN|SWEEP")
@click.option("-o", "--out", metavar="DIR", required=True, help="Folder for index.html and the files that it shows.")
@click.option("--overwrite", is_flag=True, help="Replace a page that is there already.")
def report(directory: str, out: str, overwrite: bool) -> None:
    """Write one HTML page that needs no network: scores, also with other sound and muted, curves, parameters, pictures.

    Shows too what differs from the recipe, the overlay videos that 'avcore predict' left in the run, and the figures of
    'avcore figures'. Of a folder of runs, such as that of a sweep, or of a run of several seeds, a table and charts
    stand first: the score against trained parameters and against each number in the settings that varies.

    \b
    Examples:
      avcore report runs/NAME -o page
      avcore report sweeps/july -o page --overwrite
    """  # noqa: D301 - click's mark for unwrapped lines
    from avcore.engine.listing import find_runs, read_run
    from avcore.errors import AVCoreError
    from avcore.registry import load_registry
    from avcore.report.page import write_page

    root, registry = Path(directory), load_registry()
    found = find_runs(root)
    if not found:
        raise AVCoreError(f"There are no runs in {root}: name the folder of a run, or one that holds runs.")
    found += [path.parent for one in found for path in sorted(one.glob("seed-*/config.yaml"))]
    pages = [_page(read_run(path), root, registry) for path in found]
    page = write_page(
        pages,
        f"avcore: {root.resolve().name}",
        Path(out),
        charts=_charts([one.run for one in pages]),
        overwrite=overwrite,
    )
    click.echo(f"Page: {page}")


def _page(run: "ListedRun", root: Path, registry: "Registry") -> "RunPage":
    from avcore.report.page import RunPage
    from avcore.report.published import published_scores

    registry, data = run.names_in(registry), run.dataset
    return RunPage(
        name=str(run.directory.relative_to(root)) if run.directory != root else root.resolve().name,
        run=run,
        demo=data is not None and registry.datasets.offers(data) and registry.datasets[data].demo,
        published=published_scores(run.results, registry) if run.results else (),
        differs=_differences(run, registry),
        curves=_curves(run.directory),
    )


def _differences(run: "ListedRun", registry: "Registry") -> dict[str, tuple[Any, Any]] | None:
    """Settings that are not those of the run's recipe; None where it has none, or it is not installed."""
    from avcore.config import resolve_config
    from avcore.config.leaves import flatten
    from avcore.errors import AVCoreError

    if run.results is None or run.results.method is None or not run.config:
        return None
    try:
        recipe = resolve_config(
            registry, method=run.results.method, task=run.results.task, recipe=run.results.recipe, need_data=False
        )
    except AVCoreError:
        return None
    theirs, ours = flatten(recipe.tree()), flatten(dict(run.config))
    return {
        key: (theirs.get(key, "–"), ours.get(key, "–"))
        for key in dict.fromkeys((*ours, *theirs))
        if not key.startswith("full_names") and _plain(theirs.get(key)) != _plain(ours.get(key))
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of the events that a run wrote for TensorBoard; empty where there are none."""
    if not any(directory.glob("events.out.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 500, "images": 1})
    events.Reload()
    return {tag: [(one.step, float(one.value)) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _charts(runs: "Sequence[ListedRun]") -> list[str]:
    """The score of finished runs against trained parameters, and against each number of the settings that varies."""
    from avcore.config.leaves import flatten
    from avcore.report.charts import Mark, chart

    scored = [(run, run.results, run.results.score) for run in runs if run.results and run.results.score]
    if len(scored) < 2:
        return []
    drawn: dict[tuple[str, str], dict[str, list[Mark]]] = {}
    trained = "trained parameters"
    for run, results, score in scored:
        assert score is not None
        of, label = f"{results.task}, {results.dataset}: {score.name} on {score.split}", results.label or "head alone"
        where = f"{run.directory.name}: {score.value:.2f}"
        count = int(results.params.get("trainable", 0))
        drawn.setdefault((of, trained), {}).setdefault(label, []).append(Mark(count, score.value, where))
        for key, value in flatten(dict(run.config)).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "seed":
                mark = Mark(float(value), score.value, where)
                drawn.setdefault((of, key), {}).setdefault(label, []).append(mark)
    varied = {
        name: series
        for name, series in drawn.items()
        if name[1] == trained or any(len({mark.x for mark in marks}) > 1 for marks in series.values())
    }
    return [
        chart(series, of, key, of.rpartition(": ")[2], log_x=key == trained) for (of, key), series in varied.items()
    ]
