import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from avcore.data import media
from avcore.data.container import opened, origin, video_stream
from avcore.data.media import decode_audio, decode_frames, probe, segment_times
from avcore.data.pictures import read_picture
from avcore.errors import AVCoreError
from avcore.testing.golden import real_data

CONTAINERS = ("mp4", "mkv", "webm", "avi")
TIMES = (0.0, 0.31, 2.55, 4.95, 0.31, 1.5, 99.0)
SHOWN = [0, 3, 25, 49, 3, 15, 49]
SHOWN_IN_AVI = [0, 2, 24, 48, 2, 14, 49]  # its writer leaves a gap of one frame after the first


def levels(frames_T3YX: np.ndarray) -> list[int]:
    """The number of each frame, read off its brightness at the bottom right."""
    return [round((float(frame[:, -4:, -4:].mean()) - 20) / 4) for frame in frames_T3YX]


@pytest.mark.parametrize("kind", CONTAINERS)
def test_probe_tells_what_a_file_holds(videos: dict[str, Path], kind: str) -> None:
    info = probe(videos[kind])
    assert (info.width, info.height, info.channels) == (48, 32, 2)
    assert info.frames == pytest.approx(50, abs=1)
    assert info.fps == pytest.approx(10, rel=0.01)
    assert info.audio_rate == 48000
    assert info.duration_s == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("seek_cost", [0.0, 1e9], ids=["seeking", "in sequence"])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_frames_are_those_shown_at_the_times(
    videos: dict[str, Path], kind: str, seek_cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "SEEK_COST", seek_cost)
    frames = decode_frames(videos[kind], TIMES, 16)
    assert frames.shape == (7, 3, 16, 16)
    assert frames.dtype == np.uint8
    assert levels(frames) == (SHOWN_IN_AVI if kind == "avi" else SHOWN)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_both_ways_to_decode_give_identical_frames(
    videos: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_sequence = decode_frames(videos[kind], TIMES, 16)
    monkeypatch.setattr(media, "SEEK_COST", 0.0)
    monkeypatch.setattr(media, "_in_sequence", None)
    assert np.array_equal(decode_frames(videos[kind], TIMES, 16), in_sequence)


def test_seeking_is_chosen_where_keyframes_lie_close(make_video: Callable[..., Path], tmp_path: Path) -> None:
    def seeks(name: str, keyframes: int) -> bool:
        with opened(make_video(tmp_path / name, keyframes=keyframes, sound=False)) as container:
            video = video_stream(container)
            assert video is not None
            ticks = [round((origin(container) + time) / video.time_base) for time in (0.1, 2.5, 4.9)]
            return media._by_seeking(container, video, ticks, 8) is not None

    assert seeks("close.mp4", keyframes=4)
    assert not seeks("one.mp4", keyframes=1000)


def test_a_file_that_asks_to_be_turned_is_turned(make_video: Callable[..., Path], tmp_path: Path) -> None:
    upright = make_video(tmp_path / "upright.mp4", sound=False)
    one, zero, minus = (number.to_bytes(4, "big", signed=True) for number in (1 << 16, 0, -(1 << 16)))
    last = zero + zero + (1 << 30).to_bytes(4, "big")
    identity = one + zero + zero + zero + one + zero + last
    quarter_clockwise = zero + one + zero + minus + zero + zero + last
    turned = tmp_path / "turned.mp4"
    content = upright.read_bytes()
    track = content.index(b"tkhd")
    turned.write_bytes(content[:track] + content[track:].replace(identity, quarter_clockwise, 1))
    frame = decode_frames(turned, [0.0], 16)[0].mean(axis=0)
    assert frame[:4, -4:].mean() < 15 < frame[:4, :4].mean(), "the dark corner moves from the left to the right"


@pytest.mark.parametrize("kind", CONTAINERS)
def test_sound_is_resampled_to_one_channel_and_stays_in_step(videos: dict[str, Path], kind: str) -> None:
    samples = decode_audio(videos[kind], rate=16000, seconds=5.0)
    assert samples.shape == (80000,)
    assert samples.dtype == np.int16
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 3000)
    assert loud[0] / 16000 == pytest.approx(1.0, abs=0.06 if kind == "avi" else 0.01)
    spectrum = np.abs(np.fft.rfft(samples[32000:48000].astype(float)))
    assert int(spectrum.argmax()) == 440
    assert np.abs(samples.astype(int)).max() == pytest.approx(0.5 * 32767, rel=0.1)


