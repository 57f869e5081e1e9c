"""Published scores of a run's recipe beside its own, where its data are those that were published. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.report.parameters import made_with
from avcore.report.tables import Cell, Spread, render_table

if TYPE_CHECKING:
    from avcore.config import RunConfig
    from avcore.engine.result import RunResult
    from avcore.registry import Registry

__all__ = ["WholeData", "published_scores", "render_published", "whole_data"]


class WholeData(NamedTuple):
    """How much of a data set a run saw.

    Attributes:
        official: all of it, as it was published, with nothing skipped and nothing made random.
        demo: it is a demo.
        share: of the clips of its splits that the data set's spec counts, 0 to 1; None where it counts none.
    """

    official: bool
    demo: bool
    share: float | None


def whole_data(results: RunResult, registry: Registry) -> WholeData:
    """How much of its data set a run saw; published figures stand beside what is ``official`` alone."""
    if results.dataset is None or not registry.datasets.offers(results.dataset):
        return WholeData(official=False, demo=False, share=None)
    spec = registry.datasets[results.dataset]
    counted = [split for split in results.clips if split in spec.official]
    skipped = sum(len(results.broken.get(split, {})) for split in counted)
    there, of = sum(results.clips[split] for split in counted), sum(spec.official[split] for split in counted)
    whole = bool(_official_clips(results, registry)) and not skipped and not results.without_truth
    return WholeData(
        official=whole and results.frozen != "random",
        demo=spec.demo,
        share=(there - skipped) / of if of and not spec.demo else None,
    )


def published_scores(results: RunResult, registry: Registry) -> list[dict[str, Any]]:
    """The scores that a run's recipe says were published, each with the run's own as ``ours``.

    A published score names its data set. It is given only where the run used that one, as it was published: the splits
    have as many clips as the data set's spec says (`DatasetSpec.official`), none was skipped, and something is in their
    truth. Nothing is given for a demo, for random weights, for parts or a head that are not the recipe's, or without a
    recipe. ``ours`` is None where the score is of other backbones or streams.

    Args:
        results: what the run reached.
        registry: the installed plugins, by whose names it was recorded.
    """
    try:
        if results.method is None or results.dataset is None or results.frozen == "random":
            return []
        recipe = resolve_config(
            registry, method=results.method, task=results.task, recipe=results.recipe, need_data=False
        )
        official = _official_clips(results, registry)
    except AVCoreError:
        return []  # not installed any more, or not as it was
    if recipe.recipe is None or not _is_whole(recipe.config, results, registry):
        return []
    own = _made(recipe.config)
    found = []
    for row in recipe.recipe.published:
        split, metric = str(row.get("split", "test")), str(row["metric"])
        base = max((name for name in official if split == name or split.startswith(f"{name}_")), key=len, default=None)
        if base is None or base in results.without_truth or results.broken.get(base) or results.broken.get(split):
            continue
        if metric in results.metrics.get(split, {}) and _is_of(row, results, registry):
            made = {"visual": row.get("visual"), "audio": row.get("audio")} if "visual" in row else dict(own)
            made["streams"] = row.get("streams", own["streams"])
            alike = made_with(made, {key: getattr(results, key) for key in made})
            ours = results.metrics[split][metric] if alike else None
            found.append({**row, **made, "split": split, "ours": ours})
    return found


def render_published(rows: Sequence[Mapping[str, Any]], results: RunResult) -> str:
    """`published_scores` as a table for people, with their notes; empty where there are none."""
    if not rows:
        return ""
    shown: list[list[Cell]] = []
    for row in rows:
        ours: Cell = row["ours"]
        if ours is not None and results.seeds:
            sd = results.metrics_sd[row["split"]][row["metric"]]
            ours = Spread(float(row["ours"]), sd, len(results.seeds))
        made = [row["visual"], row["audio"], row["streams"] if row["streams"] != "both" else None]
        with_ = " + ".join(str(one) for one in made if one)
        shown.append([row["metric"], row["split"], f"{row['value']:,}", ours, with_, str(row["source"])])
    title = f"published, and ours under protocol {results.protocol} (the best selected on {results.selected_on})"
    table = render_table(["score", "split", "published", "ours", "made with", "source"], shown, title)
    return "\n".join([table, *(f"{row['metric']}: {row['note']}" for row in rows if row.get("note"))])


def _official_clips(results: RunResult, registry: Registry) -> Mapping[str, int]:
    """Clips of each split that the run used, if all are as many as the data set has; otherwise nothing."""
    assert results.dataset is not None
    spec = registry.datasets[results.dataset]
    used = {split: count for split, count in results.clips.items() if split in spec.official}
    alike = "train" in used and all(spec.official[split] == count for split, count in used.items())
    return used if alike and not spec.demo else {}


def _is_of(row: Mapping[str, Any], results: RunResult, registry: Registry) -> bool:
    """Whether a row names the data set of the run; which one is meant must not depend on what the run recorded."""
    named = registry.recorded({}).datasets
    row_of = str(row.get("dataset") or "")
    return named.offers(row_of) and named.full_name(row_of) == registry.datasets.full_name(str(results.dataset))


def _is_whole(config: RunConfig, results: RunResult, registry: Registry) -> bool:
    """Whether the run has the parts and the head of the recipe, no more and no fewer."""
    heads = results.plugins.get("heads", {})
    try:
        ours = (
            [registry.prompts.full_name(name) for name in results.prompts],
            [registry.fusions.full_name(name) for name in results.fusions],
            [registry.heads.full_name(name) for name in heads],
        )
        theirs = (
            [registry.prompts.full_name(name) for name in config.prompts],
            [registry.fusions.full_name(name) for name in config.fusions],
            [registry.heads.full_name(config.head.name)],
        )
    except AVCoreError:
        return False
    return ours == theirs


def _made(config: RunConfig) -> dict[str, str | None]:
    return {"visual": config.visual.backbone, "audio": config.audio.backbone, "streams": config.streams}
