"""Rows of runs beside each other and beside what was published: means over seeds, intervals over clips, costs.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from avcore.config.leaves import flatten
from avcore.engine.clips import read_clips
from avcore.engine.listing import ListedRun, find_runs, read_run
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError, did_you_mean
from avcore.registry import Registry
from avcore.report.published import published_scores, whole_data
from avcore.report.tables import Cell, Spread
from avcore.sweeps.folder import Sweep

__all__ = ["Compared", "Comparison", "compare_runs", "compare_sweep", "paired_interval"]

RESAMPLED = 2000
"""Samples of clips of a bootstrap."""
NEAR = 0.01
"""How far the mean over clips may lie from the score itself for an interval to be one of that score."""


@dataclass(frozen=True)
class Compared:
    """One row.

    Attributes:
        name: for people.
        runs: its finished runs, one for each seed: where they lie, and what they reached.
        published: metric -> what the paper prints, where it is of the same data.
        official: whether every run saw the whole data set as it was published.
        demo: whether it is of a demo.
        coverage: the clips of test, or of all splits, of how many the data set has; None where that is not known.
    """

    name: str
    runs: Sequence[tuple[Path, RunResult]]
    published: Mapping[str, float] = field(default_factory=dict)
    official: bool = False
    demo: bool = False
    coverage: float | None = None

    @property
    def first(self) -> RunResult | None:
        """The run whose facts the row shows; its seeds differ in their scores alone."""
        return self.runs[0][1] if self.runs else None

    def scores(self, split: str, metrics: Sequence[str]) -> list[float]:
        """The mean of these scores, one value for each run that has them all."""
        found = [results.metrics.get(split, {}) for _, results in self.runs]
        return [fmean(one[metric] for metric in metrics) for one in found if all(metric in one for metric in metrics)]


@dataclass(frozen=True)
class Comparison:
    """Rows in their order, and what their table shows.

    Attributes:
        rows: in the order of the table.
        score: the metric; "" for the one that each row's task selects by.
        splits: whose score is shown.
        groups: further columns: name -> scores of test whose mean it is.
        against: the name of the row that differences are told from; None for none.
        notes: lines below the table.
        title: above it.
    """

    rows: Sequence[Compared]
    score: str = ""
    splits: Sequence[str] = ("test",)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    against: str | None = None
    notes: Sequence[str] = ()
    title: str = ""

    def metric(self, row: Compared) -> str:
        """The score of a row."""
        return self.score or (row.first.score_name if row.first else "")

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        """The titles and the rows; columns in which nothing stands are left out."""
        base = next((row for row in self.rows if row.name == self.against), None)
        made = [self._row(row, base) for row in self.rows]
        titles = list(dict.fromkeys(title for row in made for title in row))
        kept = [title for title in titles if title == "row" or any(row.get(title) is not None for row in made)]
        return kept, [[row.get(title) for title in kept] for row in made]

    def _row(self, row: Compared, base: Compared | None) -> dict[str, Cell]:
        metric, results = self.metric(row), row.first
        several = len({self.metric(one) for one in self.rows if one.first}) > 1
        cells: dict[str, Cell] = {"row": row.name}
        if several:
            cells["score"] = metric
        for split in self.splits:
            cells[split if several else f"{split} {metric or self.score}".strip()] = _spread(
                row.scores(split, [metric])
            )
        for name, metrics in self.groups.items():
            cells[name] = _spread(row.scores("test", metrics))
        for name, value in row.published.items():
            cells[f"published {name}"] = float(value)
        if base is not None and row is not base:
            cells[f"minus {base.name} [95 %]"] = _difference(row, base, self.splits[0], metric)
        if results is None:
            return cells
        versions = {results.commit for _, results in row.runs if results.commit}
        return cells | {
            "seeds": len(row.runs),
            "trained": int(results.params.get("trainable", 0)),
            "peak MiB": round(max(one.peak_bytes for _, one in row.runs) / 2**20) or None,
            "s": round(fmean(one.seconds for _, one in row.runs)),
            "data": f"{results.dataset}{' DEMO' if row.demo else ''}" if results.dataset else None,
            "coverage %": None if row.coverage is None else round(100 * row.coverage, 1),
            "protocol": results.protocol,
            "selected on": results.selected_on,
            "commit": ", ".join(sorted(f"{one[:9]}{'-dirty' if one.endswith('-dirty') else ''}" for one in versions)),
        }


def compare_sweep(sweep: Sweep, registry: Registry, against: str | None = None) -> Comparison:
    """The rows of a sweep, in the order of its grid, with those that have no finished run yet.

    Published figures of the grid, or else of the rows' recipes, stand beside rows only if no row is of other data: a
    table of a demo or of a part of the data has none.
    """
    grid = sweep.grid
    rows = []
    for row in grid.rows:
        runs = [(run.directory, run.results) for run in sweep.runs_of(row)]
        rows.append(_compared(row.name, [(path, found) for path, found in runs if found], registry))
    whole = all(row.official and _same(row, grid.dataset, registry) for row in rows if row.runs)
    notes = [*grid.notes]
    if any(row.published for row in grid.rows):
        printed = [row.published if whole else {} for row in grid.rows]
        rows = [replace(row, published=figures) for row, figures in zip(rows, printed, strict=True)]
        notes.append(
            f"Published: {grid.source}."
            if whole
            else f"Published figures ({grid.source}) are left out: not all runs are of the whole '{grid.dataset}'."
        )
    if waiting := [row.name for row in rows if not row.runs]:
        notes.append(f"No finished run yet: {', '.join(waiting)}.")
    return Comparison(
        rows=rows,
        score=grid.score or "",
        splits=list(dict.fromkeys(split for row in grid.rows for split in row.evaluate)),
        groups=grid.groups,
        against=_row_named(against or grid.against, rows),
        notes=[*notes, *_caveats(rows)],
        title=grid.summary or grid.name,
    )


def compare_runs(directories: Sequence[Path], registry: Registry, against: str | None = None) -> Comparison:
    """Runs, or the runs in folders, as rows; those that differ in nothing but their seed are one.

    Raises:
        AVCoreError: a folder has no finished run.
    """
    together: dict[str, list[tuple[Path, RunResult]]] = {}
    names: dict[str, str] = {}
    for directory in directories:
        found = [one for path in find_runs(directory) for one in _members(read_run(path))]
        finished = [(run, run.results) for run in found if run.results and run.results.status == "finished"]
        if not finished:
            raise AVCoreError(f"There is no finished run in '{directory}': 'avcore runs list' says how far runs are.")
        for run, results in finished:
            settings = {key: value for key, value in flatten(run.config).items() if key != "seed"}
            key = repr(sorted(settings.items(), key=repr)) if settings else str(run.directory)
            together.setdefault(key, []).append((run.directory, results))
            own = run.directory.parent if run.directory.name.startswith("seed-") else run.directory
            names.setdefault(key, own.name or str(own))
    rows = [_compared(_unlike(names, key), runs, registry) for key, runs in together.items()]
    official = all(row.official for row in rows)
    rows = [replace(row, published=_of_recipe(row, registry)) if official else row for row in rows]
    return Comparison(rows=rows, against=_row_named(against, rows), notes=_caveats(rows))


def paired_interval(
    ours: Mapping[str, float], theirs: Mapping[str, float], seed: int = 0
) -> tuple[float, float] | None:
    """95 % of the difference of two means over the same clips, by a paired bootstrap over clips (percentiles).

    Args:
        ours, theirs: the score of each clip by its name.
        seed: of the samples.

    Returns:
        The lower and the upper end; None where the clips are not the same, or fewer than two.
    """
    if len(ours) < 2 or ours.keys() != theirs.keys():
        return None
    difference = np.array([ours[name] - theirs[name] for name in sorted(ours)])
    random = np.random.default_rng(seed)
    means = [difference[random.integers(len(difference), size=len(difference))].mean() for _ in range(RESAMPLED)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _difference(row: Compared, base: Compared, split: str, metric: str) -> str | None:
    ours, theirs = row.scores(split, [metric]), base.scores(split, [metric])
    if not ours or not theirs:
        return None
    told = f"{fmean(ours) - fmean(theirs):+.2f}"
    ends = paired_interval(_clips(row, split, metric), _clips(base, split, metric))
    return told if ends is None else f"{told} [{ends[0]:+.2f}, {ends[1]:+.2f}]"


def _clips(row: Compared, split: str, metric: str) -> dict[str, float]:
    """The score of each clip, the mean over the row's runs; empty where it is not a mean over clips."""
    of_runs = [read_clips(path, split, metric) for path, _ in row.runs]
    if not of_runs or any(one.keys() != of_runs[0].keys() for one in of_runs):
        return {}
    for scores, (_, results) in zip(of_runs, row.runs, strict=True):
        if not scores or abs(fmean(scores.values()) - results.metrics[split][metric]) > NEAR:
            return {}
    return {name: fmean(one[name] for one in of_runs) for name in of_runs[0]}


