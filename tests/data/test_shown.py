"""The pictures that a player shows: of which stream, in which order, which way up, and of which formats."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from timed import FAULTS, RATE, add_pictures, bursts, given, heard, mux_pictures, numbers, overlay, pieces

from avcore.data.media import decode_audio, decode_frames, probe
from avcore.errors import AVCoreError
from avcore.report.video import read_frames

FPS = 25


def numbered(path: Path, kind: str, codec: str, b_frames: int) -> Path:
    """50 pictures that `numbers` reads, a key picture at each 12th."""
    with av.open(str(path), "w", format=kind) as target:
        options = {"bf": str(b_frames), "b_strategy": "0", "sc_threshold": "0"}
        video = target.add_stream(codec, rate=FPS, options=options)
        video.height, video.width, video.pix_fmt, video.bit_rate, video.gop_size = 64, 64, "yuv420p", 8_000_000, 12
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 + 4 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
    return path


@pytest.mark.parametrize(
    ("kind", "codec", "late"),
    [("avi", "libx264", 3), ("avi", "mpeg4", 1), ("avi", "mpeg2video", 1), ("mpeg", "mpeg2video", 0),
     ("h264", "libx264", 0), ("mpegts", "libx264", 0), ("asf", "mpeg4", 1), ("matroska", "libx264", 0)],
)  # fmt: skip
def test_reordered_pictures_come_once_and_in_order(tmp_path: Path, kind: str, codec: str, late: int) -> None:
    path = numbered(tmp_path / "b.video", kind, codec, 3 if codec == "libx264" else 2)
    found = probe(path)
    assert found.fps == pytest.approx(FPS)
    times = [(k + 0.5) / FPS for k in range(round(found.duration_s * FPS))]
    together = numbers(decode_frames(path, times, 8))
    assert together == numbers(list(read_frames(path, fps=Fraction(FPS), seconds=found.duration_s)))
    assert together == sorted(together)
    assert sorted(set(together)) == list(range(50))
    # Before the first picture, which is late by as much as the coder reorders, it is shown already.
    assert len(together) - 50 == together.count(0) - 1 <= late
    one_by_one = np.concatenate([decode_frames(path, [time], 8) for time in times])
    assert numbers(one_by_one) == together


@pytest.mark.parametrize(
    ("kind", "codec", "b_frames", "late"),
    [("avi", "libx264", 0, 0), ("avi", "libx264", 3, 2), ("avi", "mpeg4", 2, 1), ("asf", "mpeg4", 2, 1)],
)
def test_pictures_are_shown_when_ffmpegs_programs_show_them(
    tmp_path: Path, kind: str, codec: str, b_frames: int, late: int
) -> None:
    path = numbered(tmp_path / "b.video", kind, codec, b_frames)
    found = probe(path)
    assert (found.frames, found.duration_s) == (50, pytest.approx((50 + late) / FPS))
    times = [(k + 0.5) / FPS for k in range(50 + late)]
    assert numbers(decode_frames(path, times, 8)) == [0] * late + list(range(50))


@given
def test_an_avi_with_b_frames() -> None:
    path = FAULTS / "avi-b-frames" / "b.avi"
    found = probe(path)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    # Frame k is shown at (k + 2) / 25 s, where FFmpeg's programs show it.
    shown = list(read_frames(path, fps=Fraction(25), seconds=found.duration_s))
    assert len(shown) == len(pictures) + 2 == found.frames + 2
    for picture, frame in zip(pictures, shown[2:], strict=True):
        assert np.abs(picture.astype(int) - frame.mean(2)).mean() < 6


def two_sounds(path: Path, default: int) -> Path:
    """A silent stream and one with bursts; the one of number ``default`` is the default."""
    with av.open(str(path), "w") as target:
        video = add_pictures(target)
        sounds = [target.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for number, stream in enumerate(sounds):
            stream.disposition = Disposition.default if number == default else Disposition(0)
        mux_pictures(target, video, 20)
        for stream, samples_S in zip(sounds, [np.zeros(2 * RATE, np.int16), bursts(2)], strict=True):
            for frame in pieces(samples_S, RATE, lambda number: number * 0.02):
                target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_sound_is_heard(tmp_path: Path, suffix: str, default: int) -> None:
    path = two_sounds(tmp_path / f"two.{suffix}", default)
    for heard_in in (path, overlay(path, 2.0)):
        assert len(heard(decode_audio(heard_in, rate=RATE, seconds=2.0))) == 2 * default


@given
def test_the_default_sound_of_a_given_file() -> None:
    assert len(heard(decode_audio(FAULTS / "default-stream" / "multi_a.mp4", rate=RATE, seconds=12.0))) == 12


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_pictures_are_seen(tmp_path: Path, default: int) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as target:
        videos = [add_pictures(target) for _ in range(2)]
        for number, video in enumerate(videos):
            video.disposition = Disposition.default if number == default else Disposition(0)
        for number, video in enumerate(videos):
            mux_pictures(target, video, 10 + 10 * number)
    assert probe(path).frames == 10 + 10 * default


def tags_first(mp4: bytes) -> bytes:
    """With the box of tags, in which covers are, before the streams."""
    begin = mp4.index(b"moov") + 4
    end, place = begin - 8 + int.from_bytes(mp4[begin - 8 : begin - 4]), begin
    boxes = []
    while place < end:
        size = int.from_bytes(mp4[place : place + 4])
        boxes.append(mp4[place : place + size])
        place += size
    return mp4[:begin] + b"".join(sorted(boxes, key=lambda box: box[4:8] != b"udta")) + mp4[end:]


def write_behind_a_cover(path: Path, disposition: Disposition) -> None:
    """A white picture of 64 px as a stream of its own, then 20 numbered pictures of 48 px."""
    with av.open(str(path), "w") as target:
        cover = target.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = disposition
        video = add_pictures(target)
        white = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255, np.uint8), format="rgb24")
        target.mux(cover.encode(white))
        target.mux(cover.encode(None))
        mux_pictures(target, video, 20)


def test_a_cover_before_the_video_is_not_the_video(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    write_behind_a_cover(path, Disposition.attached_pic)
    path.write_bytes(tags_first(path.read_bytes()))
    with av.open(str(path)) as container:
        assert container.streams.video[0].width == 64
    assert (probe(path).width, probe(path).frames) == (48, 20)
    assert numbers(decode_frames(path, [0.05, 1.05], 8)) == [0, 10]
    assert next(read_frames(path, fps=Fraction(10), seconds=1)).mean() < 40


def test_a_cover_that_is_not_called_one_is_not_the_video(tmp_path: Path) -> None:
    path = tmp_path / "cover.mkv"
    write_behind_a_cover(path, Disposition.default)
    assert (probe(path).width, probe(path).frames) == (48, 20)
    assert numbers(decode_frames(path, [0.05, 1.05], 8)) == [0, 10]


def test_of_two_sounds_one_without_any_is_not_heard(tmp_path: Path) -> None:
    path = tmp_path / "empty.ts"
    with av.open(str(path), "w") as target:
        sounds = [target.add_stream("mp2", rate=RATE, layout="mono") for _ in range(2)]
        for frame in pieces(bursts(3), RATE, lambda number: number * 0.02):
            target.mux(sounds[1].encode(frame))
        target.mux(sounds[1].encode(None))
    assert len(heard(decode_audio(path, rate=RATE, seconds=3.0))) == 3


WAYS = {
    "as it is": ([1, 0, 0, 1], lambda picture: picture),
    "mirrored": ([-1, 0, 0, 1], lambda picture: picture[:, ::-1]),
    "upside down": ([1, 0, 0, -1], lambda picture: picture[::-1]),
    "turned by half": ([-1, 0, 0, -1], lambda picture: picture[::-1, ::-1]),
    "turned right": ([0, 1, -1, 0], lambda picture: np.rot90(picture, -1)),
    "turned left": ([0, -1, 1, 0], lambda picture: np.rot90(picture)),
    "transposed": ([0, 1, 1, 0], lambda picture: picture.swapaxes(0, 1)),
    "transposed the other way": ([0, -1, -1, 0], lambda picture: np.rot90(picture, 2).swapaxes(0, 1)),
}


@pytest.mark.parametrize(("matrix", "expected"), WAYS.values(), ids=WAYS)
def test_pictures_are_turned_and_mirrored(
    tmp_path: Path, matrix: list[int], expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 240, 160, 80
    path = tmp_path / "way.mp4"
    with av.open(str(path), "w") as target:
        video = add_pictures(target, size=(48, 64))
        a, b, c, d = matrix
        video.set_display_matrix(np.array([[a, b, 0], [c, d, 0], [0, 0, 1]]).ravel().tolist())
        for _ in range(3):
            target.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(video.encode(None))
    shown = next(read_frames(path, fps=Fraction(10), seconds=1))
    assert shown.shape == expected(picture).shape
    assert np.abs(shown.astype(int) - expected(picture)).mean() < 6
    decoded = decode_frames(path, [0.0], 16)[0, 0].astype(int)
    assert np.abs(decoded[[2, 2, 13, 13], [2, 13, 2, 13]] - shown[[2, 2, -3, -3], [2, -3, 2, -3], 0]).max() < 16


@given
def test_a_mirrored_video() -> None:
    path = FAULTS / "mirrored" / "mx_hflip.mp4"
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    shown = next(read_frames(path, fps=Fraction(25), seconds=1))
    assert np.abs(shown - stored[:, ::-1]).mean() < 1


# --------------------------------------------------------------------------------------------------------------------
# Formats


@pytest.mark.parametrize(("suffix", "codec"), [("mxf", "mpeg2video"), ("m4v", "mpeg4"), ("nut", "mpeg4")])
def test_formats_of_broadcasts_are_read(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w", format=suffix) as target:
        video = target.add_stream(codec, rate=25)
        video.height, video.width, video.pix_fmt = 64, 64, "yuv420p"
        mux_pictures(target, video, 50)
    assert len(set(numbers(decode_frames(path, [0.5, 1.5], 8)))) == 2


def test_dv_and_eac3_are_read(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.dv"), "w") as target:
        video = target.add_stream("dvvideo", rate=25)
        video.height, video.width, video.pix_fmt = 576, 720, "yuv420p"
        for _ in range(3):
            target.mux(video.encode(av.VideoFrame.from_ndarray(np.full((576, 720, 3), 90, np.uint8), format="rgb24")))
    assert decode_frames(tmp_path / "v.dv", [0.0], 8).mean() == pytest.approx(90, abs=3)
    assert probe(tmp_path / "v.dv").fps == pytest.approx(25)
    with av.open(str(tmp_path / "s.eac3"), "w") as target:
        audio = target.add_stream("eac3", rate=48000, layout="mono")
        for frame in pieces(bursts(2, 48000), 48000, lambda number: number / 150):
            for resampled in av.AudioResampler(format="fltp").resample(frame):
                target.mux(audio.encode(resampled))
        target.mux(audio.encode(None))
    assert len(heard(decode_audio(tmp_path / "s.eac3", rate=RATE, seconds=2.0))) == 2


def test_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.mp4"
    path.write_text("1\n00:00:00,500 --> 00:01:00,000\nhello\n\n2\n00:01:00,000 --> 00:02:00,000\nbye\n")
    with pytest.raises(AVCoreError, match=r"words\.mp4 .* of the format 'srt', which avcore does not read") as caught:
        probe(path)
    assert "damaged" not in str(caught.value)
    other = tmp_path / "list.m3u8"
    other.write_text("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nx.ts\n#EXT-X-ENDLIST\n")
    for path, name in ((other, "hls"), (other, "hls"), (tmp_path / "words.mp4", "srt")):
        with pytest.raises(AVCoreError, match=f"of the format '{name}'"):
            probe(path)
