import numpy as np
import pytest
from PIL import Image

from avcore.errors import AVCoreError
from avcore.report.overlay import BACKGROUND, save_png, side_by_side, strip, waveform

RED, BLUE = (255, 0, 0), (0, 0, 255)


def frames(*colours, height=20, width=30):
    return np.stack([np.full((height, width, 3), colour, dtype=np.uint8) for colour in colours])


def test_strip_places_frames_from_left_to_right_with_a_gap():
    picture = strip(frames(RED, BLUE), height=20)
    assert picture.shape == (20, 66, 3)
    assert (picture[:, :30] == RED).all()
    assert (picture[:, 30:36] == BACKGROUND).all()
    assert (picture[:, 36:] == BLUE).all()


def test_strip_brings_frames_of_any_size_to_one_height():
    assert strip(frames(RED, height=360, width=640), height=90).shape == (90, 160, 3)
    assert strip(frames(RED, height=10, width=10), height=90).shape == (90, 90, 3)


def test_titles_stand_above_their_frames():
    picture = strip(frames(RED, BLUE, width=60), ["one", ""], height=20)
    above = picture[:-20]
    assert (above[:, :60] < 128).any()
    assert (above[:, 66:] == BACKGROUND).all()
    assert (picture[-20:, :60] == RED).all()


def test_a_title_wider_than_its_frame_does_not_reach_the_next():
    picture = strip(frames(RED, BLUE, width=40), ["a very long caption indeed", ""], height=20)
    assert (picture[:-20, 40:] == BACKGROUND).all()


def test_a_title_goes_on_over_frames_that_have_none_of_their_own():
    picture = strip(frames(RED, RED, BLUE, width=40), ["a very long caption indeed", None, "x"], height=20)
    above = picture[:-20]
    assert (above[:, 46:80] < 128).any()
    assert (above[:, 86:91] == BACKGROUND).all()
    assert (above[:, 92:] < 128).any()


@pytest.mark.parametrize(
    ("bad", "titles"),
    [(np.zeros((2, 4, 4, 3)), None), (np.zeros((4, 4, 3), np.uint8), None), (frames(RED), ["a", "b"])],
)
def test_strip_refuses_what_is_no_strip(bad, titles):
    with pytest.raises(ValueError, match=r"uint8|titles"):
        strip(bad, titles)


def test_rows_stand_below_each_other_with_labels_at_the_left():
    picture = side_by_side([("input", strip(frames(RED), height=40)), ("prediction", strip(frames(BLUE), height=40))])
    reddish, bluish = (np.argwhere((picture == colour).all(-1)) for colour in (RED, BLUE))
    assert len(reddish) == len(bluish) == 40 * 60
    assert reddish[:, 0].max() < bluish[:, 0].min()
    assert reddish[:, 1].min() == bluish[:, 1].min()
    left = picture[:, : reddish[:, 1].min()]
    assert (left[reddish[:, 0].min() : reddish[:, 0].max()] < 128).any()
    assert (picture[:4] == BACKGROUND).all()
    assert (picture[-4:] == BACKGROUND).all()


def test_a_wide_title_is_not_cut():
    narrow = [("x", strip(frames(RED), height=20))]
    assert side_by_side(narrow, "a title much wider than the strip below").shape[1] > side_by_side(narrow).shape[1]


def test_waveform_is_as_wide_as_the_strip_and_shows_where_it_is_loud():
    sound = np.zeros((2, 1000), dtype=np.int16)
    sound[1, 500:] = 20000
    picture = waveform(sound, 30, height=40)
    assert picture.shape == (40, strip(frames(RED, BLUE), height=20).shape[1], 3)
    coloured = (picture[5] != BACKGROUND).any(-1)
    assert not coloured[:36].any()
    assert not coloured[36:50].any()
    assert coloured[52:].all()


def test_waveform_of_silence_and_of_the_loudest_negative_sample():
    assert (waveform(np.zeros((1, 10), np.int16), 8, height=20)[:9] == BACKGROUND).all()
    assert (waveform(np.full((1, 10), -32768, np.int16), 8, height=20)[2] != BACKGROUND).any()


def test_png_round_trip_leaves_no_other_file(tmp_path):
    picture = strip(frames(RED, BLUE))
    path = save_png(picture, tmp_path / "new" / "strip.png")
    assert (np.asarray(Image.open(path)) == picture).all()
    assert [file.name for file in path.parent.iterdir()] == ["strip.png"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AVCoreError, match=r"Cannot write .*file/a.png: "):
        save_png(strip(frames(RED)), tmp_path / "file" / "a.png")
