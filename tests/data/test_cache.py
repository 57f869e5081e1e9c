import multiprocessing
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avcore.data import cache as cache_module
from avcore.data.cache import ClipCache, cache_home, default_location
from avcore.data.media import decode_audio, decode_frames, segment_times
from avcore.data.pictures import read_picture
from avcore.errors import AVCoreError
from avcore.tasks import Clip


@pytest.fixture
def clip(videos: dict[str, Path]) -> Clip:
    return Clip(name="one", frames=videos["mp4"], audio=None, seconds=4.0, start=0.5)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded, because the cache did not hold it."""
    log: list[str] = []

    def watch(name: str) -> None:
        original = getattr(cache_module, name)

        def logged(*args: object, **kwargs: object) -> np.ndarray:
            log.append(name)
            made: np.ndarray = original(*args, **kwargs)
            return made

        monkeypatch.setattr(cache_module, name, logged)

    for name in ("decode_frames", "decode_audio", "read_picture"):
        watch(name)
    return log


def entries(root: Path) -> list[Path]:
    return sorted(root.rglob("*.npy"))


def test_entries_equal_what_is_decoded_and_are_mapped(clip: Clip, tmp_path: Path, decoded: list[str]) -> None:
    for _ in range(2):
        cache = ClipCache(tmp_path, segments=3)
        frames, audio = cache.frames(clip, 16), cache.audio(clip, 8000)
    assert decoded == ["decode_frames", "decode_audio"]
    assert isinstance(clip.frames, Path)
    assert np.array_equal(frames, decode_frames(clip.frames, segment_times(3, 0.5, 4.0), 16))
    assert np.array_equal(audio, decode_audio(clip.frames, rate=8000, start=0.5, seconds=4.0))
    assert isinstance(frames, np.memmap)
    assert isinstance(audio, np.memmap)
    assert not frames.flags.writeable


def test_several_pictures_of_a_segment_lie_in_the_middles_of_its_equal_pieces(
    clip: Clip, tmp_path: Path, decoded: list[str]
) -> None:
    cache = ClipCache(tmp_path, segments=3)
    assert isinstance(clip.frames, Path)
    expected = decode_frames(clip.frames, segment_times(6, 0.5, 4.0), 16)
    assert not (expected[0] == expected[1]).all()
    for _ in range(2):
        frames = cache.frames(clip, 16, 2)
        assert frames.shape == (3, 2, 3, 16, 16)
        assert np.array_equal(frames.reshape(6, 3, 16, 16), expected)
    assert decoded == ["decode_frames"]
    assert cache.frames(clip, 16).shape == (3, 3, 16, 16)


def test_of_picture_files_there_are_as_many_as_all_segments_take(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (4, 4), (number, 0, 0)).save(files[-1])
    clip = Clip(name="one", frames=tuple(files), audio=None, seconds=2.0)
    frames = ClipCache(tmp_path / "cache", segments=2).frames(clip, 4, 2)
    assert frames[:, :, 0, 0, 0].tolist() == [[0, 1], [2, 3]]
    with pytest.raises(AVCoreError, match="Clip one has 4 pictures, 3 each, for 2 segments"):
        ClipCache(tmp_path / "cache", segments=2).frames(clip, 4, 3)


def test_every_setting_leads_to_an_entry_of_its_own(clip: Clip, tmp_path: Path) -> None:
    cache = ClipCache(tmp_path, segments=3)
    for changed in (clip, replace(clip, start=0.0), replace(clip, seconds=3.0)):
        cache.frames(changed, 16)
        cache.audio(changed, 8000)
    cache.frames(clip, 24)
    cache.audio(clip, 16000)
    assert ClipCache(tmp_path, segments=2).frames(clip, 16).shape == (2, 3, 16, 16)
    assert len(entries(tmp_path)) == 9


def test_a_new_format_never_reads_old_entries(
    clip: Clip, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ClipCache(tmp_path, segments=3).audio(clip, 8000)
    monkeypatch.setattr(cache_module, "FORMAT", cache_module.FORMAT + 1)
    ClipCache(tmp_path, segments=3).audio(clip, 8000)
    assert len(decoded) == 2


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_file_is_decoded_again(
    make_wav: Callable[..., Path], tone: Callable[..., np.ndarray], tmp_path: Path, keep_times: bool
) -> None:
    sound = make_wav(tmp_path / "a.wav", tone(1.0, 0.0, rate=16000))
    clip = Clip(name="a", frames=(), audio=sound, seconds=1.0)
    cache = ClipCache(tmp_path / "cache", segments=1)
    assert cache.audio(clip, 16000).any()
    stat = sound.stat()
    sound.write_bytes(sound.read_bytes()[:100] + bytes(stat.st_size - 100))
    if keep_times:
        os.utime(sound, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not cache.audio(clip, 16000)[100:].any()
    assert not ClipCache(tmp_path / "cache", segments=1).audio(clip, 16000)[100:].any()


def test_the_same_content_under_another_name_is_one_entry(clip: Clip, tmp_path: Path) -> None:
    assert isinstance(clip.frames, Path)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.frames.read_bytes())
    cache = ClipCache(tmp_path / "cache", segments=3)
    cache.audio(clip, 8000)
    cache.audio(replace(clip, frames=copy), 8000)
    assert len(entries(tmp_path)) == 1


def test_unchanged_files_are_hashed_once(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SETTLED_NS", 0)
    ClipCache(tmp_path, segments=3).audio(clip, 8000)
    index = tmp_path / "sources.jsonl"
    assert len(index.read_text().splitlines()) == 1
    index.write_text("[torn by a cr\n" + index.read_text() + '["half a li')

    def forbidden(*args: object) -> None:
        raise AssertionError("the file is hashed again")

    monkeypatch.setattr(cache_module.hashlib, "file_digest", forbidden)
    ClipCache(tmp_path, segments=3).audio(clip, 8000)


def test_pictures_come_in_the_order_of_the_clip(tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.new("L", (8, 8), 50 * number).save(paths[-1])
    cache = ClipCache(tmp_path / "cache", segments=3)
    clip = Clip(name="a", frames=tuple(paths), audio=None, seconds=3.0)
    assert np.array_equal(cache.frames(clip, 4), np.stack([read_picture(path, 4) for path in paths]))
    backwards = replace(clip, frames=tuple(reversed(paths)))
    assert cache.frames(backwards, 4)[:, 0, 0, 0].tolist() == [100, 50, 0]
    with pytest.raises(AVCoreError, match="Clip a has 2 pictures for 3 segments"):
        cache.frames(replace(clip, frames=tuple(paths[:2])), 4)
    with pytest.raises(AVCoreError, match="Clip a has neither a sound file nor a video"):
        cache.audio(clip, 8000)


@pytest.mark.parametrize("damage", ["emptied", "in the header", "in the data", "before the checksum", "zeros"])
def test_a_damaged_entry_is_made_again(clip: Clip, tmp_path: Path, decoded: list[str], damage: str) -> None:
    frames = np.array(ClipCache(tmp_path, segments=3).frames(clip, 16))
    entry = entries(tmp_path)[0]
    whole = entry.read_bytes()
    length = {"emptied": 0, "in the header": 20, "in the data": len(whole) // 2, "before the checksum": len(whole) - 4}
    entry.write_bytes(whole[: length.get(damage, 128)].ljust(len(whole) if damage == "zeros" else 0, b"\0"))
    assert np.array_equal(ClipCache(tmp_path, segments=3).frames(clip, 16), frames)
    assert len(decoded) == 2
    assert entry.read_bytes() == whole


def test_a_failure_leaves_nothing_behind(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.np, "save", full)
    with pytest.raises(AVCoreError, match=r"cannot be written: No space left on device.*AVCORE_CACHE"):
        ClipCache(tmp_path, segments=3).audio(clip, 8000)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".npy", ".tmp")]


def test_a_full_disk_is_told_as_what_it_is(clip: Clip, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    cache = ClipCache(tmp_path, segments=3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # which stops a write half-way, as a full disk does
    try:
        with pytest.raises(AVCoreError, match=r"cannot be written: File too large\."):
            cache.frames(clip, 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not entries(tmp_path)


def test_a_place_that_cannot_be_used_is_named(clip: Clip, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(AVCoreError, match=rf"{place} cannot be read: Not a directory\. .*AVCORE_CACHE"):
        ClipCache(place, segments=3).frames(clip, 32)


def test_the_default_place_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVCORE_CACHE", raising=False)
    assert cache_home() == Path.home() / ".cache" / "avcore"
    assert default_location() == cache_home() / "clips"
    monkeypatch.setenv("AVCORE_CACHE", str(tmp_path))
    assert cache_home() == tmp_path
    assert ClipCache(None, segments=1).root == tmp_path / "clips"


def fill(root: Path, video: Path, start: Any, sums: Any) -> None:
    start.wait()
    total = 0
    for begin in range(20):
        clip = Clip(name="one", frames=video, audio=None, seconds=1.0, start=begin / 5)
        cache = ClipCache(root, segments=2)
        total += int(cache.frames(clip, 16).sum()) + int(cache.audio(clip, 8000).astype(int).sum())
    sums.put(total)


def test_two_processes_may_fill_one_cache(videos: dict[str, Path], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, sums = context.Barrier(2), context.Queue()
    processes = [context.Process(target=fill, args=(tmp_path, videos["mkv"], start, sums)) for _ in range(2)]
    for process in processes:
        process.start()
    totals = [sums.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert totals[0] == totals[1] != 0
    assert len(entries(tmp_path)) == 40
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("text", ["19200 requested and 4096 written", ""])
def test_a_full_disk_of_which_a_library_tells_in_its_own_words(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(text)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(AVCoreError, match=rf"clip cache {tmp_path} cannot be written: {text or 'OSError'}\. Name"):
        ClipCache(tmp_path, segments=3).frames(clip, 16)
