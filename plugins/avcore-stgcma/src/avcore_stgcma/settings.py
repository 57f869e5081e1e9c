"""Settings of STG-CMA's parts; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field

from avcore.config import require

__all__ = ["BottleneckSettings", "TemporalSettings"]


@dataclass(frozen=True, kw_only=True)
class BottleneckSettings:
    """Bottlenecks in series with a frozen increment."""

    ratio: float = field(
        default=0.0625, metadata={"help": "hidden width of a bottleneck, as a share of the width of the stream"}
    )

    def __post_init__(self) -> None:
        require(0 < self.ratio <= 1, "ratio", self.ratio, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class TemporalSettings(BottleneckSettings):
    """Bottlenecks behind frozen attention over time."""

    drop_path: float = field(
        default=0.2,
        metadata={"help": "in training, share of token positions left out in the last block; rises linearly from 0"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "from 0 to below 1")
