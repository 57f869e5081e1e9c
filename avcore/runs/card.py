"""The card of a shared run: what a person, and the hub's search, should know before loading it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from avcore.config import RunConfig
from avcore.engine.result import RunResult
from avcore.registry import Registry
from avcore.report.tables import Cell, render_markdown
from avcore.runs.summary import DEMO

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

__all__ = ["card_of"]


def card_of(results: RunResult, config: RunConfig, registry: Registry, *, name: str, license: str, digest: str) -> str:
    """The README.md of a run's repository: the hub's metadata as YAML, then Markdown.

    Scores on a demo, on random weights or on splits without truth stand in the text with that said, and never among the
    metadata, from which the hub makes its leaderboards.

    Args:
        results: what the run reached.
        config: its configuration.
        registry: the installed plugins.
        name: of the repository, as it is loaded.
        license: the hub's name of the licence, such as ``cc-by-4.0``.
        digest: of the frozen weights.
    """
    from huggingface_hub import ModelCardData

    demo = results.dataset is not None and registry.datasets[results.dataset].demo
    meaningful = not demo and results.frozen != "random"
    title = f"{results.label or 'head alone'} on {results.task}"
    values = {metric for scores in results.metrics.values() for metric in scores}
    scored = _scored(results, title) if meaningful else []
    data = ModelCardData(
        library_name="avcore",
        license=license,
        tags=["avcore", "audio-visual", "parameter-efficient", results.task, *filter(None, [results.method])],
        datasets=[results.dataset] if results.dataset and not demo else None,
        metrics=sorted(values) or None,
        model_name=title if scored else None,
        eval_results=scored or None,
        ignore_metadata_errors=False,
    )
    text = "\n\n".join(_sections(results, config, title, name, license, digest, demo=demo))
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def _scored(results: RunResult, title: str) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=results.task,
            dataset_type=str(results.dataset),
            dataset_name=str(results.dataset),
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{metric}, protocol {results.protocol}, selected on {results.selected_on}",
            metric_value=value,
        )
        for split, scores in results.metrics.items()
        if split not in results.without_truth
        for metric, value in scores.items()
        if math.isfinite(value)
    ]


def _sections(
    results: RunResult, config: RunConfig, title: str, name: str, license: str, digest: str, *, demo: bool
) -> Iterable[str]:
    yield f"# {title}"
    made = f"visual {results.visual}, audio {results.audio or 'through the same trunk'}"
    for kind in ("text", "text_audio"):
        made += f", {kind} {one}" if (one := getattr(results, kind)) else ""
    yield (
        "An adapter of [avcore](https://pypi.org/project/avcore/): small trained parts on frozen backbones "
        f"({made}), which are not in this repository. No file here holds code."
    )
    warnings = [DEMO] if demo else []
    if results.selected_on == "test":
        warnings.append("SELECTED ON TEST (protocol=paper): these scores are not comparable with clean ones.")
    warnings += results.caveats
    if warnings:
        yield "\n".join(f"> **{one}**" for one in warnings)
    yield "## Scores"
    names = list(dict.fromkeys(metric for scores in results.metrics.values() for metric in scores))
    rows: list[list[Cell]] = [[split, *map(scores.get, names)] for split, scores in results.metrics.items()]
    rows += [[f"{split}, head alone", *map(scores.get, names)] for split, scores in (results.baseline or {}).items()]
    yield render_markdown(["split", *names], rows)
    clips = ", ".join(f"{split} {count:,}" for split, count in results.clips.items())
    lines = [
        f"data: {results.dataset}" + (f" (clips: {clips})" if clips else ""),
        f"protocol: {results.protocol}; the best of {config.train.epochs} epochs selected on {results.selected_on} by "
        f"{results.score_name}; seed {results.seed}",
        f"trained in {config.train.precision}: {results.seconds:,.0f} s, peak memory "
        f"{results.peak_bytes / 2**20:,.0f} MiB",
    ]
    yield "\n".join(f"* {line}" for line in lines)
    yield "## Parameters"
    parts: list[list[Cell]] = [
        [part, counts["parameters"], counts["trainable"]] for part, counts in results.params["parts"].items()
    ]
    parts.append(["all", results.params["total"], results.params["trainable"]])
    yield render_markdown(["component", "parameters", "trained"], parts)
    yield "## How to load it"
    needed = {offer["distribution"]: offer["version"] for kind in results.plugins.values() for offer in kind.values()}
    avcore = {"avcore": results.versions["avcore"]} if "avcore" in results.versions else {}
    pinned = " ".join(f"'{one}=={version}'" for one, version in sorted({**avcore, **needed}.items()))
    yield f"```sh\npip install {pinned}\navcore pull {name}\n```"
    yield f'```python\nimport avcore\n\nmodel = avcore.load_adapter("{name}")\n```'
    files = [
        f"`{stream}.weights={weights.rpartition('/')[2]}`"
        for stream in ("visual", "audio", "text", "text_audio")
        if isinstance(weights := getattr(getattr(config, stream).settings, "weights", None), str) and "/" in weights
    ]
    where = f" The run read {' and '.join(files)}: lay such a file beside `adapter.json`." if files else ""
    yield f"The frozen weights must be those it was trained on: digest `{digest}`.{where}"
    yield f"## Licence\n\nThe adapter: {license}. Frozen weights, data and plugins have licences of their own."