def _compared(name: str, runs: Sequence[tuple[Path, RunResult]], registry: Registry) -> Compared:
    if not runs:
        return Compared(name, runs)
    found = [whole_data(results, read_run(path).names_in(registry)) for path, results in runs]
    return Compared(
        name,
        runs,
        official=all(one.official for one in found),
        demo=any(one.demo for one in found),
        coverage=min((one.share for one in found if one.share is not None), default=None),
    )


def _same(row: Compared, dataset: str | None, registry: Registry) -> bool:
    """Whether a row is of the data set that published figures are of."""
    named = row.first.dataset if row.first else None
    tables = registry.datasets
    if dataset is None or named is None or not tables.offers(named) or not tables.offers(dataset):
        return False
    return tables.full_name(named) == tables.full_name(dataset)


def _of_recipe(row: Compared, registry: Registry) -> dict[str, float]:
    path, results = row.runs[0]
    score = results.score
    found = published_scores(results, read_run(path).names_in(registry))
    alike = [one for one in found if score and one["ours"] is not None and one["metric"] == score.name]
    return {str(one["metric"]): float(one["value"]) for one in alike if score and one["split"] == score.split}


def _members(run: ListedRun) -> list[ListedRun]:
    """The runs of each seed of one that is their mean."""
    if run.results is None or not run.results.seeds:
        return [run]
    return [read_run(run.directory / f"seed-{seed}") for seed in run.results.seeds]


def _unlike(names: Mapping[str, str], key: str) -> str:
    """The name of a row, with its number where several have it."""
    same = [one for one in names if names[one] == names[key]]
    return names[key] if len(same) == 1 else f"{names[key]} ({same.index(key) + 1})"


def _row_named(name: str | None, rows: Sequence[Compared]) -> str | None:
    if name is None or any(row.name == name for row in rows):
        return name
    names = [row.name for row in rows]
    raise AVCoreError(f"--against '{name}' is no row.{did_you_mean(name, names)} Rows: {', '.join(names)}.")


def _spread(values: Sequence[float]) -> Cell:
    if not values:
        return None
    return Spread(fmean(values), stdev(values), len(values)) if len(values) > 1 else float(values[0])


def _caveats(rows: Sequence[Compared]) -> list[str]:
    lines = [f"{row.name}: {line}" for row in rows if row.first for line in row.first.caveats]
    if any(row.demo for row in rows):
        lines.insert(0, "DEMO: scores on a demo say nothing about a method.")
    return lines
