"""Which blocks run together.

Equal depths pair 1:1. Otherwise the blocks of a stage are paired by spreading the shallower stream's blocks evenly
over the deeper one's: of stages with ``long`` and ``short`` blocks, short block j runs at the last of its share of the
long ones, as DG-SCT (arXiv:2311.05152) does. Streams with different numbers of stages are paired in the same way as if
each were one stage. Where one stream rests, the other runs alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from avcore.errors import AssemblyError
from avcore.specs import StreamLayout

__all__ = ["PlanEntry", "make_plan"]


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """One step of the forward: block numbers, None where a stream rests."""

    visual: int | None = None
    audio: int | None = None
    text: int | None = None

    @property
    def running(self) -> tuple[tuple[str, int], ...]:
        """The streams that run, each with the number of its block."""
        found = (("visual", self.visual), ("audio", self.audio), ("text", self.text))
        return tuple((stream, index) for stream, index in found if index is not None)

    @property
    def paired(self) -> bool:
        """Pictures and sound run."""
        return self.visual is not None and self.audio is not None


def make_plan(visual: StreamLayout | None, audio: StreamLayout | None) -> tuple[PlanEntry, ...]:
    """The steps of the forward for two layouts, or for one where the other stream is off.

    Raises:
        AVCoreError: both streams are off.
    """
    if visual is None or audio is None:
        one = visual or audio
        if one is None:
            raise AssemblyError("Both streams are off: use --streams visual, audio or both.")
        return tuple(
            PlanEntry(visual=index if visual else None, audio=index if audio else None) for index in range(one.depth)
        )
    if visual.depth == audio.depth:
        return tuple(PlanEntry(visual=index, audio=index) for index in range(visual.depth))
    if len(visual.stages) != len(audio.stages):
        return tuple(_pair_stage(range(visual.depth), range(audio.depth)))
    entries: list[PlanEntry] = []
    start_v = start_a = 0
    for stage_v, stage_a in zip(visual.stages, audio.stages, strict=True):
        entries += _pair_stage(
            range(start_v, start_v + stage_v.depth),
            range(start_a, start_a + stage_a.depth),
        )
        start_v += stage_v.depth
        start_a += stage_a.depth
    return tuple(entries)


def _pair_stage(visual: Sequence[int], audio: Sequence[int]) -> list[PlanEntry]:
    long, short = (visual, audio) if len(visual) >= len(audio) else (audio, visual)
    partner = {long[len(long) * (j + 1) // len(short) - 1]: block for j, block in enumerate(short)}
    if long is visual:
        return [PlanEntry(visual=block, audio=partner.get(block)) for block in visual]
    return [PlanEntry(visual=partner.get(block), audio=block) for block in audio]
