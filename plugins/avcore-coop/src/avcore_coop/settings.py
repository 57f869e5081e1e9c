"""Settings of the parts and heads. Imports no torch, so that plugins load fast."""

from dataclasses import dataclass, field

from avcore.config import require
from avcore_fewshot.config import WordsHeadConfig

__all__ = ["AdapterSettings", "ConditionalSettings", "MapleSettings"]


@dataclass(frozen=True, kw_only=True)
class MapleSettings:
    """MaPLe: deep prompts of sentences, each with a linear map to a prompt of pictures."""

    tokens: int = field(default=2, metadata={"help": "prompts of a block"})
    depth: int = field(default=9, metadata={"help": "blocks with prompts of their own, from the first"})
    words_width: int = field(default=512, metadata={"help": "width of the encoder of sentences"})
    std: float = field(default=0.02, metadata={"help": "deviation of their start"})

    def __post_init__(self) -> None:
        for name in ("tokens", "depth", "words_width"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.std > 0, "std", self.std, "above 0")


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(WordsHeadConfig):
    """CLIP-Adapter: a bottleneck behind the projection of each stream."""

    reduction: int = field(default=4, metadata={"help": "the bottleneck is so many times narrower"})
    ratio: float = field(default=0.2, metadata={"help": "share of what the bottleneck gives"})
    words: bool = field(default=False, metadata={"help": "one for the words of each stream too"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction >= 1, "reduction", self.reduction, "1 or more")
        require(0 <= self.ratio <= 1, "ratio", self.ratio, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ConditionalSettings(WordsHeadConfig):
    """CoCoOp: a context that a small network shifts by what each segment shows."""

    tokens: int = field(default=4, metadata={"help": "vectors of the context: the words before the class"})
    reduction: int = field(default=16, metadata={"help": "the hidden layer is so many times narrower"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tokens >= 1, "tokens", self.tokens, "1 or more")
        require(self.reduction >= 1, "reduction", self.reduction, "1 or more")
