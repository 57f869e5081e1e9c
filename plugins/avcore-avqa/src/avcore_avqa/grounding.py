"""``avqa.grounding``: the first stage of AVST, which learns what sound goes with which pictures, and no answers.

Shape letters: B clips, T segments, M = B*T, N tokens, D width of a backbone.
"""

from collections.abc import Mapping

from torch import Tensor

from avcore.errors import AssemblyError, AVCoreError
from avcore.specs import StreamLayout
from avcore.tasks import Batch, Features, Progress, Task
from avcore_avqa.config import GroundingHeadConfig
from avcore_avqa.matching import MatchingHead
from avcore_avqa.network import Matching
from avcore_avqa.task import AVQATask

__all__ = ["GroundingHead"]


class GroundingHead(MatchingHead):
    """The part of AVST's network that matches sound with pictures; a run with `AVSTHead` starts at what it has trained.

    Output:
        ``match`` (M, 2) logits and, where clips have companions, ``match_negative`` (M, 2); ``regions`` (M, N), where
        the sound is grounded in each picture.
    """

    def __init__(self, config: GroundingHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        if not isinstance(task, AVQATask) or not task.grounds:
            raise AssemblyError(
                "Head avqa.grounding gives no answers, and the task asks for some (task_options.stage): leave that "
                "out, it follows from the head; the task is avqa."
            )
        self.network = Matching(config, layouts["visual"].width, layouts["audio"].width)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with tokens of pictures and pooled vectors of sound."""
        own_MND, other_MND = self.seen(features)
        matched = self.network.matched(own_MND, self.heard(features), other_MND)
        return {**matched.logits, "regions": matched.regions_MN}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``match``, of the own pictures and of those of other videos.

        Raises:
            AVCoreError: there are none of other videos.
        """
        if "match_negative" not in output:
            raise AVCoreError("There are no pictures of other videos to tell apart: train on two videos at least.")
        return {"match": self.match_term(output, batch)}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``match`` and ``match_negative`` (B, T), how sure it is of a match; ``regions`` (B, T, Y, X) of the sound."""
        names = [name for name in ("match", "match_negative") if name in output]
        sure = {name: output[name].softmax(-1)[:, 1].unflatten(0, (features.clips, -1)) for name in names}
        return {**sure, "regions": self.on_pictures(output["regions"], features)}
