"""What heads of events read of the truth, whether every segment has a label or the whole clip alone."""

from collections.abc import Mapping

from avcore.specs import StreamLayout
from avcore.tasks import Head, Input, Task

__all__ = ["EventHead", "is_weak"]


class EventHead(Head):
    """A head of a task whose training clips have a label for each segment or, if the task is ``weak``, for the clip."""

    def __init__(self, config: object, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.segments = next(iter(layouts.values())).segments
        self.weak = is_weak(task)

    @property
    def targets(self) -> Mapping[str, Input]:
        """``labels`` (T,), a class for each segment; with labels of clips alone ``clip_label`` ()."""
        if self.weak:
            return {"clip_label": Input(shape=(), dtype="int64")}
        return {"labels": Input(shape=(self.segments,), dtype="int64")}


def is_weak(task: Task) -> bool:
    """Whether training has labels of whole clips alone; a task that does not say so has labels of segments."""
    return bool(getattr(task, "weak", False))
