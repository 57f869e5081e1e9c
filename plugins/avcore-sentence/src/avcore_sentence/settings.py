"""Settings of the sentence encoders; torch-free, because plugins are listed without torch."""

import os
from dataclasses import dataclass, field

__all__ = ["HUB", "RANDOM", "SentenceSettings"]

HUB, RANDOM = "hub", "random"


@dataclass(frozen=True, kw_only=True)
class SentenceSettings:
    """How the text stream uses a sentence encoder."""

    weights: str = field(
        default=HUB,
        metadata={
            "help": "hub (fetched by name), random, or a folder with config.json, model.safetensors and the "
            "tokenizer's files, as the hub and save_pretrained lay them out"
        },
    )
    length: int = field(
        default=128,
        metadata={"help": "ids of a sentence, begin and end included; fewer are faster, longer sentences are cut"},
    )

    def __post_init__(self) -> None:
        if self.length < 3:
            raise ValueError(f"length must be at least 3 (a begin, an id, an end), not {self.length}")
        path = os.path.expanduser(self.weights)
        if self.weights not in (HUB, RANDOM) and os.path.exists(path):
            # What a run writes down holds from any folder.
            object.__setattr__(self, "weights", os.path.abspath(path))
