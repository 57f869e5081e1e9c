import csv
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from avcore.data.media import decode_audio, decode_frames, probe
from avcore.engine.files import json_text
from avcore.errors import AVCoreError
from avcore.report.predict import predict_video
from avcore.report.video import read_frames

CLIPS = Path(os.environ.get("AVCORE_TEST_DATA", "/nowhere")) / "clips"


def green_left(frame_3YX):
    """Whether the left half of a frame is painted, and the right half is not."""
    width = frame_3YX.shape[2]
    left, right = frame_3YX[1, :, 4 : width // 2 - 8], frame_3YX[1, :, width // 2 + 8 :]
    return left.mean() - right.mean() > 80


def painted_seconds(path, seconds):
    frames = decode_frames(path, [second + 0.5 for second in range(seconds)], 64)
    return [second for second, frame in enumerate(frames) if green_left(frame)]


@pytest.fixture
def predict(toy_model, toy_config, tmp_path):
    def call(video, *, model=None, out=tmp_path / "out", **options):
        return predict_video(model or toy_model(), toy_config, video, out, **options)[0]

    return call


def test_each_frame_shows_the_prediction_of_its_segment(predict, make_video):
    video = make_video(5)
    result = predict(video)
    assert painted_seconds(result.video, 5) == [1, 3]
    # The last frame of second 1 and the first of second 2.
    last, first = decode_frames(result.video, [1.95, 2.05], 64)
    assert green_left(last)
    assert not green_left(first)


def test_overlay_has_the_size_rate_length_and_sound_of_its_source(predict, make_video):
    video = make_video(5)
    source, result = probe(video), probe(predict(video).video)
    assert (result.width, result.height, result.fps, result.frames) == (160, 90, 10.0, 50)
    assert result.duration_s == pytest.approx(source.duration_s, abs=0.05)
    loud = np.abs(decode_audio(predict(video, overwrite=True).video, rate=16000, seconds=5).reshape(5, -1)).mean(1)
    assert (loud > 1000).tolist() == [False, True, False, True, False]


def test_the_model_sees_the_middle_of_each_segment_and_its_own_sound(predict, make_video, toy_model):
    model = toy_model()
    predict(make_video(5), model=model)
    (batch,) = model.batches
    red = batch.frames[0, :, 0].float().mean((-2, -1)) > 128
    assert red.tolist() == [False, True, False, True, False]
    assert batch.waveform.dtype.is_floating_point is False
    assert batch.targets == {}
    assert batch.valid.tolist() == [True]


@pytest.mark.parametrize(
    ("seconds", "segments", "clips"),
    [(10, 10, 2), (7, 7, 2), (7.4, 7, 2), (7.6, 8, 2), (5.3, 5, 1), (3, 3, 1), (0.6, 1, 1)],
)
def test_any_length_is_cut_into_segments_of_one_second(predict, make_video, toy_model, seconds, segments, clips):
    model = toy_model()
    result = predict(make_video(seconds), model=model)
    assert len(model.batches) == clips
    assert [span.start_s for span in result.spans] == list(range(segments))
    assert result.spans[-1].stop_s == pytest.approx(seconds, abs=0.05)
    expected = [second for second in (1, 3) if second < segments]
    assert painted_seconds(result.video, min(segments, int(seconds) or 1)) == expected


def test_the_rest_is_seen_in_the_last_whole_clip(predict, make_video, toy_model):
    model = toy_model()
    predict(make_video(7), model=model)
    loud = [batch.waveform.float().view(5, -1).abs().mean(-1) > 1000 for batch in model.batches]
    assert [second for second in range(5) if loud[0][second]] == [1, 3]
    # The second clip begins at 2 s, so that second 3 of the video is its second 1.
    assert [second for second in range(5) if loud[1][second]] == [1]


def test_a_short_video_is_padded_with_silence(predict, make_video, toy_model):
    model = toy_model()
    predict(make_video(2), model=model)
    (batch,) = model.batches
    assert batch.waveform[0, 2 * 16000 + 2000 :].abs().max() == 0
    assert batch.waveform[0, 16000 : 2 * 16000].abs().max() > 5000


def test_segments_carry_loudness_and_words(predict, make_video):
    result = predict(make_video(5))
    assert [span.text for span in result.spans][:2] == ["0.0 sounds", "0.5 sounds"]
    assert [span.span for span in result.spans] == ["0 to 1", "1 to 2", "2 to 3", "3 to 4", "4 to 5"]
    levels = [span.level_db for span in result.spans]
    # A sine of amplitude 12000: 20 log10(12000 / 32768 / sqrt 2) dB.
    assert levels[1] == pytest.approx(-11.7, abs=0.3)
    assert levels[4] < -60


def test_the_strip_has_a_column_for_each_segment(predict, make_video):
    result = predict(make_video(5), name="five")
    picture = np.asarray(Image.open(result.strip))
    assert result.strip.name == "five.strip.png"
    assert picture.shape[1] > 5 * 256
    # Red columns in the row of the video, green in that of the prediction.
    reddish = ((picture[..., 0] > 180) & (picture[..., 2] < 90)).sum(0) > 50
    greenish = ((picture[..., 1] > 100) & (picture[..., 0] < 120) & (picture[..., 2] < 60)).sum(0) > 50
    assert np.count_nonzero(np.diff(reddish.astype(int)) == 1) >= 2
    assert 200 < greenish.sum() < 300


def test_a_long_video_shows_evenly_spaced_columns_in_lines(predict, make_video, toy_model):
    long = predict(make_video(70, size=(36, 64), fps=5), model=toy_model(segments=10, clip_seconds=10.0))
    assert len(long.spans) == 70
    height = Image.open(long.strip).height
    short = predict(make_video(10, size=(36, 64)), model=toy_model(segments=10, clip_seconds=10.0), name="short")
    assert height == pytest.approx(6 * Image.open(short.strip).height, rel=0.1)


def test_a_webm_of_varying_rate_keeps_its_time(predict, make_webm):
    result = predict(make_webm())
    assert painted_seconds(result.video, 4) == [1, 3]
    source, written = (
        np.stack(list(read_frames(path, fps=Fraction(10), seconds=4))) for path in (make_webm(), result.video)
    )
    # The prediction darkens the right of the picture by half and leaves the moment of every change.
    assert np.abs(written[:, :, 90:, 2].mean((1, 2)) - source[:, :, 90:, 2].mean((1, 2)) / 2).max() < 8
    loud = np.abs(decode_audio(result.video, rate=16000, seconds=4).reshape(4, -1)).mean(1)
    assert (loud > 1000).tolist() == [False, True, False, True]


def test_a_slide_show_shows_every_segment(predict, make_video):
    result = predict(make_video(5, fps=0.4))
    assert probe(result.video).fps == 5
    assert painted_seconds(result.video, 5) == [1, 3]


def empty_sound(path, seconds=5):
    """A video with a stream of sound in which there is none."""
    with av.open(str(path), "w") as target:
        video = target.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 160, 90, "yuv420p"
        target.add_stream("aac", rate=16000, layout="mono")
        for _ in range(seconds * 10):
            target.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((90, 160, 3), np.uint8), format="rgb24")))
        target.mux(video.encode(None))
    return path