def test_sound_begins_and_ends_where_asked(videos: dict[str, Path]) -> None:
    whole = decode_audio(videos["mkv"], rate=16000, seconds=7.0)
    assert whole.shape == (112000,)
    assert not whole[80200:].any()
    part = decode_audio(videos["mkv"], rate=16000, start=0.9, seconds=1.2345)
    assert part.shape == (19752,)
    assert np.array_equal(part, whole[14400 : 14400 + 19752])


def test_a_stream_that_begins_late_is_preceded_by_silence(make_video: Callable[..., Path], tmp_path: Path) -> None:
    late = make_video(tmp_path / "late.mkv", onset=0.0, sound_start=0.7)
    samples = decode_audio(late, rate=16000, seconds=2.0)
    assert np.flatnonzero(np.abs(samples.astype(int)) > 3000)[0] / 16000 == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("codec", ["pcm_s16le", "adpcm_ima_wav"])
def test_wav_files(make_wav: Callable[..., Path], tone: Callable[..., np.ndarray], tmp_path: Path, codec: str) -> None:
    made = tone(1.0, 0.0, rate=16000, hertz=200.0)
    samples = decode_audio(make_wav(tmp_path / "tone.wav", made, codec=codec), rate=16000, seconds=1.0)
    error = (samples[:15000].astype(float) - made[:15000]).std() / made.std()
    assert error == 0 if codec == "pcm_s16le" else 0 < error < 0.05


