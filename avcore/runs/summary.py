"""What a run says of itself: before it starts, and in the tables at its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from avcore.config import RunConfig
from avcore.data.changes import split_and_change
from avcore.engine.result import RunResult, Scores, shapley_values
from avcore.report.published import render_published
from avcore.report.tables import Cell, Spread, brought_by, render_table
from avcore.specs import TEXTS

__all__ = ["DEMO", "describe_config", "describe_results", "describe_seeds"]

DEMO = "DEMO DATA: scores on it mean nothing beside published ones."


def describe_config(config: RunConfig) -> str:
    """Two or three lines: what is trained on what."""
    parts = ", ".join((*config.prompts, *config.fusions)) or "no parts, the head alone"
    audio = config.audio.backbone or "shares the visual trunk"
    streams = (
        f"visual {config.visual.backbone}; audio {audio}" if config.streams == "both" else f"{config.streams} only"
    )
    if config.frozen == "random":
        streams += "; random frozen weights"
    for name in TEXTS:
        if (backbone := getattr(config, name).backbone) is not None:
            streams += f"; {name} {backbone}"
    epochs = config.train.epochs
    return (
        f"task {config.task} on {config.data.dataset}; {parts}\n"
        f"{streams}; {config.train.precision}; seed {config.seed}\n"
        f"protocol {config.protocol}: {epochs} epoch{'' if epochs == 1 else 's'}, "
        f"the best selected on {config.selected_on}"
    )


def _label(split: str) -> str:
    name, change = split_and_change(split)
    return f"{name}, {change.words}"


def _labelled(metrics: Scores, shapley: Mapping[str, Scores]) -> Scores:
    return {_label(split): scores for split, scores in metrics.items()} | brought_by(shapley)


def _score_rows(
    metrics: Scores, shapley: Mapping[str, Scores], names: Sequence[str], suffix: str = ""
) -> list[list[Cell]]:
    rows = _labelled(metrics, shapley).items()
    return [[label + suffix, *(scores.get(name) for name in names)] for label, scores in rows]


def _trivial_rows(results: RunResult, names: Sequence[str]) -> list[list[Cell]]:
    rows = []
    if (random := results.trivial.get("random_backbone")) is not None:
        rows += _score_rows(random, shapley_values(random), names, ", head alone, random backbone")
    if (majority := results.trivial.get("majority")) is not None:
        rows += [[f"{split}, majority answer", *map(scores.get, names)] for split, scores in majority.items()]
    if majority == {}:
        rows.append([f"majority answer: task {results.task} names none", *(None for _ in names)])
    return rows


def _names(metrics: Scores) -> list[str]:
    return list(dict.fromkeys(name for scores in metrics.values() for name in scores))


def describe_results(
    results: RunResult, published: Sequence[Mapping[str, Any]], pictures: Sequence[str], *, seconds: float
) -> str:
    """The final tables: scores for each sound and for the head alone, trained parameters, time, memory, pictures.

    Args:
        results: whose ``seconds`` leave out the head alone.
        published: see `avcore.report.published.published_scores`.
        pictures: where they lie.
        seconds: s that the run and the head alone took together.
    """
    names, alone = _names(results.metrics), results.baseline or {}
    rows = _score_rows(results.metrics, results.shapley, names)
    rows += _score_rows(alone, shapley_values(alone), names, ", head alone")
    rows += _trivial_rows(results, names)
    title = f"{results.label or 'head alone'} on {results.task} ({results.dataset}), seed {results.seed}"
    if results.selected_on == "test":
        title += ", SELECTED ON TEST (protocol=paper)"
    parts = [[name, part["trainable"]] for name, part in results.params["parts"].items() if part["trainable"]]
    both = f", {seconds:.0f} s with the head alone" if results.baseline or results.trivial else ""
    lines = [
        render_table(["split", *names], rows, title),
        *results.caveats,
        *_published(published, results),
        "",
        render_table(["trained part", "parameters"], [*parts, ["all", results.params["trainable"]]]),
        "",
        f"{results.seconds:.0f} s{both}, peak memory {results.peak_bytes / 2**20:,.0f} MiB",
    ]
    if pictures:
        lines.append(f"pictures: {', '.join(pictures)}")
    return "\n".join(lines)


def _published(rows: Sequence[Mapping[str, Any]], results: RunResult) -> list[str]:
    return ["", render_published(rows, results)] if rows else []


def describe_seeds(results: RunResult, published: Sequence[Mapping[str, Any]]) -> str:
    """Mean ± standard deviation of each score over runs that differ in their seed, and what was published beside it."""
    names = _names(results.metrics)
    sds = _labelled(results.metrics_sd, results.shapley_sd)
    rows: list[list[Cell]] = [
        [label, *(Spread(scores[name], sds[label][name], len(results.seeds)) for name in names)]
        for label, scores in _labelled(results.metrics, results.shapley).items()
    ]
    seeds = ", ".join(map(str, results.seeds))
    table = render_table(["split", *names], rows, f"{results.task}: mean ± standard deviation over seeds {seeds}")
    return "\n".join([table, *results.caveats, *_published(published, results)])
