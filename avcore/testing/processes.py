"""Metrics that stand for several processes, put together as `torchmetrics` does it over `torch.distributed`."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

__all__ = ["scores_of_processes"]


def scores_of_processes(metrics: Sequence[Metric]) -> list[dict[str, float]]:
    """What each of several processes computes after all have been heard.

    Args:
        metrics: one for each process, of one kind, with what that process took in. Metrics in their attributes are
            gathered too.

    Returns:
        The scores of each process; equal, if all that a metric remembers is declared by ``add_state``.

    Raises:
        AssertionError: what the processes send differs in number, type or axes, which over a network hangs or breaks.
    """
    parts = [[part for part in metric.modules() if isinstance(part, Metric)] for metric in metrics]
    for same in zip(*parts, strict=True):
        sent = [_sent(part) for part in same]
        _check_equal_kinds(sent)
        for part in same:
            part.distributed_available_fn = _always
            part.dist_sync_fn = _Gathered(sent)
    return [metric.compute() for metric in metrics]


class _Gathered:
    """Answers the n-th question with the n-th tensor of every process."""

    def __init__(self, sent: Sequence[Sequence[Tensor]]) -> None:
        self._answers = zip(*sent, strict=True)

    def __call__(self, tensor: Tensor, group: Any = None) -> list[Tensor]:
        return list(next(self._answers))


def _always() -> bool:
    return True


def _sent(metric: Metric) -> list[Tensor]:
    sent: list[Tensor] = []

    def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
        sent.append(tensor)
        return [tensor]

    metric.sync(dist_sync_fn=gather, distributed_available=_always)
    metric.unsync()
    return sent


def _check_equal_kinds(sent: Sequence[Sequence[Tensor]]) -> None:
    kinds = [[f"{str(tensor.dtype).removeprefix('torch.')} of {tensor.dim()} axes" for tensor in one] for one in sent]
    for process, kind in enumerate(kinds):
        assert kind == kinds[0], (
            f"metrics of process 0 send {', '.join(kinds[0])}, those of process {process} {', '.join(kind)}: `update` "
            "must leave states of the same types and axes, also after a batch without a valid clip."
        )
