"""Each sample at its time, and the right length, whatever the container says or leaves out."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from timed import FAULTS, RATE, add_pictures, bursts, given, heard, mux_pictures, numbers, overlay, pieces

from avcore.data.media import check_video, decode_audio, decode_frames, probe, sound_gaps
from avcore.data.verify import verify
from avcore.tasks import Clip, Dataset


class Pipe:
    """A place to write to, to which nobody can come back."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> int:
        self.content += data
        return len(data)


def write_sound(path: Path, samples_S: np.ndarray, at: Callable[[int], float | None], codec: str = "pcm_s16le") -> Path:
    """Sound, and grey pictures from 0 s on at 10 Hz."""
    with av.open(str(path), "w") as target:
        video, audio = add_pictures(target), target.add_stream(codec, rate=RATE, layout="mono")
        mux_pictures(target, video, len(samples_S) // (RATE // 10))
        for frame in pieces(samples_S, RATE, at):
            target.mux(audio.encode(frame))
        target.mux(audio.encode(None))
    return path


# --------------------------------------------------------------------------------------------------------------------
# Sound


def with_a_hole(number: int) -> float | None:
    """Frames of 20 ms; none between 2 s and 3.5 s."""
    return None if 100 <= number < 175 else number * 0.02


def test_sound_after_a_hole_stays_at_its_time(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "gap.mkv", bursts(6), with_a_hole)
    expected = pytest.approx([0.2, 1.2, 4.2, 5.2], abs=0.001)
    decoded = decode_audio(path, rate=RATE, seconds=6.0)
    assert heard(decoded) == expected
    assert not decoded[RATE * 2 + 40 : RATE * 7 // 2 - 40].any()
    assert heard(decode_audio(path, rate=RATE, start=3.0, seconds=3.0)) == pytest.approx([1.2, 2.2], abs=0.001)
    assert heard(decode_audio(overlay(path, 6.0), rate=RATE, seconds=6.0)) == expected


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "aac"), ("ts", "aac"), ("flv", "aac"), ("mkv", "libopus"), ("mp4", "libmp3lame")]
)
def test_packets_that_are_missing_leave_the_others_where_they_are(tmp_path: Path, suffix: str, codec: str) -> None:
    found = {}
    for lost in ((), (2.1, 3.6)):
        path = tmp_path / f"{len(lost)}.{suffix}"
        with av.open(str(path), "w") as target:
            audio = target.add_stream(codec, rate=48000, layout="mono")
            resampler = av.AudioResampler(format=audio.format.name)
            frames = [each for frame in pieces(bursts(6, 48000), 48000, lambda k: k / 150) for each in
                      resampler.resample(frame)]  # fmt: skip
            for packet in [packet for frame in [*frames, None] for packet in audio.encode(frame)]:
                if not lost or not lost[0] < float(packet.pts * packet.time_base) < lost[1]:
                    target.mux(packet)
        found[lost] = heard(decode_audio(path, rate=RATE, seconds=6.0))
    whole = found[()]
    assert len(whole) == 6
    assert found[2.1, 3.6] == pytest.approx([*whole[:2], *whole[4:]], abs=0.001)


def test_one_lost_frame_is_a_hole_too(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "lost.mkv", bursts(4), lambda number: None if number % 50 == 40 else number * 0.02)
    assert heard(decode_audio(path, rate=RATE, seconds=4.0)) == pytest.approx([0.2, 1.2, 2.2, 3.2], abs=0.001)


def test_sound_that_overlaps_is_trimmed(tmp_path: Path) -> None:
    path, samples_S = tmp_path / "overlap.mkv", bursts(4)
    with av.open(str(path), "w") as target:
        audio = target.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for first, last in ((0.0, 1.6), (1.5, 1.52), (1.55, 4.0)):
            piece = np.ascontiguousarray(samples_S[None, round(first * RATE) : round(last * RATE)])
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, round(first * RATE), Fraction(1, RATE)
            target.mux(audio.encode(frame))
        target.mux(audio.encode(None))
    assert heard(decode_audio(path, rate=RATE, seconds=4.0)) == pytest.approx([0.2, 1.2, 2.2, 3.2], abs=0.001)


def test_sound_begins_where_it_begins(tmp_path: Path) -> None:
    late = write_sound(tmp_path / "late.mkv", bursts(2), lambda number: number * 0.02 + 0.155)
    soon = write_sound(tmp_path / "soon.mkv", bursts(2), lambda number: None if number < 5 else number * 0.02)
    # A telephone's: one frame at once, the others after 155 ms.
    phone = write_sound(tmp_path / "phone.mkv", bursts(2), lambda number: number * 0.02 + (0.155 if number else 0.0))
    for path, begin in ((late, 0.155), (soon, 0.0), (phone, 0.155)):
        for heard_in in (path, overlay(path, 2.0)):
            found = heard(decode_audio(heard_in, rate=RATE, seconds=2.0))
            assert found == pytest.approx([0.2 + begin, 1.2 + begin], abs=0.0015)


