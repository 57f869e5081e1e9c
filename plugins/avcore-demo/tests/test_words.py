"""The towers that know words: their size, what they name without training, and the script that makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from statistics import fmean

import pytest

import avcore
from avcore_demo import KNOWN, SIZE, TEXT_BACKBONE, UNKNOWN, media
from avcore_demo.makes import dress
from avcore_demo.render import ensure
from avcore_demo.world import make_clip

WEIGHTS = files("avcore_demo") / "weights"
SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = ("demo_clip.safetensors", "demo_text.safetensors", "demo_words.json")


def test_the_towers_are_small_and_their_record_is_theirs() -> None:
    assert sum(len((WEIGHTS / name).read_bytes()) for name in NAMES) <= 6 * 2**20
    record = json.loads((WEIGHTS / "demo_clip.json").read_text())
    assert record["unknown"] == list(UNKNOWN)
    for stream in ("seen", "heard"):
        assert record["accuracy"][f"{stream}_known"] > 20 * record["chance"]
        assert record["accuracy"][f"{stream}_unknown"] > 10 * record["chance"]
    words = json.loads((WEIGHTS / "demo_words.json").read_text())["model"]["vocab"]
    assert len(words) <= TEXT_BACKBONE["vocabulary"]
    assert {word for name in (*KNOWN, *UNKNOWN) for word in name.split()} < set(words)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    data = ensure(
        tmp_path_factory.mktemp("demo"), layout="fewshot", size=SIZE, counts={"train": 12, "val": 12, "test": 36}
    )
    run = avcore.zero_shot(task="fewshot", data=data, set=["data.dataset=demo-fewshot"])
    assert run.config.streams == "both"
    return run.evaluate("test")


def test_names_are_found_without_training_also_of_what_was_in_no_training(
    scores: dict[str, float],
) -> None:
    chance = 100 / (len(KNOWN) + len(UNKNOWN))
    for group in (KNOWN, UNKNOWN):
        assert fmean(scores[f"class_{name}"] for name in group) > 2.5 * chance


def test_any_words_on_a_video_need_neither_network_nor_data(tmp_path: Path) -> None:
    clip = dress(make_clip(5, "recognition", "bell"), 1)
    frames = [clip.frame(second / 2, SIZE) for second in range(6)]
    media.write_mp4(tmp_path / "bell.mp4", frames, 2, clip.waveform(16000)[:48000], 16000)
    words = ["golden flute", "wooden bell", "wooden rattle"]
    run = avcore.zero_shot(words, visual="demo_clip", text="demo_text", streams="both")
    done = run.predict(tmp_path / "bell.mp4", tmp_path / "out")
    assert all("both: wooden bell" in span.text for span in done.spans)


def test_the_script_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "pretrain_words.py"), "--out", str(tmp_path), "--threads", "1"]
    sizes = ["--steps", "2", "--clips", "4", "--test-clips", "4", "--batch", "3"]
    subprocess.run([*command, *sizes], check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {*NAMES, "demo_clip.json"}
    assert json.loads((tmp_path / "demo_words.json").read_text()) == json.loads((WEIGHTS / NAMES[2]).read_text())
    record = json.loads((tmp_path / "demo_clip.json").read_text())
    assert record["settings"]["steps"] == 2