def test_a_model_that_only_looks_takes_an_empty_stream_of_sound(predict, toy_model, tmp_path):
    path = empty_sound(tmp_path / "empty.mkv")
    assert probe(path).audio_rate is not None
    result = predict(path, model=toy_model(listens=False))
    assert [span.level_db for span in result.spans] == [None] * 5
    assert probe(result.video).audio_rate is None
    with pytest.raises(AVCoreError, match=r"empty\.mkv has a sound stream without a single sample"):
        predict(path, name="heard")


def test_a_model_that_only_looks_takes_sound_of_an_unknown_format(predict, toy_model, tmp_path):
    path = empty_sound(tmp_path / "alien.mkv")
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    assert len(predict(path, model=toy_model(listens=False)).spans) == 5
    with pytest.raises(AVCoreError, match=r"alien\.mkv has no sound that can be decoded, and this model listens"):
        predict(path, name="heard")


def test_a_model_that_only_looks_takes_a_silent_video(predict, make_video, toy_model):
    model = toy_model(listens=False)
    result = predict(make_video(5, silent=True), model=model)
    assert model.batches[0].waveform is None
    assert probe(result.video).audio_rate is None
    assert [span.level_db for span in result.spans] == [None] * 5


@pytest.mark.parametrize(
    ("seconds", "spans"),
    [
        (5, [("0 to 5", "2 of 5 sound", [1, 3])]),
        # The last clip begins at 2 s.
        (7, [("0 to 5", "2 of 5 sound", [1, 3]), ("2 to 7", "1 of 5 sound", [3])]),
        (2, [("0 to 2", "1 of 5 sound", [1])]),
    ],
)
def test_an_answer_for_whole_clips_is_told_once_for_each(predict, make_video, whole_clips, tmp_path, seconds, spans):
    result = predict(make_video(seconds), model=whole_clips())
    assert [(span.span, span.text, span.details["at"]) for span in result.spans] == spans
    # Each second is painted with its own mask all the same.
    assert painted_seconds(result.video, seconds) == [second for second in (1, 3) if second < seconds]
    told = json.loads((tmp_path / "out" / "clip.predictions.json").read_text())
    assert told == [json.loads(json.dumps(result.to_dict()))]
    with (tmp_path / "out" / "clip.predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["prediction"], json.loads(line["at"])) for line in lines] == [(text, at) for _, text, at in spans]
    assert [float(line["level_db"]) for line in lines] == [span.level_db for span in result.spans]


def test_segments_have_a_line_each_in_the_table(predict, make_video, tmp_path):
    predict(make_video(3))
    with (tmp_path / "out" / "clip.predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["start"], line["prediction"]) for line in lines] == [
        *(("0.0", "0.0 sounds"), ("1.0", "0.5 sounds"), ("2.0", "0.0 sounds"))
    ]
    for name in ("overlay.mp4", "strip.png", "predictions.json"):
        (tmp_path / "out" / f"clip.{name}").unlink()
    with pytest.raises(AVCoreError, match=r"clip\.predictions\.csv exists already"):
        predict(make_video(3))


def test_a_silent_video_is_refused_by_a_model_that_listens(predict, make_video):
    with pytest.raises(AVCoreError, match=r"clip.mp4 has no sound that can be decoded, and this model listens"):
        predict(make_video(5, silent=True))


def test_results_are_only_replaced_on_request(predict, make_video):
    video = make_video(2)
    first = predict(video)
    content = first.video.read_bytes()
    with pytest.raises(AVCoreError, match=r"clip.overlay.mp4 exists already.*--overwrite"):
        predict(video)
    assert first.video.read_bytes() == content
    assert predict(video, overwrite=True).video == first.video
    assert predict(video, name="other").video != first.video


def test_a_strip_left_from_before_is_not_replaced_either(predict, make_video):
    video = make_video(2)
    first = predict(video)
    first.video.unlink()
    with pytest.raises(AVCoreError, match=r"clip.strip.png exists already"):
        predict(video)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"no video at all, just text" * 20, r"cannot be decoded"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(predict, tmp_path, content, words):
    path = tmp_path / "movie.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AVCoreError, match=words) as caught:
        predict(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_less_than_half_a_segment_is_too_short(predict, make_video):
    with pytest.raises(AVCoreError, match=r"clip.mp4 lasts 0.3\d s; this model needs at least 0.5 s"):
        predict(make_video(0.3))


def test_upright_videos_have_columns_wide_enough_for_captions(predict, make_video):
    picture = Image.open(predict(make_video(5, size=(160, 90))).strip)
    assert picture.width > 5 * 144


def test_the_model_keeps_its_mode(predict, make_video, toy_model):
    model = toy_model().train()
    predict(make_video(1), model=model)
    assert model.training


def test_the_result_is_plain_data(predict, make_video):
    result = predict(make_video(2))
    data = json.loads(json.dumps(result.to_dict()))
    assert data["video"] == str(result.video)
    assert data["spans"][1]["start_s"] == 1.0
    assert str(result.video) in result.summary


@pytest.mark.skipif(not CLIPS.is_dir(), reason="AVCORE_TEST_DATA names no folder with clips/")
@pytest.mark.parametrize("name", sorted(path.name for path in CLIPS.glob("*.mp4")))
def test_real_videos(predict, monkeypatch, name):
    monkeypatch.setattr("avcore.report.predict.LONG_SIDE", 160)
    source = probe(CLIPS / name)
    result = predict(CLIPS / name)
    written = probe(result.video)
    assert written.duration_s == pytest.approx(source.duration_s, abs=0.06)
    assert written.fps == pytest.approx(source.fps, rel=1e-3)
    assert written.audio_rate is not None
    assert max(written.width, written.height) <= 160
    assert len(result.spans) == round(source.duration_s)


@pytest.mark.parametrize("stem", ["n" * 245, "\u732b" * 80, "caf\udce9 #1", "-abc"])
def test_any_name_that_a_file_may_have(predict, make_video, tmp_path, stem):
    folder = tmp_path / "fol\udce9der"
    folder.mkdir()
    video = make_video(5).rename(folder / f"{stem}.mp4")
    result = predict(video)
    for made in (result.video, result.strip):
        assert made.is_file()
        assert made.name.startswith(stem[:60])
    json_text(result.to_dict()).encode(errors="backslashreplace").decode()


def test_two_long_names_do_not_become_one(predict, make_video, tmp_path):
    made = {predict(make_video(5).rename(tmp_path / f"{'n' * 240}{end}.mp4")).video for end in "ab"}
    assert len(made) == 2