def test_times_that_tremble_do_not_cut_sound_to_pieces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tremble = rng.integers(-4, 5, 200) / 1000
    steady = (9000 * np.sin(2 * np.pi * 300 * np.arange(4 * RATE) / RATE)).astype(np.int16)
    path = write_sound(tmp_path / "live.mkv", steady, lambda number: max(0.0, number * 0.02 + tremble[number]))
    decoded = decode_audio(path, rate=RATE, seconds=3.5).astype(int)
    # A sine of that height moves by 1060 from sample to sample. It may be put right once.
    assert np.count_nonzero(np.abs(np.diff(decoded)) > 1300) <= 2


def test_a_clock_that_begins_anew_loses_no_sound(tmp_path: Path) -> None:
    parts = []
    for part in range(2):
        with av.open(str(tmp_path / f"{part}.ts"), "w") as target:
            audio = target.add_stream("aac", rate=RATE, layout="mono")
            for frame in pieces(bursts(3), RATE, lambda number: number * 0.02):
                for resampled in av.AudioResampler(format="fltp").resample(frame):
                    target.mux(audio.encode(resampled))
            target.mux(audio.encode(None))
        parts.append((tmp_path / f"{part}.ts").read_bytes())
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    assert len(heard(decode_audio(path, rate=RATE, seconds=7.0))) == 6
    assert probe(path).duration_s == pytest.approx(6.0, abs=0.3)


def test_holes_are_noted_when_a_data_set_is_verified(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "gap.mkv", bursts(6), lambda k: None if k >= 275 else with_a_hole(k))
    assert sound_gaps(path, seconds=6.0) == [pytest.approx((2.0, 3.5), abs=0.002), pytest.approx((5.5, 6.0), abs=0.002)]
    assert sound_gaps(path, start=3.0, seconds=2.0) == [pytest.approx((3.0, 3.5), abs=0.002)]

    class OneClip(Dataset):
        segments = 6

        def target(self, clip: Clip) -> dict[str, torch.Tensor]:
            return {}

    task: Any = SimpleNamespace(is_empty=lambda target: False)
    clip = Clip(name="gap", frames=path, audio=None, start=0.0, seconds=6.0)
    ((found,),) = verify(OneClip(), [("train", clip)], task)
    assert found.text == f"{path} has no sound from 2.0 to 3.5 s, 5.5 to 6.0 s: silence stands there."
    assert not found.defect


@given
def test_a_hole_of_three_seconds() -> None:
    path = FAULTS / "sound-with-a-hole" / "gap.mp4"
    expected = pytest.approx([k + 0.2 for k in range(12) if k not in (4, 5, 6)], abs=0.001)
    assert heard(decode_audio(path, rate=48000, seconds=12.0), 48000) == expected


# --------------------------------------------------------------------------------------------------------------------
# Lengths that are not stated


def piped_wav(samples_S: np.ndarray, riff: int, data: int, before: bytes = b"") -> bytes:
    form = np.array([1, 1], "<u2").tobytes() + np.array([RATE, 2 * RATE], "<u4").tobytes()
    form += np.array([2, 16], "<u2").tobytes()
    sizes = [np.array([size], "<u4").tobytes() for size in (riff, len(form), data)]
    return b"RIFF" + sizes[0] + b"WAVEfmt " + sizes[1] + form + before + b"data" + sizes[2] + samples_S.tobytes()


