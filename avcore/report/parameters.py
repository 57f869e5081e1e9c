"""Counting the parameters of a model, itemised by stream, part and head, beside what papers print."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from avcore.report.tables import Cell, render_table
from avcore.specs import STREAMS, TEXTS

if TYPE_CHECKING:
    from avcore.model import AVModel

__all__ = ["ParameterReport", "PartCount", "count_parameters", "is_count", "made_with"]

MILLION = "_M"
COUNTS = ("parameters", "trainable", "frozen", "total", "trainable_percent")
COMPONENTS = (*STREAMS, *TEXTS, "align", "head")
"""What a model is made of beside its parts."""


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """One component: how many tensors, how many numbers in them, how many of those are trained."""

    tensors: int
    parameters: int
    trainable: int


@dataclass(frozen=True, kw_only=True)
class ParameterReport:
    """The parameters of a model.

    Attributes:
        trainable, frozen, total: each parameter once, however many components share it; a frozen tensor of which all
            streams train a copy (`Part.backbone_tensors`) is left out.
        unused_in_reference: what reference code allocates and never uses; none of it is in ``total``.
        parts: ``visual``, ``audio``, every part by its full name, ``head``.
        published: what papers print, as the recipe has it; see `count`.
    """

    trainable: int
    frozen: int
    total: int
    unused_in_reference: int
    parts: Mapping[str, PartCount]
    published: Sequence[Mapping[str, Any]] = ()

    @property
    def added(self) -> int:
        """What is trained besides the head: what papers call the parameters of a method."""
        return sum(part.trainable for name, part in self.parts.items() if name != "head")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``avcore params --json`` prints it."""
        return asdict(self) | {"published": [dict(entry) for entry in self.published]}

    def count(self, metric: str) -> float | None:
        """The number that a published ``metric`` is about; None if it is about something else, such as a score.

        Such a metric is ``parameters`` (trained, without the head: what a method adds), ``trainable``, ``frozen``,
        ``total`` or the name of a component, each with ``_M`` where the paper gives millions; ``trainable_percent`` is
        the trained share of all.
        """
        known: dict[str, float] = {name: part.parameters for name, part in self.parts.items()}
        known |= {"parameters": self.added, "trainable": self.trainable, "frozen": self.frozen, "total": self.total}
        known["trainable_percent"] = self.trained_percent
        return known.get(metric.removesuffix(MILLION))

    @property
    def trained_percent(self) -> float:
        """The trained share of all parameters, in percent."""
        return 100 * self.trainable / self.total if self.total else 0.0

    def render(self, visual: str | None = None, audio: str | None = None, streams: str = "both") -> str:
        """Tables for people: the components, then published counts beside ours with their sources.

        Args:
            visual, audio: the backbones of the run, None where sound shares the visual one; a count published for
                others (its ``visual`` and ``audio``) is shown without ours and without its note.
            streams: those that run; a count is of ``both`` unless it says otherwise (its ``streams``).
        """
        rows: list[list[Cell]] = [
            [name, part.tensors, part.parameters, part.trainable] for name, part in self.parts.items()
        ]
        rows.append(["total", sum(part.tensors for part in self.parts.values()), self.total, self.trainable])
        lines = [render_table(["component", "tensors", "parameters", "trainable"], rows), ""]
        lines.append(
            f"Trained: {self.trainable:,} of {self.total:,} ({self.trained_percent:.2f} %): "
            f"{self.added:,} in the parts, {self.trainable - self.added:,} in the head."
        )
        if self.unused_in_reference:
            lines.append(
                f"The reference implementation allocates {self.unused_in_reference:,} more that it never uses; "
                "they are not allocated here."
            )
        if compared := [entry for entry in self.published if self.count(str(entry["metric"])) is not None]:
            lines += ["", self._render_published(compared, {"visual": visual, "audio": audio, "streams": streams})]
        return "\n".join(lines)

    def _render_published(self, entries: Sequence[Mapping[str, Any]], run: Mapping[str, str | None]) -> str:
        rows: list[list[Cell]] = []
        notes = []
        for entry in entries:
            metric = str(entry["metric"])
            ours = self.count(metric)
            assert ours is not None
            comparable = made_with(entry, run)
            shown: Cell = ours if not metric.endswith(MILLION) else ours / 1e6
            made = " + ".join(str(entry[key]) for key in ("visual", "audio", "streams") if key in entry) or None
            rows.append([metric, f"{entry['value']:,}", shown if comparable else None, made, str(entry["source"])])
            if comparable and entry.get("note"):
                notes.append(f"{metric}: {entry['note']}")
        return "\n".join([render_table(["count", "published", "ours", "made with", "source"], rows), *notes])


def is_count(metric: str, parts: Collection[str] = ()) -> bool:
    """Whether a published ``metric`` is one of `ParameterReport.count`'s, for a model with ``parts``; else a score."""
    return metric.removesuffix(MILLION) in {*COUNTS, *COMPONENTS, *parts}


def made_with(entry: Mapping[str, Any], run: Mapping[str, str | None]) -> bool:
    """Whether a published number is of this run's backbones and streams; one that names no backbone is of any."""
    if entry.get("streams", "both") != run["streams"]:
        return False
    if "visual" not in entry:
        return True
    return all(str(entry.get(key) or "").partition(".")[0] == (run[key] or "").partition(".")[0] for key in STREAMS)


def count_parameters(model: AVModel, published: Sequence[Mapping[str, Any]] = ()) -> ParameterReport:
    """Count the parameters of a model; works on the meta device.

    A parameter that several components hold belongs to the first of them, so that a trunk shared by both streams
    counts under ``visual``. Full fine-tuning counts once too: under the part, not under the backbone.

    Args:
        model: whose `avcore.states.components` are counted.
        published: the published numbers of its recipe.

    Raises:
        ValueError: the model has a parameter that none of its components holds.
    """
    from avcore.states import components, unused_in_reference  # which import torch; this module is read without it

    seen = _replaced(model)
    parts: dict[str, PartCount] = {}
    for name, modules in components(model).items():
        own = []
        for module in modules:
            for parameter in module.parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    own.append(parameter)
        parts[name] = PartCount(
            tensors=len(own),
            parameters=sum(parameter.numel() for parameter in own),
            trainable=sum(parameter.numel() for parameter in own if parameter.requires_grad),
        )
    if lost := [name for name, parameter in model.named_parameters() if id(parameter) not in seen]:
        raise ValueError(f"No component of the model holds {', '.join(lost)}.")
    trainable = sum(part.trainable for part in parts.values())
    total = sum(part.parameters for part in parts.values())
    return ParameterReport(
        trainable=trainable,
        frozen=total - trainable,
        total=total,
        unused_in_reference=sum(unused_in_reference(model).values()),
        parts=parts,
        published=tuple(published),
    )


def _replaced(model: AVModel) -> set[int]:
    """The ids of frozen tensors in whose place each stream that has them reads a copy that trains."""
    from avcore.backbones.copies import tensors_in

    read: set[int] = set()
    behind: set[int] = set()
    for name, stream in model.streams.items():
        backbones: list[Any] = [part.module.backbone for part in model.instances]
        held = [found for one in backbones if name in one for found in tensors_in(one[name])]
        copied = {key for key, one in held if one.tensor.requires_grad}
        for key, tensor in stream.tower.weights().items():
            (behind if key in copied else read).add(id(tensor))
    return behind - read
