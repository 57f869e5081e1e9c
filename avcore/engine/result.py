"""What a run reached, as a record: what lists, compares or draws runs reads it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from math import nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

from avcore.config.leaves import Layer, Leaf
from avcore.config.settings import coerce, field_types
from avcore.data.changes import MUTED
from avcore.engine.files import read_json, write_json
from avcore.errors import AVCoreError, ConfigError

__all__ = ["RunResult", "Score", "Scores", "Status", "mean_over_seeds", "shapley_values"]

FORMAT = 1
_FILE = Layer("in the file")
_SCORES = ("metrics", "shapley", "baseline", "trivial", "metrics_sd", "shapley_sd")
Scores = Mapping[str, Mapping[str, int | float]]
"""Split -> metric -> value."""
Status = Literal["finished", "interrupted", "failed"]


class Score(NamedTuple):
    """The metric that selects the best checkpoint, and its value on a split."""

    split: str
    name: str
    value: float


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run was asked for and what it reached, as far as it went; ``results.json`` is its form on disk.

    Attributes:
        task, dataset, protocol: what was learnt, on what, measured how (``clean``, ``paper``).
        method: None where its parts were named one by one, and for the head alone.
        recipe: variant of the method's recipe; None for the plain one.
        streams: those that ran.
        prompts, fusions: the parts.
        visual, audio, text, text_audio: the backbones; None for ``audio`` that shares the visual one, and for no
            encoder of sentences.
        seed: of every draw; the first one of several runs.
        selected_on: the split whose score chose the best checkpoint.
        score_name: the metric that chose it; larger is better.
        metrics: split -> metric -> value with the best weights; means over seeds where there are several.
        shapley: split -> stream -> metric -> what the stream brings, for splits that were measured without each stream
            and without both too; see `shapley_values`.
        baseline: as ``metrics``, of the head alone; None where that was not asked for.
        trivial: the same of the answer that is most frequent in training (``majority``; empty where the task names
            none) and of the head alone on a backbone of random weights (``random_backbone``), where asked for.
        frozen: ``random`` where the frozen weights were, on purpose.
        params: ``trainable``, ``frozen``, ``total``, ``unused_in_reference``, and ``parts``: component -> ``tensors``,
            ``parameters``, ``trainable``.
        seconds: that it took, earlier attempts included, the head alone left out.
        peak_bytes: most memory allocated on the GPU, or resident in the process on a CPU.
        skipped_steps: that made no update since something was not finite.
        clips: split -> how many it has, of those that the run trained on or measured.
        broken: split -> clip -> why it could not be read and was skipped.
        without_truth: splits in whose truth there is nothing at all; their scores mean nothing.
        notes: what the reader says of the files, such as which version of them was read (`Dataset.notes`).
        plugins: kind -> name -> the ``distribution`` that offered it, and its ``version``.
        versions: of avcore, the plugins, and what they compute with.
        threads: of the CPU that computed.
        commit: of avcore's working tree; None where it has none.
        status: ``interrupted`` until it is ``finished`` or has ``failed``.
        seeds: of several runs whose mean this is; empty for one run.
        metrics_sd, shapley_sd: standard deviations over those seeds, like ``metrics`` and ``shapley``.
    """

    task: str
    dataset: str | None
    protocol: str
    method: str | None
    recipe: str | None = None
    streams: str = "both"
    prompts: tuple[str, ...]
    fusions: tuple[str, ...]
    visual: str | None
    audio: str | None
    text: str | None
    text_audio: str | None = None
    seed: int
    selected_on: str
    score_name: str
    metrics: Scores = field(default_factory=dict)
    shapley: Mapping[str, Scores] = field(default_factory=dict)
    baseline: Scores | None = None
    trivial: Mapping[str, Scores] = field(default_factory=dict)
    frozen: str = "pretrained"
    params: Mapping[str, Any]
    seconds: float = 0.0
    peak_bytes: int = 0
    skipped_steps: int = 0
    clips: Mapping[str, int] = field(default_factory=dict)
    broken: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    without_truth: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    plugins: Mapping[str, Mapping[str, Mapping[str, str]]]
    versions: Mapping[str, str]
    threads: int
    commit: str | None
    status: Status = "interrupted"
    seeds: tuple[int, ...] = ()
    metrics_sd: Scores = field(default_factory=dict)
    shapley_sd: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """The method, or the names of the parts; None for the head alone."""
        return self.method or "+".join((*self.prompts, *self.fusions)) or None

    @property
    def score(self) -> Score | None:
        """What selects the best checkpoint, on ``test`` where that was measured; None before anything was."""
        for split in sorted(self.metrics, key=lambda split: split != "test"):
            if self.score_name in self.metrics[split]:
                return Score(split, self.score_name, self.metrics[split][self.score_name])
        return None

    @property
    def caveats(self) -> list[str]:
        """Lines to stand beside its scores wherever these are shown."""
        lines = []
        if self.without_truth:
            lines.append(f"NOTHING IS IN THE TRUTH of {', '.join(self.without_truth)}: scores on it mean nothing.")
        if self.frozen == "random":
            lines.append("The frozen weights were put into random order on purpose (frozen=random).")
        if self.broken:
            counts = ", ".join(f"{split} {len(clips)}" for split, clips in self.broken.items())
            lines.append(f"Clips that could not be read and were skipped: {counts}.")
        return lines

    def measured(self, split: str, scores: Mapping[str, float]) -> RunResult:
        """The same with the scores of one more split."""
        metrics = {**self.metrics, split: dict(scores)}
        return replace(self, metrics=metrics, shapley=shapley_values(metrics))

    def to_json(self) -> dict[str, Any]:
        """Plain data with the number of its format. What is not a finite number becomes null in a file."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, content: Any, source: str) -> RunResult:
        """The record that gave this with `to_json`, be it through a file: a score that is null is not a number.

        Args:
            content: plain data.
            source: where it comes from, for messages.

        Raises:
            AVCoreError: it has another format, or an entry is missing, unknown or of another type; names it.
        """
        if not isinstance(content, Mapping):
            raise AVCoreError(f"{source} is damaged: it holds no record of results. Restore it, or train again.")
        if content.get("format") != FORMAT:
            raise AVCoreError(
                f"{source} has format {content.get('format')!r}, and this avcore reads {FORMAT}: read it with the "
                f"version that wrote it, or train again."
            )
        kinds = field_types(cls)
        needed = [one.name for one in fields(cls) if one.default is one.default_factory is MISSING]
        entries = {key: value for key, value in content.items() if key != "format"}
        try:
            for key in (*needed, *entries):
                if key not in entries or key not in kinds:
                    raise ConfigError(f"'{key}' is {'missing' if key in kinds else 'unknown'}.")
            leaves = {key: Leaf(_numbers(value) if key in _SCORES else value, _FILE) for key, value in entries.items()}
            return cls(**{key: coerce(kinds[key], leaf, key) for key, leaf in leaves.items()})
        except ConfigError as error:
            raise AVCoreError(f"{source} is damaged: {error} Restore it, or train again.") from error

    @classmethod
    def read(cls, file: str | Path) -> RunResult:
        """Read a ``results.json``.

        Raises:
            AVCoreError: it is missing, or not as it was written.
        """
        return cls.from_json(read_json(Path(file)), str(file))

    def write(self, file: str | Path) -> None:
        """Write a ``results.json``; see `avcore.engine.files.write_atomic`."""
        write_json(Path(file), self.to_json())


def shapley_values(metrics: Scores) -> dict[str, Scores]:
    """What each of two streams brings to each score, in the unit of the score: split -> stream -> metric -> value.

    The mean of what a stream adds to the other one and what it adds to nothing,
    (both - without it + only it - neither) / 2: both values sum up to (both - neither). A stream that is not there is
    muted (`avcore.data.changes`). Splits of which one of the four is not among ``metrics`` are left out.
    """
    found: dict[str, Scores] = {}
    for split, both in metrics.items():
        muted = [metrics.get(split + ending, {}) for ending in MUTED]
        names = [name for name in both if all(name in scores for scores in muted)]
        if names:
            seen, heard, neither = muted  # only the pictures, only the sound, nothing
            found[split] = {
                stream: {name: (both[name] - other[name] + own[name] - neither[name]) / 2 for name in names}
                for stream, own, other in (("visual", seen, heard), ("audio", heard, seen))
            }
    return found


def mean_over_seeds(results: Sequence[RunResult]) -> RunResult:
    """The first run's record with means for metrics, their standard deviations (0 for one), and totals."""
    first = results[0]

    def over_seeds(how: Callable[[list[float]], float], all_scores: Sequence[Scores]) -> Scores:
        return {
            split: {name: how([scores[split][name] for scores in all_scores]) for name in of_split}
            for split, of_split in all_scores[0].items()
        }

    def spread(values: list[float]) -> float:
        return stdev(values) if len(values) > 1 else 0.0

    metrics = [one.metrics for one in results]
    shapley = {split: [one.shapley[split] for one in results] for split in first.shapley}

    return replace(
        first,
        seeds=tuple(one.seed for one in results),
        metrics=over_seeds(mean, metrics),
        metrics_sd=over_seeds(spread, metrics),
        shapley={split: over_seeds(mean, values) for split, values in shapley.items()},
        shapley_sd={split: over_seeds(spread, values) for split, values in shapley.items()},
        baseline=None,
        trivial={},
        seconds=round(sum(one.seconds for one in results), 3),
        peak_bytes=max(one.peak_bytes for one in results),
    )


def _numbers(scores: Any) -> Any:
    """Scores out of JSON, which has null for what is not a number."""
    if isinstance(scores, Mapping):
        return {key: nan if value is None else _numbers(value) for key, value in scores.items()}
    return scores
