import pytest

from avcore.data.changes import Change, dropping, split_and_change, with_dropped
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
        ("test_drop_audio-30", "test", ("audio",), "no sound in 30% of the clips"),
        ("test_drop_visual-100", "test", ("visual",), "no pictures in 100% of the clips"),
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
    ("name", "near"),
    [
        ("tset", "test"),
        ("test_mute", "test_mute_both"),
        ("test_nose", "test_noise"),
        ("test_drop_sound-50", "test_drop_audio-50"),
        ("test_drop_audio-0", "test_drop_audio-50"),
        ("test_drop_audio-101", "test_drop_audio-50"),
    ],
)
def test_an_unknown_split_gets_a_suggestion(name: str, near: str):
    with pytest.raises(AVCoreError, match=rf"no split '{name}'.*train, test.*Did you mean .*'{near}'"):
        split_and_change(name, ("train", "test"))


def test_shares_of_clips_are_drawn_for_each_clip_and_epoch():
    change = dropping({"audio": 0.3, "visual": 0.2})
    gone = [change.gone(0, 0, clip) for clip in range(2000)]
    assert {len(streams) for streams in gone} == {0, 1}
    assert sum("audio" in streams for streams in gone) == pytest.approx(600, abs=60)
    assert sum("visual" in streams for streams in gone) == pytest.approx(400, abs=60)
    assert gone == [change.gone(0, 0, clip) for clip in range(2000)]
    assert gone != [change.gone(0, 1, clip) for clip in range(2000)]
    assert gone != [change.gone(1, 0, clip) for clip in range(2000)]


@pytest.mark.parametrize("stream", ["audio", "visual"])
def test_who_has_nothing_at_a_small_share_has_nothing_at_a_larger_one(stream: str):
    few, many, all_ = (
        {clip for clip in range(200) if dropping({stream: share}).gone(0, 0, clip)} for share in (0.2, 0.5, 1.0)
    )
    assert few < many < all_ == set(range(200))


def test_a_grid_of_shares_stands_behind_splits_that_are_unchanged():
    assert with_dropped(["test", "val_noise"], ["visual"], ("val", "test")) == [
        "test",
        *(f"test_drop_visual-{percent}" for percent in (25, 50, 75, 100)),
        "val_noise",
    ]
