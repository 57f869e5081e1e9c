"""Makes, and the sentences about them: what the towers that know words were trained on, and what they were not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from avcore_demo import KINDS, KNOWN, UNKNOWN
from avcore_demo.makes import MAKES, known_makes, made_of
from avcore_demo.render import clips
from avcore_demo.sounds import draw_voice, sing
from avcore_demo.world import make_clip

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def words_data() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        spec = importlib.util.spec_from_file_location("words_data", SCRIPTS / "words_data.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    sys.modules.pop("pretrain_data", None)


def test_both_words_of_what_is_unknown_are_known_from_other_things() -> None:
    assert not set(KNOWN) & set(UNKNOWN)
    for group in (KNOWN, UNKNOWN):
        assert [name.split()[1] for name in group] == list(KINDS)
        assert {name.split()[0] for name in group} == set(MAKES)
    for name in UNKNOWN:
        make, kind = name.split()
        assert make not in known_makes(kind)
        assert len(known_makes(kind)) == len(MAKES) - 1
        assert sum(make in known_makes(other) for other in KINDS) >= len(KINDS) - 2


def test_a_make_changes_colour_and_what_rings_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    thing = make_clip(3).things[0]
    iron, glass = (made_of(thing, make, rng) for make in ("iron", "glass"))
    assert (thing.name, iron.name) == (thing.kind, f"iron {thing.kind}")
    assert replace(iron.voice, ring=0.0) == thing.voice == replace(glass.voice, ring=0.0)
    assert (iron.x, iron.radius, iron.look.shape, iron.look.detail) == (
        *(thing.x, thing.radius),
        *(thing.look.shape, thing.look.detail),
    )
    assert max(iron.look.base) - min(iron.look.base) < max(glass.look.base) - min(glass.look.base)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_rings_with_a_voice_is_heard_at_its_pitch_as_loud_as_the_voice_was(make: str, kind: str) -> None:
    voice = draw_voice(kind, np.random.default_rng(1))
    ringing = replace(voice, ring=MAKES[make].ring[0])
    waves = [sing(one, 2.0, 16000) for one in (voice, ringing)]
    loud = [float(np.sqrt(np.mean(wave_S**2))) for wave_S in waves]
    assert loud[1] == pytest.approx(loud[0], rel=1e-3)
    near = np.abs(np.fft.rfftfreq(32000, 1 / 16000) - ringing.ring) < 20
    shares = [
        np.sum(np.abs(np.fft.rfft(wave_S)[near]) ** 2) / np.sum(np.abs(np.fft.rfft(wave_S)) ** 2) for wave_S in waves
    ]
    assert shares[1] > 0.1
    assert shares[1] > shares[0]


def test_every_thing_of_the_few_shot_demo_is_of_a_class_and_classes_come_in_turn() -> None:
    made = clips(seed=0, counts={"train": 36, "test": 12}, layout="fewshot")
    found = {split: [clip.category for _, of, clip in made if of == split] for split in ("train", "test")}
    assert found == {"train": [*KNOWN, *UNKNOWN] * 3, "test": [*KNOWN, *UNKNOWN]}
    names = [[thing.name for thing in clip.things] for _, _, clip in made]
    assert {name for one in names for name in one} == {*KNOWN, *UNKNOWN}
    # What is seen or heard beside a class is of its own group as often as of the other.
    beside = [name for one, (_, _, clip) in zip(names, made, strict=True) for name in one if name != clip.category]
    assert 0.35 < sum(name in KNOWN for name in beside) / len(beside) < 0.65


def test_training_never_meets_what_is_unknown_and_tests_do(words_data: ModuleType) -> None:
    def names(purpose: str, what: str, style: str) -> set[str]:
        worlds = (words_data._world(purpose, what, number, style, 4)[0] for number in range(150))
        return {thing.name for clip in worlds for thing in clip.things}

    everything = {f"{make} {kind}" for make in MAKES for kind in KINDS}
    assert names("train", "picture", "s4") == everything - set(UNKNOWN) == names("train", "sound", "recognition")
    assert names("test", "picture", "s4") == everything


def test_sentences_are_true_and_say_what_they_hold(words_data: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    none = [words_data.HAS_NONE] * 4
    things = torch.tensor([[[0, 1, 0, 1], [2, 5, words_data.HAS_NONE, 0], none], [[3, 3, 1, 0], none, none]])
    rng = np.random.default_rng(0)
    for seen in (True, False):
        for _ in range(50):
            texts, said = words_data.sentences(things, rng, seen=seen)
            assert words_data.true_of(said, things).diagonal().all()
            assert {word for text in texts for word in text.lower().split()} <= set(words_data.WORDS)
            assert not any(name in text for text in texts for name in UNKNOWN)
    says_nothing = words_data.SAYS_NOTHING
    said = torch.tensor([[0, 1, 0, 1], [0, says_nothing, says_nothing, 0], [2, 1, says_nothing, says_nothing]])
    # A large golden bell on the left; a small golden thing; an iron bell, of two things each of which is one of that.
    assert words_data.true_of(said, things).tolist() == [[True, False, False], [False, False, False]]
    assert words_data.sentence([0, 1, 0, 1], rng, seen=True).endswith("large golden bell on the left")