def test_segment_times_are_middles_unless_told_otherwise() -> None:
    assert segment_times(4, 10.0, 2.0) == (10.25, 10.75, 11.25, 11.75)
    assert segment_times(2, 0.0, 2.0, offset=0.9) == (0.9, 1.9)


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "1", "RGB", "LA"])
def test_pictures_of_any_mode_are_rgb_and_square(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    picture.save(tmp_path / "p.png")
    expected = picture.convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
    assert np.array_equal(read_picture(tmp_path / "p.png", 24), np.asarray(expected).transpose(2, 0, 1))


def cut(path: Path, folder: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    short = folder / f"short{path.suffix}"
    short.write_bytes(content[: int(len(content) * share)])
    return short


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_file_cut_short_is_refused(videos: dict[str, Path], kind: str, tmp_path: Path) -> None:
    short = cut(videos[kind], tmp_path)
    for read in (lambda: decode_frames(short, [4.9], 8), lambda: decode_audio(short, rate=16000, seconds=5.0)):
        with pytest.raises(AVCoreError, match=rf"short\.{kind} .*cut short"):
            read()


def test_a_streaming_mp4_cut_short_is_refused(videos: dict[str, Path], tmp_path: Path) -> None:
    streaming = tmp_path / "streaming.mp4"
    options = {"movflags": "+faststart"}
    with av.open(str(videos["mp4"])) as source, av.open(str(streaming), "w", options=options) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    short = cut(streaming, tmp_path, 0.6)
    with pytest.raises(AVCoreError, match="cut short"):
        decode_frames(short, [4.9], 8)
    with pytest.raises(AVCoreError, match="cut short"):
        decode_audio(short, rate=16000, seconds=5.0)


def test_a_wav_or_picture_cut_short_is_refused(make_wav: Callable[..., Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-9999, 9999, 80000).astype(np.int16)
    with pytest.raises(AVCoreError, match=r"short\.wav is cut short: it should have 160\d+ bytes and has 80\d+"):
        decode_audio(cut(make_wav(tmp_path / "a.wav", noise), tmp_path), rate=16000, seconds=5.0)
    Image.fromarray(noise[:12288].reshape(64, 64, 3).astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(AVCoreError, match=r"short\.png cannot be read as a picture"):
        read_picture(cut(tmp_path / "a.png", tmp_path), 8)


def test_files_without_sound_or_pictures_say_so(make_video: Callable[..., Path], tmp_path: Path) -> None:
    silent = make_video(tmp_path / "silent.mp4", seconds=1, sound=False)
    with pytest.raises(AVCoreError, match=r"silent\.mp4 has no sound"):
        decode_audio(silent, rate=16000, seconds=1.0)
    assert probe(silent).audio_rate is None
    blind = make_video(tmp_path / "blind.mp4", seconds=1, pictures=False)
    with pytest.raises(AVCoreError, match=r"blind\.mp4 has no pictures"):
        decode_frames(blind, [0.0], 8)
    assert probe(blind).width is None


def test_what_is_no_media_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://localhost:9/a.ts\n")
    reasons = {
        "empty.mp4": "is empty",
        "text.mp4": "cannot be decoded",
        "folder.mp4": "is not a regular file",
        "missing.mp4": "does not exist",
        "list.m3u8": "cannot be decoded",
    }
    for name, reason in reasons.items():
        for read in (
            lambda path: decode_frames(path, [0.0], 8),
            lambda path: decode_audio(path, rate=16000, seconds=1.0),
            probe,
        ):
            with pytest.raises(AVCoreError, match=reason) as raised:
                read(tmp_path / name)
            assert name in str(raised.value)
    with pytest.raises(AVCoreError, match=r"text\.mp4 cannot be read as a picture"):
        read_picture(tmp_path / "text.mp4", 8)


def test_enormous_pictures_are_refused(make_video: Callable[..., Path], tmp_path: Path) -> None:
    Image.new("1", (9000, 9)).save(tmp_path / "wide.png")
    with pytest.raises(AVCoreError, match=r"wide\.png says it is 9000 x 9 px"):
        read_picture(tmp_path / "wide.png", 8)
    wide = make_video(tmp_path / "wide.mp4", seconds=0.2, width=8208, height=16, sound=False)
    with pytest.raises(AVCoreError, match=r"wide\.mp4 says it is 8208 x 16 px"):
        decode_frames(wide, [0.0], 8)


def test_files_are_closed(videos: dict[str, Path]) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    before = open_files()
    for _ in range(5):
        decode_frames(videos["mp4"], [0.0], 8)
        decode_audio(videos["mp4"], rate=16000, seconds=1.0)
    assert open_files() == before


def test_real_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = sorted(real_data("clips").glob("*.mp4"))
    assert clips
    for clip in clips:
        info = probe(clip)
        times = segment_times(3, 0.0, info.duration_s)
        frames = decode_frames(clip, times, 32)
        assert frames.std() > 5
        samples = decode_audio(clip, rate=16000, seconds=info.duration_s)
        assert np.abs(samples.astype(int)).max() > 1000
        monkeypatch.setattr(media, "SEEK_COST", 0.0)
        assert np.array_equal(decode_frames(clip, times, 32), frames), clip
        monkeypatch.undo()


def test_real_layout_of_pictures_and_sound() -> None:
    root = real_data("mini", "AVS", "Single-source", "s4_data")
    sound = next((root / "audio_wav").rglob("*.wav"))
    assert decode_audio(sound, rate=16000, seconds=5.0).any()
    picture = read_picture(next((root / "visual_frames").rglob("*.png")), 32)
    assert picture.shape == (3, 32, 32)
    assert picture.std() > 5


def test_reading_half_a_file_leaks_nothing(videos: dict[str, Path]) -> None:
    """Few bytes are lost at a time, so they are counted in the allocator's own books, not as pages of the process."""
    script = (
        "import ctypes, gc, statistics, sys\n"
        "from avcore.data.media import decode_audio, decode_frames\n"
        "names = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'.split()\n"
        "class Info(ctypes.Structure):\n"
        "    _fields_ = [(name, ctypes.c_size_t) for name in names]\n"
        "books = ctypes.CDLL(None).mallinfo2\n"
        "books.restype = Info\n"
        "held = []\n"
        "for number in range(360):\n"
        "    decode_frames(sys.argv[1], [0.1, 0.5], 8)\n"
        "    decode_audio(sys.argv[1], rate=16000, seconds=0.5)\n"
        "    if number % 60 == 59:\n"
        "        gc.collect()\n"
        "        held.append(books().uordblks)\n"
        # A buffer that happens to be held at one of the moments is no leak: what is lost is lost in every stretch.
        "print(statistics.median(after - before for before, after in zip(held[1:], held[2:])) / 60)\n"
    )
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("needs glibc")
    environment = os.environ | {"PYTHONMALLOC": "malloc"}
    command = [sys.executable, "-c", script, str(videos["mp4"])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert float(done.stdout) < 100  # bytes for each reading of pictures and sound
