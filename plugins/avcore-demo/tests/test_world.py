"""The demo world: everything follows from the seed, and only listening tells what to segment."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from avcore_demo import KINDS
from avcore_demo.sounds import SINGERS, draw_voice, sing
from avcore_demo.styles import SECONDS, STYLES, Cast, single
from avcore_demo.world import Clip, clip_seed, make_clip


@pytest.mark.parametrize("style", STYLES)
def test_the_same_seed_gives_the_same_clip(style: str) -> None:
    first, second = make_clip(7, style), make_clip(7, style)
    assert first.things == second.things
    assert (first.sounding_TK == second.sounding_TK).all()
    assert (first.frame(1.3, 48) == second.frame(1.3, 48)).all()
    assert (first.masks(1.3, 48) == second.masks(1.3, 48)).all()
    assert (first.waveform() == second.waveform()).all()


def test_other_seeds_give_other_clips() -> None:
    first, second = make_clip(7), make_clip(8)
    assert (first.frame(1.3, 48) != second.frame(1.3, 48)).any()
    assert (first.waveform() != second.waveform()).any()
    seeds = [clip_seed(*names) for names in itertools.product(("a", "b"), range(50))]
    assert len(set(seeds)) == len(seeds)


def test_shapes_and_types() -> None:
    clip = make_clip(3, "ms3")
    frame_YX3, masks_KYX = clip.picture(2.0, 64)
    assert frame_YX3.shape == (64, 64, 3)
    assert frame_YX3.dtype == np.uint8
    assert masks_KYX.shape == (len(clip.things), 64, 64)
    assert masks_KYX.dtype == np.bool_
    wave_S = clip.waveform(8000)
    assert wave_S.shape == (SECONDS * 8000,)
    assert wave_S.dtype == np.float32
    assert abs(wave_S).max() <= 1


def test_a_wrong_style_is_named() -> None:
    with pytest.raises(ValueError, match=r"s5.*s4, ms3, event"):
        make_clip(0, "s5")


def test_several_things_of_different_kinds_are_seen_and_none_is_hidden() -> None:
    counts = set()
    for seed in range(30):
        clip = make_clip(seed)
        kinds = [thing.kind for thing in clip.things]
        assert len(set(kinds)) == len(kinds)
        counts.add(len(kinds))
        for t in (0.94, 3.94):
            assert clip.masks(t, 48).sum((1, 2)).min() >= 12
    assert counts == {2, 3, 4}


def test_masks_are_the_visible_parts() -> None:
    overlaps = 0
    for seed in range(20):
        clip = make_clip(seed)
        masks_KYX = clip.masks(2.5, 48)
        assert masks_KYX.sum(0).max() == 1
        # What lies in front is seen whole; what is behind loses what the things before it cover.
        alone_TK = (clip.seen_TK[:, :1], clip.sounding_TK[:, :1])
        alone = [Clip(seed, "s4", (thing,), *alone_TK, 0, 0).masks(2.5, 48)[0] for thing in clip.things]
        for index, whole_YX in enumerate(alone):
            before = np.any(alone[index + 1 :], axis=0) if index + 1 < len(alone) else np.zeros_like(whole_YX)
            assert (masks_KYX[index] == (whole_YX & ~before)).all()
            overlaps += int((whole_YX & before).any())
    assert overlaps


def test_the_picture_does_not_depend_on_what_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(5, "s4")

    def another(seen: np.random.Generator, heard: np.random.Generator) -> Cast:
        cast = single(seen, heard)
        return replace(cast, sounding_TK=np.roll(cast.sounding_TK, 1, axis=1))

    monkeypatch.setitem(STYLES, "another", another)
    other = make_clip(5, "another")
    assert (clip.sounding_TK != other.sounding_TK).any()
    assert (clip.frame(1.0, 48) == other.frame(1.0, 48)).all()


def test_what_sounds_is_independent_of_size_order_and_place() -> None:
    largest, front, leftmost, chance, kinds = [], [], [], [], []
    for seed in range(800):
        clip = make_clip(clip_seed("independence", seed))
        (sounding,) = np.flatnonzero(clip.sounding_TK[0])
        largest.append(np.argmax([thing.radius for thing in clip.things]) == sounding)
        leftmost.append(np.argmin([thing.x for thing in clip.things]) == sounding)
        front.append(len(clip.things) - 1 == sounding)
        chance.append(1 / len(clip.things))
        kinds.append(KINDS.index(clip.category))
    for guess in (largest, leftmost, front):
        assert abs(np.mean(guess) - np.mean(chance)) < 0.07
    assert np.bincount(kinds, minlength=6).min() > 800 / 6 * 0.7


def test_the_largest_visible_thing_is_a_weak_guess() -> None:
    right, chance = [], []
    for seed in range(150):
        clip = make_clip(clip_seed("area", seed))
        right.append(clip.sounding(0)[clip.masks(0.94, 32).sum((1, 2)).argmax()])
        chance.append(1 / len(clip.things))
    assert abs(np.mean(right) - np.mean(chance)) < 0.12


def test_in_s4_one_thing_sounds_all_the_time() -> None:
    for seed in range(50):
        sounding_TK = make_clip(seed, "s4").sounding_TK
        assert (sounding_TK.sum(1) == 1).all()
        assert (sounding_TK == sounding_TK[0]).all()


def test_in_ms3_one_or_two_sound_and_the_set_changes() -> None:
    sizes = set()
    for seed in range(50):
        sounding_TK = make_clip(seed, "ms3").sounding_TK
        sizes |= set(sounding_TK.sum(1).tolist())
        assert (sounding_TK != sounding_TK[0]).any()
    assert sizes == {1, 2}


def test_in_ms3_to_look_is_not_enough() -> None:
    """How far answers get that do not listen, and that to another clip's sound, with perfect outlines."""
    reached: dict[str, list[float]] = {"all": [], "largest": [], "another's": []}
    kinds: set[str] = set()
    for seed in range(200):
        clip = make_clip(clip_seed("ms3", seed), "ms3")
        masks_KYX, sounding_K = clip.masks(1.94, 48), clip.sounding(1)
        areas_K = masks_KYX.sum((1, 2))
        answers = {
            "all": np.ones_like(sounding_K),
            "largest": areas_K == areas_K.max(),
            "another's": np.array([thing.kind in kinds for thing in clip.things]),
        }
        for name, answer_K in answers.items():
            reached[name].append(areas_K[answer_K & sounding_K].sum() / areas_K[answer_K | sounding_K].sum())
        kinds = {clip.things[k].kind for k in np.flatnonzero(sounding_K)}
    assert np.mean(reached["all"]) < 0.48
    assert np.mean(reached["largest"]) < 0.38
    assert np.mean(reached["another's"]) < 0.26


@pytest.mark.parametrize("kind", KINDS)
def test_every_second_of_a_voice_holds_its_sound(kind: str) -> None:
    for seed in range(6):
        voice = draw_voice(kind, np.random.default_rng(seed))
        wave_S = sing(voice, SECONDS, 16000)
        windows = np.lib.stride_tricks.sliding_window_view(wave_S, 16000)[::800]
        loudness = np.sqrt(np.mean(windows**2, axis=1))
        # The background noise is at most 0.01.
        assert loudness.min() > 0.5 * 0.07 * voice.gain
        assert abs(wave_S).max() < 1.6


def test_kinds_have_painters_and_singers() -> None:
    assert set(SINGERS) == set(KINDS)


def test_what_does_not_sound_is_not_heard() -> None:
    clip = make_clip(0)
    silent = replace(clip, sounding_TK=np.zeros_like(clip.sounding_TK))
    assert np.sqrt(np.mean(silent.waveform() ** 2)) < 0.0101
    assert np.sqrt(np.mean(clip.waveform() ** 2)) > 0.03
