"""Settings of our reading of MoLT; every choice that is open to who has no more than its abstract is one."""

from dataclasses import dataclass, field
from typing import Literal

from avcore.config import require

__all__ = ["MoLTSettings"]


@dataclass(frozen=True, kw_only=True)
class MoLTSettings:
    """Latent tokens of late pairs of blocks; all of it is open but the two kinds, the router, the fusion, the loss."""

    tokens: int = field(default=2, metadata={"help": "n, latent tokens of each kind in each layer"})
    last: int = field(default=4, metadata={"help": "how many of the last pairs of blocks are read"})
    reduction: int = field(default=8, metadata={"help": "bottlenecks are the block's width divided by this wide"})
    scale: Literal["sqrt", "one"] = field(
        default="sqrt", metadata={"help": "scores are divided by the root of the width, or not, as LAVISH has it"}
    )
    initial: Literal["uniform", "normal"] = field(
        default="normal", metadata={"help": "initial latents: normal, 0.02, or uniform from 0 to 1, as LAVISH's"}
    )
    router: Literal["learned", "equal"] = field(
        default="learned", metadata={"help": "what weighs both kinds: AVMoE's router of each segment, or a half each"}
    )
    fusion: Literal["learned", "mean"] = field(
        default="learned", metadata={"help": "how layers are weighed: by a score of each one's tokens, or all alike"}
    )
    orthogonality: float = field(default=0.1, metadata={"help": "weight of the loss that keeps latent tokens apart"})
    orthogonal: Literal["tokens", "latents"] = field(
        default="tokens", metadata={"help": "what is kept apart: tokens that a layer gives, or its learnt latents"}
    )

    def __post_init__(self) -> None:
        for key in ("tokens", "last", "reduction"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.orthogonality >= 0, "orthogonality", self.orthogonality, "0 or more")
        apart = self.orthogonality == 0 or self.tokens >= 2
        require(apart, "tokens", self.tokens, "2 or more, or orthogonality=0: a single token has none to be kept from")
