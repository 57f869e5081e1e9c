"""The demo's files: the layout of AVSBench, the same bytes every time, complete or not there."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import wave
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from avcore_demo import render as render_module
from avcore_demo.layouts import LAYOUTS
from avcore_demo.render import clips, code_digest, ensure, render
from avcore_demo.sheet import contact_sheet
from avcore_demo.truth import describe

COUNTS = {"train": 2, "val": 1, "test": 1}
SIZE = 48


@pytest.fixture(scope="module")
def s4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("s4") / "demo"
    render(root, seed=1, counts=COUNTS, layout="s4", size=SIZE)
    return root


@pytest.fixture(scope="module")
def ms3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ms3") / "demo"
    render(root, seed=1, counts=COUNTS, layout="ms3", size=SIZE)
    return root


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digests(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.suffix in {".png", ".wav", ".csv", ".json"}]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_wav(path: Path) -> None:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        assert file.getnframes() == 5 * 16000


def check_mp4(path: Path) -> None:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 40
    assert frames[0].shape == (SIZE, SIZE, 3)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].rate == 16000
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(samples) >= 5 * 16000
    assert abs(samples).max() > 0.01


def test_the_layout_of_s4(s4: Path) -> None:
    rows = table(s4 / "Single-source" / "s4_meta_data.csv")
    assert list(rows[0]) == ["name", "start_time", "category", "split"]
    assert [row["split"] for row in rows] == ["train", "train", "val", "test"]
    data = s4 / "Single-source" / "s4_data"
    made = {name: clip for name, _, clip in clips(seed=1, counts=COUNTS, layout="s4")}
    for row in rows:
        name, below = row["name"], Path(row["split"]) / row["category"]
        assert len(name) == 11
        assert row["category"] == made[name].category
        numbers = range(1, 6)
        frames = data / "visual_frames" / below / name
        assert {path.name for path in frames.iterdir()} == {f"{name}_{n}.png" for n in numbers}
        masks = data / "gt_masks" / below / name
        masked = (1,) if row["split"] == "train" else numbers
        assert {path.name for path in masks.iterdir()} == {f"{name}_{n}.png" for n in masked}
        for number in masked:
            with Image.open(masks / f"{name}_{number}.png") as mask:
                assert mask.mode == "1"
                assert (np.asarray(mask) == made[name].sounding_mask(number - 1 / 16, SIZE)).all()
        with Image.open(frames / f"{name}_3.png") as frame:
            assert frame.mode == "RGB"
            assert (np.asarray(frame) == made[name].frame(2 + 15 / 16, SIZE)).all()
        check_wav(data / "audio_wav" / below / f"{name}.wav")
        video = data / "videos" / below / f"{name}.mp4"
        if row["split"] == "train":
            assert not video.exists()
        else:
            check_mp4(video)


def test_the_layout_of_ms3(ms3: Path) -> None:
    rows = table(ms3 / "Multi-sources" / "ms3_meta_data.csv")
    assert list(rows[0]) == ["name", "split"]
    data = ms3 / "Multi-sources" / "ms3_data"
    for row in rows:
        name = row["name"]
        frames = data / "visual_frames" / name
        assert {path.name for path in frames.iterdir()} == {f"{name}.mp4_{n}.png" for n in range(1, 6)}
        masks = data / "gt_masks" / row["split"] / name
        assert {path.name for path in masks.iterdir()} == {f"{name}_{n}.png" for n in range(1, 6)}
        for path in masks.iterdir():
            with Image.open(path) as mask:
                assert mask.mode == "P"
                assert set(np.unique(np.asarray(mask))) == {0, 255}
                assert np.asarray(mask.convert("RGB")).max() == 255
        check_wav(data / "audio_wav" / row["split"] / f"{name}.wav")
        assert (data / "videos" / row["split"] / f"{name}.mp4").exists() == (row["split"] != "train")


def test_objects_say_what_is_true_in_each_second(ms3: Path) -> None:
    record = json.loads((ms3 / "objects.json").read_text())
    assert (record["layout"], record["size"], record["seed"]) == ("ms3", SIZE, 1)
    made = {name: (split, clip) for name, split, clip in clips(seed=1, counts=COUNTS, layout="ms3")}
    for name, entry in record["clips"].items():
        split, clip = made[name]
        assert entry == {"split": split, **json.loads(json.dumps(describe(clip, SIZE)))}


def test_rendering_again_gives_the_same_bytes(s4: Path, tmp_path: Path) -> None:
    render(tmp_path / "again", seed=1, counts=COUNTS, layout="s4", size=SIZE, workers=1)
    assert digests(tmp_path / "again") == digests(s4)


def test_another_seed_gives_other_clips() -> None:
    first = {name for name, _, _ in clips(seed=1, counts={"train": 50}, layout="s4")}
    second = {name for name, _, _ in clips(seed=2, counts={"train": 50}, layout="s4")}
    assert len(first) == 50
    assert not first & second


def test_a_larger_set_begins_with_the_smaller() -> None:
    few = [name for name, _, _ in clips(seed=1, counts={"train": 3}, layout="s4")]
    many = [name for name, _, _ in clips(seed=1, counts={"train": 5}, layout="s4")]
    assert many[:3] == few


def test_progress_is_reported(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    render(tmp_path / "x", seed=2, counts={"train": 3}, layout="s4", size=32, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="mine"):
        render(tmp_path / "mine", seed=1, counts={"train": 1}, layout="s4", size=32)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path, layout="s4", size=32, counts={"train": 3}, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"layout": "s5"}, "s5"),
        ({"size": 33}, "33"),
        ({"counts": {"dev": 1}}, "dev"),
        ({"counts": {"train": 0}}, "one clip"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict[str, object], word: str) -> None:
    settings = {"layout": "s4", "size": 32, "counts": {"train": 1}} | change
    with pytest.raises(ValueError, match=word):
        ensure(tmp_path, **settings)  # type: ignore[arg-type]


def test_ensure_renders_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"layout": "s4", "size": 32, "seed": 3, "counts": {"train": 1}}
    root = ensure(tmp_path, **settings)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(render_module, "_render_all", lambda *_: pytest.fail("rendered again"))
        assert ensure(tmp_path, **settings) == root  # type: ignore[arg-type]
    other = ensure(tmp_path, **(settings | {"seed": 4}))  # type: ignore[arg-type]
    assert other != root
    with monkeypatch.context() as patch:
        patch.setattr(render_module, "code_digest", lambda layout: "another world")
        assert ensure(tmp_path, **settings) not in {root, other}  # type: ignore[arg-type]


def _ensure(cache: str) -> tuple[str, int]:
    root = ensure(Path(cache), layout="ms3", size=32, seed=5, counts={"train": 4}, workers=1)
    return str(root), len(list(root.rglob("*.png")))


def test_two_processes_may_ensure_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        (first, files), (second, also) = pool.map(_ensure, [str(tmp_path)] * 2, chunksize=1)
    assert first == second
    assert files == also == 4 * 10
    assert [str(path) for path in tmp_path.iterdir()] == [first]


def test_who_comes_second_keeps_what_is_there(tmp_path: Path) -> None:
    def overtake(done: int, total: int) -> None:
        if done == total:
            (tmp_path / "root").mkdir()
            (tmp_path / "root" / "first.txt").write_text("first")

    with pytest.raises(FileExistsError, match="appeared"):
        render(tmp_path / "root", seed=1, counts={"train": 1}, layout="s4", size=32, progress=overtake)
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "first.txt"]


def test_the_contact_sheet(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.png", clips=3, size=32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 38, 2 * 38)


def test_another_layout_leaves_the_files_of_one_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest("s4")
    assert len({code_digest(layout) for layout in LAYOUTS}) == len(LAYOUTS)
    monkeypatch.setitem(LAYOUTS, "further", LAYOUTS["ave"])
    assert code_digest("s4") == before
    monkeypatch.setitem(LAYOUTS, "s4", replace(LAYOUTS["s4"], balanced=True))
    assert code_digest("s4") != before
