"""What a model is given of each clip in place of its own pictures and sound, by the end of a split's name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from avcore.errors import DataError, did_you_mean

__all__ = ["GRID", "MUTED", "OWN", "Change", "dropping", "split_and_change", "with_dropped", "with_muted"]

GRID = (25, 50, 75, 100)
"""Percents of the clips that `with_dropped` takes a stream from."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What clips are given; by default their own pictures and sound.

    Attributes:
        words: what tables and pictures say.
        muted: the streams that are given nothing: the mean colour of the backbone's pictures (the value that its
            normalisation takes to 0, to half a grey level), silence.
        sound: ``own``; ``swapped``, that of another clip of the split, of another `Clip.group` where clips have groups;
            ``noise``, white noise.
        noise_db: of that noise, how much louder than the clip's own sound it is, in dB of the root mean square; noise
            in place of silence is silent.
        dropped: the share of the clips, 0 to 1, that have a stream taken from them as ``muted`` does, by stream; never
            both from one. Who has drawn with a small share has with a larger one.
    """

    words: str = "own sound"
    muted: tuple[str, ...] = ()
    sound: Literal["own", "swapped", "noise"] = "own"
    noise_db: float = 0.0
    dropped: Mapping[str, float] = field(default_factory=dict)

    def gone(self, seed: int, epoch: int, clip: int) -> tuple[str, ...]:
        """The streams that a clip of the split is not given, drawn from (seed, "drop", epoch, clip)."""
        if not self.dropped:
            return self.muted
        from avcore.data.randomness import generator  # imports numpy, and commands that list runs read this module

        drawn = generator(seed, "drop", epoch, clip).random()
        without = {"audio": drawn < self.dropped.get("audio", 0), "visual": drawn >= 1 - self.dropped.get("visual", 0)}
        return (*self.muted, *(stream for stream, missing in without.items() if missing))

    @property
    def streams(self) -> tuple[str, ...]:
        """Those that are not the clip's own, all of which a model must have."""
        return self.muted or tuple(self.dropped) or (() if self.sound == "own" else ("audio",))


OWN = Change()
MUTED = {
    "_mute_audio": Change(words="no sound", muted=("audio",)),
    "_mute_visual": Change(words="no pictures", muted=("visual",)),
    "_mute_both": Change(words="neither pictures nor sound", muted=("visual", "audio")),
}
"""The changes that take streams away, by the end of a split's name."""
_CHANGES = {"_swapped": Change(words="another clip's sound", sound="swapped"), **MUTED}
_NOISE = re.compile(r"_noise(-?\d{1,2})?$")
_DROP = re.compile(r"_drop_(audio|visual)-(\d{1,3})$")


def split_and_change(name: str, splits: tuple[str, ...] = ()) -> tuple[str, Change]:
    """``test_swapped`` -> ``test`` and the sounds of others; ``test_noise-10`` -> ``test`` and noise of -10 dB.

    Args:
        name: of a split, with or without the end that changes it.
        splits: those of the data set; without them every name is one, less what changes it.

    Raises:
        AVCoreError: the data set has no such split.
    """
    if name in splits:
        return name, OWN
    noise = _NOISE.search(name)
    found = {ending: change for ending, change in _CHANGES.items() if name.endswith(ending)}
    if noise:
        level = int(noise[1] or 0)
        found[noise[0]] = Change(words=f"white noise at {level} dB", sound="noise", noise_db=level)
    drop = _DROP.search(name)
    if drop and 0 < int(drop[2]) <= 100:
        found[drop[0]] = dropping({drop[1]: int(drop[2]) / 100})
    for ending, change in found.items():
        if not splits or name.removesuffix(ending) in splits:
            return name.removesuffix(ending), change
    if not splits:
        return name, OWN
    known = [split + ending for split in splits for ending in ("", *_CHANGES, "_noise", "_drop_audio-50")]
    raise DataError(f"There is no split '{name}': this data set has {', '.join(splits)}.{did_you_mean(name, known)}")


def dropping(dropped: Mapping[str, float]) -> Change:
    """Without these streams in these shares of the clips; `OWN` for none."""
    called = {"audio": "sound", "visual": "pictures"}
    words = [f"no {called[stream]} in {share:.0%} of the clips" for stream, share in dropped.items()]
    return Change(words=", ".join(words), dropped=dropped) if dropped else OWN


def with_dropped(names: Iterable[str], streams: Iterable[str], splits: tuple[str, ...]) -> list[str]:
    """These splits, and behind each that is unchanged itself without each stream in growing shares of its clips."""
    found: dict[str, None] = {}
    for name in names:
        own = split_and_change(name, splits)[1] == OWN
        endings = [f"_drop_{stream}-{percent}" for stream in streams for percent in GRID] if own else []
        found |= dict.fromkeys(name + ending for ending in ("", *endings))
    return list(found)


def with_muted(names: Iterable[str], splits: tuple[str, ...]) -> list[str]:
    """These splits, and behind each that is unchanged itself without sound, without pictures and without both."""
    found: dict[str, None] = {}
    for name in names:
        own = split_and_change(name, splits)[1] == OWN
        found |= dict.fromkeys(name + ending for ending in ("", *(MUTED if own else ())))
    return list(found)