@pytest.mark.parametrize("data", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, 0x7FFFF024])
@pytest.mark.parametrize("before", [b"", b"LIST\x04\0\0\0INFO"], ids=["", "LIST"])
def test_a_wav_file_from_a_pipe_is_read_to_its_last_sample(tmp_path: Path, riff: int, data: int, before: bytes) -> None:
    samples_S = np.random.default_rng(0).integers(1000, 9000, 3 * RATE + 77, np.int16)
    path = tmp_path / "pipe.wav"
    path.write_bytes(piped_wav(samples_S, riff, data, before))
    seconds = len(samples_S) / RATE
    assert np.array_equal(decode_audio(path, rate=RATE, seconds=seconds), samples_S)
    assert probe(path).duration_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("kind", "codec", "options"),
    [("wav", "pcm_s16le", {"rf64": "always"}), ("caf", "pcm_s16be", {}), ("au", "pcm_s16be", {}), ("flac", "flac", {})],
)
def test_sound_of_other_formats_from_a_pipe(tmp_path: Path, kind: str, codec: str, options: dict[str, str]) -> None:
    pipe = Pipe()
    with av.open(pipe, "w", format=kind, options=options) as target:
        audio = target.add_stream(codec, rate=RATE, layout="mono")
        for frame in pieces(bursts(3), RATE, lambda number: number * 0.02):
            target.mux(audio.encode(frame))
        target.mux(audio.encode(None))
    path = tmp_path / f"pipe.{kind}"
    path.write_bytes(pipe.content)
    assert probe(path).duration_s == pytest.approx(3.0, abs=0.001)
    assert np.array_equal(decode_audio(path, rate=RATE, seconds=3.0), bursts(3))


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("matroska", "libx264"), ("webm", "libvpx"), ("flv", "libx264"), ("h264", "libx264"), ("hevc", "libx265"),
     ("avi", "mpeg4"), ("mpegts", "libx264"), ("m4v", "mpeg4"), ("mpeg2video", "mpeg2video")],
)  # fmt: skip
def test_a_video_from_a_pipe_is_as_long_as_it_is(tmp_path: Path, kind: str, codec: str) -> None:
    pipe = Pipe()
    with av.open(pipe, "w", format=kind) as target:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        mux_pictures(target, add_pictures(target, codec, (64, 64), **options), 50)
    path = tmp_path / "pipe.video"
    path.write_bytes(pipe.content)
    found = probe(path)
    assert found.frames == 50
    # A raw stream of x265 says nothing of its rate, for which FFmpeg takes 25 Hz.
    rate = float(found.fps or 10)
    assert found.duration_s == pytest.approx(50 / rate, abs=0.11)
    shown = numbers(decode_frames(path, [(k + 0.5) / rate for k in range(50)], 8))
    assert shown == sorted(shown)
    assert len(set(shown)) >= 48


@pytest.mark.parametrize(("kind", "codec"), [("mpeg2video", "mpeg2video"), ("m4v", "mpeg4"), ("h264", "libx264")])
def test_the_first_picture_of_a_raw_stream_is_shown_at_once(tmp_path: Path, kind: str, codec: str) -> None:
    path = tmp_path / "raw.video"
    with av.open(str(path), "w", format=kind) as target:
        mux_pictures(target, add_pictures(target, codec, (64, 64)), 50)
    found = probe(path)
    assert (found.fps, found.duration_s) == (pytest.approx(10), pytest.approx(5))
    assert numbers(decode_frames(path, [(k + 0.5) / 10 for k in range(50)], 8)) == list(range(50))
    assert numbers(decode_frames(path, [2.35], 8)) == [23]
    check_video(path, start=2.0, seconds=1.0)


@given
@pytest.mark.parametrize(
    ("name", "seconds"),
    [("no-stated-length/pipe.mkv", 12), ("wav-from-a-pipe/ffmpeg_pipe.wav", 5), ("wav-from-a-pipe/zero.wav", 5),
     ("long-subtitle/sub.mkv", 12)],
)  # fmt: skip
def test_how_long_given_files_are(name: str, seconds: float) -> None:
    assert probe(FAULTS / name).duration_s == pytest.approx(seconds, abs=0.05)
    decoded = decode_audio(FAULTS / name, rate=RATE, seconds=seconds)
    assert decoded[-RATE:].any()


def fragments(path: Path, first: int) -> Path:
    """An mp4 in fragments whose clock begins late, as a piece of a live transmission has it."""
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+delay_moov+frag_discont"}) as target:
        mux_pictures(target, add_pictures(target), 50, first)
    return path


def test_fragments_of_a_transmission_are_not_cut_short(tmp_path: Path) -> None:
    path = fragments(tmp_path / "live.mp4", 25)
    assert probe(path).duration_s == pytest.approx(5.0, abs=0.1)
    assert numbers(decode_frames(path, [0.05, 2.05, 4.95], 8)) == [0, 20, 49]
    check_video(path, seconds=9.0)


def test_subtitles_do_not_lengthen_a_video(tmp_path: Path) -> None:
    path = tmp_path / "sub.mkv"
    with av.open(str(path), "w") as target, av.open(str(subtitles(tmp_path / "s.srt")), "r") as lines:
        video = add_pictures(target)
        text = target.add_stream_from_template(lines.streams.subtitles[0])
        mux_pictures(target, video, 30)
        for packet in lines.demux():
            if packet.size:
                packet.stream = text
                target.mux(packet)
    assert probe(path).duration_s == pytest.approx(3.0, abs=0.1)
    check_video(path, seconds=3.0)


def subtitles(path: Path) -> Path:
    path.write_text("1\n00:00:00,500 --> 00:01:00,000\nhello\n\n2\n00:01:00,000 --> 00:02:00,000\nbye\n")
    return path
