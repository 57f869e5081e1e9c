"""Which blocks of pictures and sound run together; blocks that are not paired run alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from avcore.errors import AssemblyError
from avcore.specs import STREAMS, TEXTS, StreamLayout

__all__ = ["PlanEntry", "make_plan"]


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """One step of the forward: block numbers, None where a stream rests."""

    visual: int | None = None
    audio: int | None = None
    text: int | None = None
    text_audio: int | None = None

    @property
    def running(self) -> tuple[tuple[str, int], ...]:
        """The streams that run, each with the number of its block."""
        found = ((stream, getattr(self, stream)) for stream in (*STREAMS, *TEXTS))
        return tuple((stream, index) for stream, index in found if index is not None)

    @property
    def paired(self) -> bool:
        """Pictures and sound run."""
        return self.visual is not None and self.audio is not None


def make_plan(
    visual: StreamLayout | None, audio: StreamLayout | None, pairing: str | Sequence[tuple[int, int]] = "even"
) -> tuple[PlanEntry, ...]:
    """The steps of the forward for two layouts, or for one where the other stream is off.

    Pairs are made stage by stage; streams of equal depth, or with different numbers of stages, count as one stage each.

    Args:
        visual, audio: the layouts; None for a stream that is off.
        pairing: ``even``: of stages with ``long`` and ``short`` blocks, short block j runs at the last of its share of
            the long ones, as DG-SCT (arXiv:2311.05152) does; equal depths pair 1:1. ``last``: the last block beside the
            last, the one before beside the one before, and so on, so that the first blocks of the deeper stage run
            alone. ``odd``: those pairs of ``even`` in which the block of the deeper stream (of the visual one, where
            depths are equal) has an odd number, counted from 0: every second block; all of them where one stream is
            twice as deep. Or the pairs themselves, (visual, audio) in the order in which they run.

    Raises:
        AVCoreError: both streams are off, no block is paired, or a pair cannot be.
    """
    if visual is None or audio is None:
        one = visual or audio
        if one is None:
            raise AssemblyError("Both streams are off: use --streams visual, audio or both.")
        return tuple(
            PlanEntry(visual=index if visual else None, audio=index if audio else None) for index in range(one.depth)
        )
    together = _named(visual, audio, pairing) if isinstance(pairing, str) else _checked(visual, audio, pairing)
    if not together:
        raise AssemblyError(
            f"plan.pairing={pairing or '[]'} pairs none of {visual.depth} visual and {audio.depth} audio blocks: "
            "choose even, last or odd, or name pairs such as [[0, 0], [1, 1]]."
        )
    return tuple(_steps(visual.depth, audio.depth, together))


def _named(visual: StreamLayout, audio: StreamLayout, pairing: str) -> list[tuple[int, int]]:
    depths = [(visual.depth, audio.depth)]
    if visual.depth != audio.depth and len(visual.stages) == len(audio.stages):
        depths = [(one.depth, other.depth) for one, other in zip(visual.stages, audio.stages, strict=True)]
    together = []
    end_v = end_a = 0
    for count_v, count_a in depths:
        start_v, start_a = end_v, end_a
        end_v, end_a = start_v + count_v, start_a + count_a
        short = min(count_v, count_a)
        if pairing == "last":
            together += [(end_v - j, end_a - j) for j in range(short, 0, -1)]
        else:
            shares = range(1, short + 1)
            together += [(start_v + count_v * j // short - 1, start_a + count_a * j // short - 1) for j in shares]
    if pairing == "odd":
        deeper = 0 if visual.depth >= audio.depth else 1
        return [pair for pair in together if pair[deeper] % 2]
    return together


def _checked(visual: StreamLayout, audio: StreamLayout, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    before: tuple[int, int] | None = None
    for pair in pairs:
        for stream, index, layout in zip(("visual", "audio"), pair, (visual, audio), strict=True):
            if not 0 <= index < layout.depth:
                raise AssemblyError(
                    f"plan.pairing names the {stream} block {index} in {list(pair)}, but that stream has "
                    f"{layout.depth} blocks, numbered from 0 to {layout.depth - 1}."
                )
        if before is not None and not (before[0] < pair[0] and before[1] < pair[1]):
            raise AssemblyError(
                f"plan.pairing names {list(pair)} after {list(before)}: each pair takes a later block of both streams "
                "than the pair before it."
            )
        before = pair
    return list(pairs)


def _steps(visual_depth: int, audio_depth: int, together: Sequence[tuple[int, int]]) -> Iterator[PlanEntry]:
    """The pairs, and between them what runs alone."""
    next_v = next_a = 0
    for v, a in together:
        yield from _alone(next_v, v, next_a, a)
        yield PlanEntry(visual=v, audio=a)
        next_v, next_a = v + 1, a + 1
    yield from _alone(next_v, visual_depth, next_a, audio_depth)


def _alone(start_v: int, end_v: int, start_a: int, end_a: int) -> Iterator[PlanEntry]:
    yield from (PlanEntry(visual=index) for index in range(start_v, end_v))
    yield from (PlanEntry(audio=index) for index in range(start_a, end_a))
