"""What the heads of AVST's two stages share: streams, pictures of other videos, and the loss of their match.

Shape letters: B clips, T segments, M = B*T, N = Y*X tokens, D width of a backbone.
"""

from collections.abc import Mapping

from torch import Tensor

from avcore.errors import AssemblyError
from avcore.specs import StreamLayout
from avcore.tasks import Batch, Features, Head, Input, Task
from avcore_avqa.config import GroundingHeadConfig
from avcore_avqa.datasets import NEGATIVE
from avcore_avqa.losses import match_loss

__all__ = ["MatchingHead"]


class MatchingHead(Head):
    """A head that tells pictures of a clip's own seconds from those of other videos, its companions.

    Raises:
        AssemblyError: a stream is off.
    """

    def __init__(self, config: GroundingHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        if missing := [name for name in ("visual", "audio") if name not in layouts]:
            raise AssemblyError(
                f"AVST's heads match sound and pictures, and the {missing[0]} stream is off: set streams=both."
            )
        stage = layouts["visual"].stages[-1]
        self.prefix, self.grid = stage.prefix, stage.grid
        self.companions = {NEGATIVE: config.negatives}
        if config.negatives == "plain":
            self.companion_reads = {NEGATIVE: {"visual": ("tokens",)}}

    @property
    def targets(self) -> Mapping[str, Input]:
        """``answer`` (), the index of the right one; what matches follows from whose pictures they are."""
        return {"answer": Input(shape=(), dtype="int64")}

    def seen(self, features: Features) -> tuple[Tensor, Tensor | None]:
        """Tokens of the own pictures and, where clips have companions, of others, (M, N, D), without class tokens."""
        other = features.companions.get(NEGATIVE)
        return self._tokens(features), None if other is None else self._tokens(other)

    def heard(self, features: Features) -> Tensor:
        """Vectors of the sound of each segment, (M, D)."""
        return features.stream("audio").pooled.flatten(0, 1)

    def match_term(self, output: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """`match_loss` of ``match`` and ``match_negative``, each (M, 2), in an output; clips that pad count nowhere."""
        valid_M = batch.valid.repeat_interleave(len(output["match"]) // len(batch.valid))
        return match_loss(output["match"], output["match_negative"], valid_M)

    def on_pictures(self, regions_MN: Tensor, features: Features) -> Tensor:
        """Weights of tokens on the grid of each picture, (B, T, Y, X)."""
        return regions_MN.unflatten(0, (features.clips, -1)).unflatten(-1, self.grid)  # type: ignore[no-any-return]

    def _tokens(self, features: Features) -> Tensor:
        return features.stream("visual").tokens[:, self.prefix :]
