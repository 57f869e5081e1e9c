"""Where the segments and clips of a video of any length lie."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cuts"]


@dataclass(frozen=True)
class Cuts:
    """A video cut into segments, and the clips in which a model sees them.

    Segments follow each other from 0 s on; less than half a segment at the end belongs to the one before it. Clips of T
    segments follow each other too. A rest of less than T segments is seen in the last whole clip, which begins earlier
    and overlaps the clip before it; a video shorter than a clip is one clip that goes on after its end.

    Attributes:
        count: segments.
        seconds: length of a segment, s.
        per_clip: T.
        starts: the first segment of each clip.
    """

    count: int
    seconds: float
    per_clip: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, duration_s: float, clip_seconds: float, per_clip: int) -> Cuts:
        """Cut ``duration_s`` s for a model whose clips are ``clip_seconds`` s of ``per_clip`` segments."""
        seconds = clip_seconds / per_clip
        count = max(1, round(duration_s / seconds))
        whole = range(0, count - per_clip + 1, per_clip)
        rest = [max(0, count - per_clip)] if len(whole) * per_clip < count else []
        return cls(count, seconds, per_clip, (*whole, *rest))

    @property
    def seen(self) -> int:
        """Segments up to the end of the last clip; more than ``count`` for a video shorter than a clip."""
        return self.starts[-1] + self.per_clip

    def at(self, time_s: float) -> int:
        """The segment shown at a time."""
        return min(int(time_s / self.seconds + 1e-6), self.count - 1)

    def clip_of(self, segment: int) -> tuple[int, int]:
        """The number of the first clip that a segment is in, and its place there."""
        clip = min(segment // self.per_clip, len(self.starts) - 1)
        return clip, segment - self.starts[clip]

    def times(self, duration_s: float) -> list[tuple[float, float]]:
        """Begin and end of each segment, s; the last one ends with the video."""
        begins = [index * self.seconds for index in range(self.count)]
        return list(zip(begins, [*begins[1:], duration_s], strict=True))

    def samples(self, segment: int, count: int, rate: int) -> slice:
        """Where ``count`` segments from this one on lie in sound of ``rate`` Hz."""
        start = round(segment * self.seconds * rate)
        return slice(start, start + round(count * self.seconds * rate))
