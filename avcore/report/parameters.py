"""Counting the parameters of a model, itemised by stream, part and head, beside what papers print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from avcore.report.tables import Cell, render_table

if TYPE_CHECKING:
    from avcore.model import AVModel

__all__ = ["ParameterReport", "PartCount", "count_parameters"]

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


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
        trainable, frozen, total: each parameter once, however many components share it.
        unused_in_reference: what reference code allocates and never uses; none of it is in ``total``.
        parts: ``visual``, ``audio``, every part by its full name, ``head``.
        published: what papers print, as the recipe has it. A ``metric`` that names a component, ``trainable``,
            ``frozen`` or ``total``, or several joined by ``+``, is set beside the count; ``unit`` may be K, M or G.
    """

    trainable: int
    frozen: int
    total: int
    unused_in_reference: int
    parts: Mapping[str, PartCount]
    published: Sequence[Mapping[str, Any]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``avcore params --json`` prints it."""
        return asdict(self) | {"published": [dict(entry) for entry in self.published]}

    def count(self, metric: str) -> int | None:
        """The number that a published ``metric`` is about; None if it is about something else, such as a score."""
        known = {name: part.parameters for name, part in self.parts.items()}
        known |= {"trainable": self.trainable, "frozen": self.frozen, "total": self.total}
        names = [name.strip() for name in metric.split("+")]
        return sum(known[name] for name in names) if all(name in known for name in names) else None

    def render(self) -> str:
        """Tables for people: components, and published counts beside ours with their sources."""
        rows: list[list[Cell]] = [
            [name, part.tensors, part.parameters, part.trainable] for name, part in self.parts.items()
        ]
        rows.append(["total", sum(part.tensors for part in self.parts.values()), self.total, self.trainable])
        lines = [render_table(["component", "tensors", "parameters", "trainable"], rows)]
        share = 100 * self.trainable / self.total if self.total else 0.0
        lines.append(f"{share:.2f} % of the parameters are trained; {self.frozen:,} are frozen.")
        if self.unused_in_reference:
            lines.append(
                f"The reference implementation allocates {self.unused_in_reference:,} more that it never uses; "
                "they are not allocated here."
            )
        if compared := [entry for entry in self.published if self.count(str(entry["metric"])) is not None]:
            lines += ["", _render_published(self, compared)]
        return "\n".join(lines)


def _render_published(report: ParameterReport, entries: Sequence[Mapping[str, Any]]) -> str:
    rows: list[list[Cell]] = []
    for entry in entries:
        unit = str(entry.get("unit", ""))
        ours = report.count(str(entry["metric"]))
        assert ours is not None
        scaled = f"{ours / UNITS[unit]:,.2f} {unit}" if unit else f"{ours:,}"
        printed = f"{entry['value']} {unit}" if unit else f"{entry['value']:,}"
        rows.append([str(entry["metric"]), scaled, printed, str(entry["source"])])
    notes = [f"{entry['metric']}: {entry['note']}" for entry in entries if entry.get("note")]
    return "\n".join([render_table(["published count of", "ours", "published", "source"], rows), *notes])


def count_parameters(model: AVModel, published: Sequence[Mapping[str, Any]] = ()) -> ParameterReport:
    """Count the parameters of a model; works on the meta device.

    A parameter that several components hold belongs to the first of them, so that a trunk shared by both streams
    counts under ``visual``.

    Args:
        model: whose ``components()`` and ``unused_in_reference()`` itemise it.
        published: the published numbers of its recipe.

    Raises:
        ValueError: the model has a parameter that none of its components holds.
    """
    seen: set[int] = set()
    parts: dict[str, PartCount] = {}
    for name, modules in model.components().items():
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
        unused_in_reference=sum(model.unused_in_reference().values()),
        parts=parts,
        published=tuple(published),
    )
