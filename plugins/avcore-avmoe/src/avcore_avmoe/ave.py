"""``avmoe.ave``: DG-SCT's head for events, whose gates have no loss of their own.

Shape letters: B clips, T segments.
"""

from collections.abc import Mapping

from torch import Tensor

from avcore import StreamLayout, Task
from avcore.tasks import Batch, Progress
from avcore_dgsct.ave import AVEHead as DGSCTHead
from avcore_dgsct.settings import AVEHeadSettings

__all__ = ["AVEHead"]


class AVEHead(DGSCTHead):
    """As ``dgsct.ave``, but for the loss; output and predictions are the same."""

    def __init__(self, config: AVEHeadSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        # Its localisation is made without the blocks that DG-SCT's code creates there.
        self.unused_in_reference = self.temporal.unused_in_reference

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Those of ``dgsct.ave`` without ``gate``, which says of the gates' product where the event is."""
        terms = super().loss(output, batch, progress)
        return {name: term for name, term in terms.items() if name != "gate"}
