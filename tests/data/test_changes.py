import pytest

from avcore.data.changes import Change, split_and_change
from avcore.errors import AVCoreError

SPLITS = ("train", "val", "test", "odd_swapped")


@pytest.mark.parametrize(
    ("name", "split", "streams", "words"),
    [
        ("test", "test", (), "own sound"),
        ("test_swapped", "test", ("audio",), "another clip's sound"),
        ("val_mute_audio", "val", ("audio",), "no sound"),
        ("val_mute_visual", "val", ("visual",), "no pictures"),
        ("test_mute_both", "test", ("visual", "audio"), "neither pictures nor sound"),
        ("test_noise", "test", ("audio",), "white noise at 0 dB"),
        ("test_noise-10", "test", ("audio",), "white noise at -10 dB"),
        ("test_noise6", "test", ("audio",), "white noise at 6 dB"),
        ("odd_swapped", "odd_swapped", (), "own sound"),
        ("odd_swapped_swapped", "odd_swapped", ("audio",), "another clip's sound"),
    ],
)
def test_the_end_of_a_split_says_what_clips_are_given(name: str, split: str, streams: tuple[str, ...], words: str):
    found, change = split_and_change(name, SPLITS)
    assert (found, change.streams, change.words) == (split, streams, words)


def test_a_name_tells_its_change_without_the_data_set():
    assert split_and_change("night_noise-20") == (
        "night",
        Change(words="white noise at -20 dB", sound="noise", noise_db=-20),
    )
    assert split_and_change("night")[0] == "night"


@pytest.mark.parametrize(
    ("name", "near"), [("tset", "test"), ("test_mute", "test_mute_both"), ("test_nose", "test_noise")]
)
def test_an_unknown_split_gets_a_suggestion(name: str, near: str):
    with pytest.raises(AVCoreError, match=rf"no split '{name}'.*train, test.*Did you mean .*'{near}'"):
        split_and_change(name, ("train", "test"))
