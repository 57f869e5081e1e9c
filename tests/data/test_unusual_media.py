"""Media as the world has them: unusual files decode to what is in them, broken ones raise an error that names them."""

import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from avcore.data import container, media
from avcore.data.media import check_video, decode_audio, decode_frames, probe
from avcore.data.pictures import read_picture
from avcore.errors import AVCoreError

ROOT = Path(__file__).parents[2]


def write_pictures(
    path: Path,
    pictures: Sequence[np.ndarray],
    times_ms: Sequence[int],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    keyframes: int = 12,
) -> Path:
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size = pix_fmt, keyframes
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, time in zip(pictures, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def greys(levels: Sequence[int]) -> list[np.ndarray]:
    return [np.full((32, 48, 3), level, np.uint8) for level in levels]


def noise(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(count)]


def packets_of(path: Path, kind: str) -> list[tuple[int, int]]:
    """Place and size of each packet of the first stream of a kind."""
    with av.open(str(path)) as source:
        return [(packet.pos, packet.size) for packet in source.demux(**{kind: 0}) if packet.size]


def overwritten(path: Path, place: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[place : place + len(content)] = content
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_frame_rate_shows_each_frame_for_its_time(tmp_path: Path, suffix: str) -> None:
    path = write_pictures(tmp_path / f"v.{suffix}", greys([20, 80, 140, 200]), [0, 100, 1900, 2000])
    frames = decode_frames(path, [0.05, 0.15, 1.0, 1.85, 1.95, 2.5], 8)
    assert [round(float(frame.mean()) / 60) for frame in frames] == [0, 1, 1, 1, 2, 3]


def test_seven_point_three_frames_a_second(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video(tmp_path / "odd.mp4", fps=Fraction(73, 10), seconds=4.0, width=46, height=34)
    assert probe(path).fps == pytest.approx(7.3, rel=0.01)
    times = [0.0, 1.0, 2.0, 3.9]
    shown = [round((float(frame[:, -4:, -4:].mean()) - 20) / 4) for frame in decode_frames(path, times, 16)]
    assert shown == [int(time * 7.3) for time in times]
    check_video(path, seconds=4.0)


def test_one_frame_is_shown_all_the_time(tmp_path: Path) -> None:
    frames = decode_frames(write_pictures(tmp_path / "one.mp4", greys([90]), [0]), [0.0, 2.0, 9.0], 8)
    assert frames.mean() == pytest.approx(90, abs=3)
    assert (frames == frames[0]).all()


@pytest.mark.parametrize(("rate", "layout"), [(11025, "mono"), (22050, "stereo"), (44100, "5.1"), (96000, "7.1")])
def test_odd_rates_and_channel_counts(tmp_path: Path, tone: Callable[..., np.ndarray], rate: int, layout: str) -> None:
    samples = tone(2.0, 0.5, rate=rate)
    path = tmp_path / "odd.wav"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("pcm_s16le", rate=rate, layout=layout)
        spread = np.repeat(samples, stream.channels)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(spread, format="s16", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    decoded = decode_audio(path, rate=16000, seconds=2.0)
    assert probe(path).audio_rate == rate
    assert np.flatnonzero(np.abs(decoded.astype(int)) > 1000)[0] / 16000 == pytest.approx(0.5, abs=0.01)
    assert int(np.abs(np.fft.rfft(decoded[16000:].astype(float))).argmax()) == 440


def test_sound_that_changes_its_rate_on_the_way(
    make_wav: Callable[..., Path], tone: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    pieces = [
        make_wav(tmp_path / f"{rate}.aac", tone(1.0, 0.0, rate=rate), rate=rate, codec="aac").read_bytes()
        for rate in (44100, 32000)
    ]
    (tmp_path / "both.aac").write_bytes(b"".join(pieces))
    decoded = decode_audio(tmp_path / "both.aac", rate=16000, seconds=2.0)
    for second in (decoded[4000:12000], decoded[20000:28000]):
        assert int(np.abs(np.fft.rfft(second.astype(float))).argmax()) == 220  # 440 Hz in half a second


def test_silence_is_no_error(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video(tmp_path / "silent.mp4", seconds=1.0, onset=9.0)
    assert not decode_audio(path, rate=16000, seconds=1.0).any()


def test_the_content_counts_and_not_the_extension(
    make_video: Callable[..., Path], make_wav: Callable[..., Path], tone: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    video = make_video(tmp_path / "v.mp4", seconds=1.0)
    expected = decode_frames(video, [0.5], 8)
    assert np.array_equal(decode_frames(video.rename(tmp_path / "v.avi"), [0.5], 8), expected)
    sound = make_wav(tmp_path / "s.wav", tone(1.0, 0.0, rate=16000))
    assert decode_audio(sound.rename(tmp_path / "s.mp4"), rate=16000, seconds=1.0).any()
    with pytest.raises(AVCoreError, match=r"s\.mp4 has no pictures"):
        decode_frames(tmp_path / "s.mp4", [0.5], 8)
    Image.new("RGB", (9, 9), (50, 60, 70)).save(tmp_path / "p.png")
    assert read_picture((tmp_path / "p.png").rename(tmp_path / "p.jpg"), 4)[2, 0, 0] == 70
    with pytest.raises(AVCoreError, match=r"p\.mp4 cannot be decoded"):
        decode_frames((tmp_path / "p.jpg").rename(tmp_path / "p.mp4"), [0.5], 8)


def test_huge_declared_sizes_take_no_memory(tmp_path: Path) -> None:
    raw = write_pictures(tmp_path / "raw.avi", greys([50] * 3), [0, 40, 80], codec="rawvideo", pix_fmt="bgr24")
    header = raw.read_bytes().index(b"strf") + 12
    overwritten(raw, header, struct.pack("<ii", 30000, 30000))
    with pytest.raises(AVCoreError, match=r"raw\.avi (says it is \d+ x \d+ px|cannot be decoded)"):
        decode_frames(raw, [0.0], 8)
    picture = tmp_path / "huge.png"
    Image.new("L", (4, 4)).save(picture)
    start = picture.read_bytes().index(b"IHDR")
    data = b"IHDR" + struct.pack(">II", 60000, 60000) + picture.read_bytes()[start + 12 : start + 17]
    overwritten(picture, start, data + struct.pack(">I", zlib.crc32(data)))
    with pytest.raises(AVCoreError, match=r"huge\.png"):
        read_picture(picture, 8)


@pytest.mark.parametrize("seek_cost", [0.0, 1e9], ids=["seeking", "in sequence"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_broken_packets_are_not_concealed(
    tmp_path: Path, suffix: str, seek_cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "SEEK_COST", seek_cost)
    path = write_pictures(tmp_path / f"broken.{suffix}", noise(30), range(0, 1200, 40))
    decode_frames(path, [0.1, 0.6, 1.1], 8)
    rng = np.random.default_rng(1)
    for place, size in packets_of(path, "video")[3:14]:  # a decoder misses some damage, seldom all of it
        overwritten(path, place + size // 4, rng.bytes(size // 2))
    for read in (lambda: decode_frames(path, [0.1, 0.6, 1.1], 8), lambda: check_video(path, seconds=1.2)):
        with pytest.raises(AVCoreError, match=rf"broken\.{suffix} (is damaged|cannot be decoded|is cut short)"):
            read()


def test_damage_between_the_pictures_that_are_taken_is_found_by_looking_at_all(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "between.mp4", noise(60), range(0, 2400, 40), keyframes=4)
    rng = np.random.default_rng(1)
    for place, size in packets_of(path, "video")[28:36]:
        overwritten(path, place + size // 4, rng.bytes(size // 2))
    decode_frames(path, [0.05, 2.3], 8)
    check_video(path, seconds=0.8)
    check_video(path, start=2.0, seconds=0.4)
    with pytest.raises(AVCoreError, match=r"between\.mp4 is damaged at 1\.\d\d s"):
        check_video(path, start=0.9, seconds=1.0)


def test_broken_sound_names_the_file(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video(tmp_path / "sound.mkv", seconds=2.0)
    middle = packets_of(path, "audio")[10]
    overwritten(path, middle[0] + 20, bytes(200))
    with pytest.raises(AVCoreError, match=r"sound\.mkv"):
        decode_audio(path, rate=16000, seconds=2.0)


def test_an_absurd_rate_is_refused(make_wav: Callable[..., Path], tmp_path: Path) -> None:
    path = make_wav(tmp_path / "fast.wav", np.zeros(8000, np.int16), rate=8000)
    overwritten(path, path.read_bytes().index(struct.pack("<I", 8000)), struct.pack("<I", 268_451_456))
    with pytest.raises(AVCoreError, match=r"fast\.wav says its sound has 268451456 Hz; at most 768000"):
        decode_audio(path, rate=16000, seconds=1.0)


def test_an_absurdly_low_rate_is_refused(make_wav: Callable[..., Path], tmp_path: Path) -> None:
    path = make_wav(tmp_path / "slow.wav", np.zeros(8000, np.int16), rate=8000)
    overwritten(path, path.read_bytes().index(struct.pack("<I", 8000)), struct.pack("<I", 1))
    with pytest.raises(AVCoreError, match=r"slow\.wav says its sound has 1 Hz; at least 100"):
        decode_audio(path, rate=16000, seconds=1.0)


def riff(*pieces: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(content)) + content for name, content in pieces)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


@pytest.mark.parametrize("stated", [0, 1000])
def test_sound_that_its_header_does_not_count_is_not_left_out_silently(tmp_path: Path, stated: int) -> None:
    path = tmp_path / "short.wav"
    samples = np.random.default_rng(0).integers(-9000, 9000, 8000, np.int16).tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    path.write_bytes(riff((b"fmt ", form), (b"data", samples), (b"LIST", bytes(5000)), (b"note", bytes(3))))
    assert decode_audio(path, rate=8000, seconds=1.0).any()
    overwritten(path, path.read_bytes().index(b"data") + 4, struct.pack("<I", stated))
    with pytest.raises(AVCoreError, match=rf"short\.wav is damaged: its header counts {stated} bytes of sound"):
        decode_audio(path, rate=8000, seconds=1.0)


def test_a_second_piece_of_sound_is_not_left_out_silently(tmp_path: Path) -> None:
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    (tmp_path / "two.wav").write_bytes(riff((b"fmt ", form), *[(b"data", bytes(range(200)) * 20)] * 2))
    with pytest.raises(AVCoreError, match=r"two\.wav is damaged: its header counts 4000 bytes of sound, and more"):
        decode_audio(tmp_path / "two.wav", rate=8000, seconds=0.5)


def without_first_packet(path: Path, target: Path) -> Path:
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[1:-1]:
            packet.stream = stream
            copy.mux(packet)
    return target


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pictures_before_the_first_key_picture_are_not_replaced_silently(tmp_path: Path, suffix: str) -> None:
    times = range(0, 4000, 100)
    whole = {gap: write_pictures(tmp_path / f"{gap}.mp4", noise(40), times, keyframes=gap) for gap in (5, 20)}
    late = without_first_packet(whole[20], tmp_path / f"late.{suffix}")
    for read in (lambda: decode_frames(late, [0.5, 3.5], 8), lambda: check_video(late, seconds=4.0)):
        with pytest.raises(AVCoreError, match=rf"late\.{suffix} is damaged: its first 1\.\d s cannot be decoded"):
            read()
    soon = without_first_packet(whole[5], tmp_path / f"soon.{suffix}")
    assert decode_frames(soon, [0.2], 8).any()


def test_a_clock_that_does_not_begin_with_zero_makes_a_file_no_longer(tmp_path: Path) -> None:
    path = write_pictures(
        tmp_path / "v.mkv", greys([20, 80, 140]), [600_000, 601_000, 602_000], codec="ffv1", pix_fmt="bgr0"
    )
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.1)
    check_video(path, seconds=9.0)
    assert [round(float(frame.mean()) / 60) for frame in decode_frames(path, [0.5, 2.5], 8)] == [0, 2]


def test_times_that_reach_over_days_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.flv"
    write_pictures(path, greys([20, 80, 140]), [-200, -100, 0], codec="flv")
    with av.open(str(path)) as source:
        last = max(packet.pos for packet in source.demux(video=0) if packet.size)
    # The time of a picture in ms: three bytes, above them a fourth one.
    overwritten(path, last + 4, bytes([0, 0, 0, 0x70]))
    with pytest.raises(AVCoreError, match=r"v\.flv says it lasts \d+ hours; at most 12 are read"):
        probe(path)


def test_a_format_that_nobody_knows_is_named(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video(tmp_path / "alien.mp4", seconds=0.5)
    overwritten(path, path.read_bytes().index(b"avc1", path.read_bytes().index(b"stsd")), b"zzzz")
    with pytest.raises(AVCoreError, match=r"alien\.mp4 cannot be decoded: the format of its pictures is not known"):
        decode_frames(path, [0.0], 8)


def test_a_timestamp_gone_wrong_asks_for_no_memory(
    make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "late.mkv", seconds=1.0)
    monkeypatch.setattr(media, "origin", lambda opened: -1e12)
    assert not decode_audio(path, rate=16000, seconds=1.0).any()


def test_a_file_that_takes_forever_is_given_up(
    make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "slow.mp4", seconds=1.0)
    monkeypatch.setattr(container, "MAX_WORK", 0.0)
    for read in (lambda: decode_frames(path, [0.9], 8), lambda: decode_audio(path, rate=16000, seconds=1.0)):
        with pytest.raises(AVCoreError, match=r"slow\.mp4 takes more than 0 s to decode"):
            read()


def test_files_that_may_not_be_read_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs the tests may be allowed everything
    with pytest.raises(AVCoreError, match=r"secret\.mp4 may not be read"):
        probe(tmp_path / "secret.mp4")


def test_decoding_starts_no_thread(make_video: Callable[..., Path], tmp_path: Path) -> None:
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("needs /proc")
    path = make_video(tmp_path / "v.mp4", seconds=5.0, width=320, height=240, keyframes=100)
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen.add(len(list(tasks.iterdir())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = len(list(tasks.iterdir()))
    decode_frames(path, [0.1, 2.5, 4.9], 64)
    decode_audio(path, rate=16000, seconds=5.0)
    done.set()
    watcher.join()
    assert max(seen) <= before


def test_damaged_files_never_crash_hang_or_leak(
    videos: dict[str, Path], make_wav: Callable[..., Path], tone: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    folder = tmp_path / "media"
    folder.mkdir()
    for path in videos.values():
        (folder / path.name).write_bytes(path.read_bytes())
    write_pictures(folder / "noise.mp4", noise(60), range(0, 2400, 40))
    make_wav(folder / "tone.wav", tone(4.0, 0.0, rate=16000))
    for suffix in ("png", "jpg"):
        Image.fromarray(noise(1)[0]).save(folder / f"noise.{suffix}")
    real = Path(os.environ.get("AVCORE_TEST_DATA", "")) / "clips"
    command = [sys.executable, str(ROOT / "docs" / "benchmarks" / "fuzz_media.py"), str(folder)]
    command += [str(real)] if real.is_dir() else []
    command += ["--mutants", "140", "--decodes", "240", "--files", "14", "--at-most", "200000", "--deadline", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["fuzz"]["refused"] + result["fuzz"]["decoded"] == 140
    assert result["fuzz"]["refused"] > 40
    assert result["soak"]["growth"] <= 0.05
