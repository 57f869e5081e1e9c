"""Settings of CLAP's towers; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field

from avcore_timm.settings import HTSATSettings

__all__ = ["ClapSettings", "ClapTextSettings"]

_WEIGHTS = "hub (download by name), random, or the path of a file of LAION's CLAP or of a ClapModel of transformers"


@dataclass(frozen=True, kw_only=True)
class ClapSettings(HTSATSettings):
    """How the audio stream uses CLAP's tower of sound."""

    weights: str | None = field(default="hub", metadata={"help": _WEIGHTS})
    projection: bool = field(
        default=True, metadata={"help": "load the map into the space shared with text; it counts as frozen weights"}
    )


@dataclass(frozen=True, kw_only=True)
class ClapTextSettings:
    """How the text stream uses CLAP's tower of sentences."""

    weights: str = field(default="hub", metadata={"help": _WEIGHTS})
    tokenizer: str = field(
        default="hub",
        metadata={
            "help": "hub (download by name), a tokenizer.json, a folder with vocab.json and merges.txt, or words: an "
            "id for each word by its checksum, for trials on random weights"
        },
    )
    length: int | None = field(
        default=None,
        metadata={"help": "ids of a sentence, begin and end included (77); longer ones are cut"},
    )
    norm_eps: float | None = field(
        default=None,
        metadata={"help": "added to variances: 1e-12 in transformers' configurations (null), 1e-5 in LAION's own code"},
    )

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 3:
            raise ValueError(f"length must be at least 3 (a begin, an id, an end), not {self.length}")
        if self.norm_eps is not None and not self.norm_eps > 0:
            raise ValueError(f"norm_eps must be above 0, not {self.norm_eps}")
