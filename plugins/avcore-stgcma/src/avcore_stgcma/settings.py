"""Settings of STG-CMA's parts; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field

from avcore.config import require
from avcore.errors import AssemblyError
from avcore.specs import BlockLayout

__all__ = ["BottleneckSettings", "TemporalSettings"]


@dataclass(frozen=True, kw_only=True)
class BottleneckSettings:
    """Bottlenecks in series with a frozen increment."""

    ratio: float | tuple[float, ...] = field(
        default=0.0625,
        metadata={
            "help": "hidden width of a bottleneck, as a share of the width of the stream; a list has one for each stage"
        },
    )

    def __post_init__(self) -> None:
        every = self.ratio if isinstance(self.ratio, tuple) else (self.ratio,)
        require(bool(every), "ratio", [], "one number, or one for each stage")
        for ratio in every:
            require(0 < ratio <= 1, "ratio", self.ratio, "above 0 and at most 1")

    def ratio_at(self, block: BlockLayout) -> float:
        """The ratio of a block.

        Raises:
            AssemblyError: there are not as many as the backbone has stages.
        """
        if not isinstance(self.ratio, tuple):
            return self.ratio
        if len(self.ratio) != block.stages:
            raise AssemblyError(
                f"A part of stgcma has ratio={list(self.ratio)}, {len(self.ratio)} numbers for a backbone of "
                f"{block.stages} stages: give one for each stage, or a single one."
            )
        return self.ratio[block.stage]


@dataclass(frozen=True, kw_only=True)
class TemporalSettings(BottleneckSettings):
    """Bottlenecks behind frozen attention over time."""

    drop_path: float = field(
        default=0.2,
        metadata={"help": "in training, share of token positions left out in the last block; rises linearly from 0"},
    )
    every: int = field(default=1, metadata={"help": "in every n-th block, from the first; on Swin the authors take 2"})
    position_bias: bool = field(
        default=False,
        metadata={"help": "a trained bias for each head and distance in time; the authors have it on Swin"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "from 0 to below 1")
        require(self.every >= 1, "every", self.every, "1 or more")
