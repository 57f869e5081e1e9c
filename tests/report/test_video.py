from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest

from avcore.data.media import decode_audio, probe
from avcore.errors import AVCoreError
from avcore.report.video import read_frames, write_video

RATE = 16000


def flashing(seconds, fps, flash_s, size=(48, 64)):
    """Black frames, white from ``flash_s`` on for 0.2 s."""
    for number in range(round(seconds * fps)):
        yield np.full((*size, 3), 255 if 0 <= number / fps - flash_s < 0.2 else 0, dtype=np.uint8)


def beeping(seconds, beep_s, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    return (20000 * np.sin(2 * np.pi * 1000 * time) * ((time >= beep_s) & (time < beep_s + 0.2))).astype(np.int16)


def first_flash(path, fps, seconds):
    bright = [frame.mean() > 128 for frame in read_frames(path, fps=Fraction(fps), seconds=seconds)]
    return bright.index(True) / fps


def first_beep(path, seconds):
    return int(np.argmax(np.abs(decode_audio(path, rate=RATE, seconds=seconds).astype(int)) > 5000)) / RATE


def test_what_is_written_can_be_read_back(tmp_path):
    path = write_video(tmp_path / "a.mp4", flashing(3, 25, 1.2), 25, (beeping(3, 1.2), RATE))
    info = probe(path)
    assert (info.width, info.height, info.fps, info.frames) == (64, 48, 25.0, 75)
    assert info.duration_s == pytest.approx(3.0, abs=0.03)
    with av.open(str(path)) as container:
        video, audio = container.streams
        assert (video.codec.name, video.codec_context.pix_fmt, audio.codec_context.name) == ("h264", "yuv420p", "aac")
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_sound_and_picture_stay_together(tmp_path):
    path = write_video(tmp_path / "a.mp4", flashing(3, 25, 1.2), 25, (beeping(3, 1.2), RATE))
    assert first_flash(path, 25, 3) == pytest.approx(1.2)
    assert first_beep(path, 3) == pytest.approx(1.2, abs=0.01)


def late_sound(path, delay_s):
    """A Matroska file whose sound, a beep at once, begins ``delay_s`` s after the pictures, which then flash."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=20)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for picture in flashing(2, 20, delay_s):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        samples = beeping(1, 0)
        for start in range(0, RATE, 1600):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1600], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start + round(delay_s * RATE), Fraction(1, RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def test_sound_that_begins_late_in_its_source_begins_late_in_the_copy(tmp_path):
    source = late_sound(tmp_path / "late.mkv", 0.7)
    copy = write_video(tmp_path / "copy.mp4", read_frames(source, fps=Fraction(20), seconds=2), 20, source)
    assert first_flash(copy, 20, 2) == pytest.approx(0.7)
    # The sound of the source itself jitters by AAC's priming of 1024 samples.
    assert first_beep(copy, 2) == pytest.approx(0.7, abs=0.07)
    assert first_beep(copy, 2) == pytest.approx(first_beep(source, 2), abs=0.01)


def test_source_without_sound_gives_a_silent_video(tmp_path):
    source = write_video(tmp_path / "mute.mp4", flashing(1, 10, 0.5), 10)
    copy = write_video(tmp_path / "copy.mp4", read_frames(source, fps=Fraction(10), seconds=1), 10, source)
    assert probe(source).audio_rate is None
    assert probe(copy).audio_rate is None
    assert probe(copy).frames == 10


def test_sound_longer_than_the_pictures_is_cut(tmp_path):
    path = write_video(tmp_path / "a.mp4", flashing(1, 10, 0.5), 10, (beeping(4, 0.5), RATE))
    assert probe(path).duration_s == pytest.approx(1.0, abs=0.03)


def test_odd_sides_get_one_more_row_and_column(tmp_path):
    path = write_video(tmp_path / "a.mp4", flashing(1, 10, 0.5, size=(47, 63)), 10)
    assert (probe(path).height, probe(path).width) == (48, 64)


@pytest.mark.parametrize("colour", [(220, 40, 40), (40, 200, 60), (30, 60, 210), (128, 128, 128)])
def test_colours_survive(tmp_path, colour):
    frames = np.full((5, 48, 64, 3), colour, dtype=np.uint8)
    path = write_video(tmp_path / "a.mp4", frames, 5)
    back = next(read_frames(path, fps=Fraction(5), seconds=1))
    assert np.abs(back.astype(int).mean((0, 1)) - colour).max() < 6


def test_reading_at_another_rate_keeps_the_time(tmp_path):
    path = write_video(tmp_path / "a.mp4", flashing(2, 30, 1.0), 30)
    assert first_flash(path, 10, 2) == pytest.approx(1.0)
    assert first_flash(path, 60, 2) == pytest.approx(1.0, abs=1 / 60)


def test_pictures_that_end_early_hold_the_last_one(tmp_path):
    path = write_video(tmp_path / "a.mp4", flashing(1, 10, 0.9), 10)
    frames = list(read_frames(path, fps=Fraction(10), seconds=3))
    assert len(frames) == 30
    assert frames[-1].mean() > 128


def test_large_pictures_are_made_smaller(tmp_path):
    path = write_video(tmp_path / "a.mp4", flashing(0.2, 10, 0.0, size=(90, 160)), 10)
    assert next(read_frames(path, fps=Fraction(10), seconds=1, long_side=80)).shape == (45, 80, 3)


def test_pictures_that_change_their_size_keep_the_first_one(tmp_path):
    pieces = []
    for number, size in enumerate([(48, 64), (96, 128)]):
        piece = tmp_path / f"{number}.ts"
        with av.open(str(piece), "w") as container:
            video = container.add_stream("libx264", rate=10)
            (video.height, video.width), video.pix_fmt = size, "yuv420p"
            for count in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 255 * number, np.uint8), format="rgb24")
                frame.pts, frame.time_base = 10 * number + count, Fraction(1, 10)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        pieces.append(piece.read_bytes())
    path = tmp_path / "call.ts"
    path.write_bytes(b"".join(pieces))
    frames = list(read_frames(path, fps=Fraction(10), seconds=2))
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    assert frames[0].mean() < 10
    assert frames[-1].mean() > 245


def test_turned_pictures_come_upright_and_pixels_square(tmp_path):
    path = tmp_path / "phone.mp4"
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:, 48:] = 255  # the right of the stored picture
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(2)
        video.set_display_rotation(90)
        for _ in range(3):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    shown = next(read_frames(path, fps=Fraction(10), seconds=1))
    assert shown.shape == (128, 48, 3)
    # Turned by 90 degrees counter-clockwise, the right is the top.
    assert shown[:24].mean() > 200
    assert shown[-64:].mean() < 50


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path):
    def breaking():
        yield from islice(flashing(1, 10, 0.5), 3)
        raise RuntimeError("drawing failed")

    with pytest.raises(RuntimeError, match="drawing failed"):
        write_video(tmp_path / "a.mp4", breaking(), 10, (beeping(1, 0), RATE))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AVCoreError, match=r"Cannot write .*file/a.mp4: "):
        write_video(tmp_path / "file" / "a.mp4", flashing(1, 10, 0.5), 10)


def test_frames_of_two_sizes_and_no_frames_are_refused(tmp_path):
    sizes = [np.zeros((48, 64, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)]
    with pytest.raises(ValueError, match="Frame 1 is"):
        write_video(tmp_path / "a.mp4", sizes, 10)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", [], 10)


def test_a_file_without_pictures_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(beeping(1, 0)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    with pytest.raises(AVCoreError, match="no pictures, only sound"):
        next(read_frames(path, fps=Fraction(10), seconds=1))
