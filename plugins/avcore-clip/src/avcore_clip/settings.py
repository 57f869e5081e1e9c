"""Settings of the text towers; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field

__all__ = ["TextSettings"]


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How the text stream uses a tower of CLIP."""

    weights: str = field(
        default="hub",
        metadata={"help": "hub (download by the tag after the dot of the name), random, or the path of a file"},
    )
    length: int | None = field(
        default=None,
        metadata={
            "help": "ids of a sentence, begin and end included; null takes the model's (77). Fewer are faster and, "
            "where attention is causal, give the same for sentences that fit; longer ones are cut"
        },
    )

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 3:
            raise ValueError(f"length must be at least 3 (a begin, an id, an end), not {self.length}")
