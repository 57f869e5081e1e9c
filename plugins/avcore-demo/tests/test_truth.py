"""What is said of a clip follows from what is seen in its pictures and heard in its sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avcore_demo.styles import STYLES
from avcore_demo.truth import describe
from avcore_demo.world import clip_seed, make_clip

RATE = 16000


@pytest.mark.parametrize("style", STYLES)
def test_what_is_said_is_what_is_there(style: str) -> None:
    for seed in range(3):
        clip = make_clip(clip_seed("truth", seed), style)
        said = describe(clip, 64)
        assert (said["style"], said["category"], len(said["things"])) == (style, clip.category, len(clip.things))
        for k, (thing, entry) in enumerate(zip(clip.things, said["things"], strict=True)):
            assert entry["kind"] == thing.kind
            for second in range(clip.seconds):
                area = int(clip.masks(second + 15 / 16, 64)[k].sum())
                assert entry["visible"][second] == area
                assert entry["seen"][second] == (area > 0) == (entry["centre"][second] is not None)
            alone = replace(clip, sounding_TK=clip.sounding_TK * (np.arange(len(clip.things)) == k))
            silent = replace(clip, sounding_TK=np.zeros_like(clip.sounding_TK))
            own_TS = (alone.waveform(RATE) - silent.waveform(RATE)).reshape(clip.seconds, RATE)
            measured = 10 * np.log10(np.mean(own_TS.astype(np.float64) ** 2, axis=1) + 1e-12)
            for second, level in enumerate(entry["loudness"]):
                assert entry["heard"][second] == (measured[second] > -60) == (level is not None)
                # Strokes are not the same in every second.
                assert level is None or abs(measured[second] - level) < 4


def test_kinds_are_counted_in_each_second() -> None:
    clip = make_clip(3, "ms3")
    twin = replace(clip.things[0], x=0.5, y=0.5)
    twice_TK = [np.concatenate([a, a[:, :1]], axis=1) for a in (clip.seen_TK, clip.sounding_TK)]
    said = describe(replace(clip, things=(*clip.things, twin), seen_TK=twice_TK[0], sounding_TK=twice_TK[1]), 32)
    for second in range(5):
        assert said["seen"][second][twin.kind] == 2
        assert said["heard"][second].get(twin.kind, 0) == 2 * int(clip.sounding_TK[second, 0])
        assert sum(said["heard"][second].values()) == twice_TK[1][second].sum()


def test_since_when() -> None:
    clip = make_clip(0, "event")
    seen_TK = np.zeros_like(clip.seen_TK)
    seen_TK[[0, 1, 4, 5, 6], 0] = True
    said = describe(replace(clip, seen_TK=seen_TK), 32)["things"][0]
    assert said["seen_since"] == [0, 0, None, None, 4, 4, 4, None, None, None]
