"""Settings of CoLA; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field

from avcore.config import require
from avcore_baselines.settings import LoRASettings, Target

__all__ = ["CrossSettings", "OwnSettings"]

MAPS: tuple[Target, ...] = ("q", "k", "v", "proj", "fc1", "fc2")


@dataclass(frozen=True, kw_only=True)
class OwnSettings(LoRASettings):
    """LoRA as CoLA has it, in all maps of a block."""

    rank: int = field(default=16, metadata={"help": "r, rank of each increment"})
    targets: tuple[Target, ...] = field(
        default=MAPS,
        metadata={"help": "frozen maps: queries, keys, values and output of the attention, both of the MLP"},
    )


@dataclass(frozen=True, kw_only=True)
class CrossSettings:
    """The increments whose core is made from the other stream."""

    rank: int = field(default=16, metadata={"help": "r: the core is r x r"})
    rho: int = field(
        default=16,
        metadata={
            "help": "what makes a core has a hidden layer of d / rho, no less than 4; the other stream is d wide"
        },
    )
    audio_hidden: int | None = field(
        default=None,
        metadata={
            "help": "width of that hidden layer in the audio stream, whatever the pictures' width; null for d / rho"
        },
    )
    scale: float = field(default=0.1, metadata={"help": "s of each map at first; it is trained"})

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", self.rank, "1 or more")
        require(self.rho >= 1, "rho", self.rho, "1 or more")
        hidden = self.audio_hidden
        require(hidden is None or hidden >= 1, "audio_hidden", hidden, "1 or more, or null")
