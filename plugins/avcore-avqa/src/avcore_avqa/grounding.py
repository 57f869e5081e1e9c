"""``avqa.grounding``: the first stage of AVST, which learns what sound goes with which pictures, and no answers.

Shape letters: B clips, T segments, M = B*T, N tokens, D width of a backbone.
"""

from collections.abc import Mapping

from torch import Tensor

from avcore.errors import AssemblyError, AVCoreError
from avcore.specs import StreamLayout
from avcore.tasks import Batch, Features, Head, Input, Progress, Task
from avcore_avqa.config import GroundingHeadConfig
from avcore_avqa.datasets import NEGATIVE
from avcore_avqa.losses import match_loss
from avcore_avqa.network import Matching
from avcore_avqa.task import AVQATask

__all__ = ["GroundingHead"]


class GroundingHead(Head):
    """The part of AVST's network that matches sound with pictures; a run with `AVSTHead` starts at what it has trained.

    Output:
        ``match`` (M, 2) logits and, where clips have companions, ``match_negative`` (M, 2); ``regions`` (M, N), where
        the sound is grounded in each picture.
    """

    def __init__(self, config: GroundingHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        if missing := [name for name in ("visual", "audio") if name not in layouts]:
            raise AssemblyError(
                f"Head avqa.grounding matches sound and pictures, and the {missing[0]} stream is off: set streams=both."
            )
        if not isinstance(task, AVQATask) or not task.grounds:
            raise AssemblyError(
                "Head avqa.grounding gives no answers, and the task asks for some (task_options.stage): leave that "
                "out, it follows from the head; the task is avqa."
            )
        visual, audio = layouts["visual"], layouts["audio"]
        self.prefix, self.grid = visual.stages[-1].prefix, visual.stages[-1].grid
        self.companions = {NEGATIVE: config.negatives}
        if config.negatives == "plain":
            self.companion_reads = {NEGATIVE: {"visual": ("tokens",)}}
        self.network = Matching(config, visual.width, audio.width)

    @property
    def targets(self) -> Mapping[str, Input]:
        """``answer``, of which nothing is read: what is right follows from whose pictures they are."""
        return {"answer": Input(shape=(), dtype="int64")}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with tokens of pictures and pooled vectors of sound."""
        other = features.companions.get(NEGATIVE)
        own_MND, other_MND = (None if one is None else self._tokens(one) for one in (features, other))
        assert own_MND is not None
        matched = self.network.matched(own_MND, features.stream("audio").pooled.flatten(0, 1), other_MND)
        return {**matched.logits, "regions": matched.regions_MN}

    def _tokens(self, features: Features) -> Tensor:
        return features.stream("visual").tokens[:, self.prefix :]

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``match``, of the own pictures and of those of other videos.

        Raises:
            AVCoreError: there are none of other videos.
        """
        if "match_negative" not in output:
            raise AVCoreError("There are no pictures of other videos to tell apart: train on two videos at least.")
        valid_M = batch.valid.repeat_interleave(len(output["match"]) // len(batch.valid))
        return {"match": match_loss(output["match"], output["match_negative"], valid_M)}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """``match`` and ``match_negative`` (B, T), how sure it is of a match; ``regions`` (B, T, Y, X) of the sound."""
        names = [name for name in ("match", "match_negative") if name in output]
        sure = {name: output[name].softmax(-1)[:, 1].unflatten(0, (features.clips, -1)) for name in names}
        return {**sure, "regions": output["regions"].unflatten(0, (features.clips, -1)).unflatten(-1, self.grid)}
