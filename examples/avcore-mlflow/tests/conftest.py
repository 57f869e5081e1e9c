"""A few clips in the layout of AVSBench S4, and runs on them whose MLflow is a folder."""

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import avcore

SPLITS = {"train": 4, "val": 2, "test": 2}
SETTINGS = (
    *("data.segments=1", "data.clip_seconds=1.0", "data.window_seconds=0.97", "data.window_margin=1.0", "data.size=96"),
    *("head.size=96", "head.width=8", "head.projected=[]", "head.output_widths=[8, 8]", "head.tpavi_stages=[]"),
    *("train.batch_size=2", "train.log_every=2", "train.precision=fp32", "train.evaluate=[test]"),
)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise that hums or is silent."""
    root = tmp_path_factory.mktemp("s4")
    draws = np.random.default_rng(0)
    lines = ["name,label,category,split"]
    for split, count in SPLITS.items():
        for number in range(count):
            name, category = f"{split}{number}", ("cat", "dog")[number % 2]
            lines.append(f"{name},x,{category},{split}")
            frames, masks, sounds = (
                root / "s4_data" / kind / split / category for kind in ("visual_frames", "gt_masks", "audio_wav")
            )
            for folder, shape in ((frames, (96, 96, 3)), (masks, (96, 96))):
                (folder / name).mkdir(parents=True)
                pixels = draws.integers(0, 2, shape, dtype=np.uint8) * 255
                Image.fromarray(pixels).save(folder / name / f"{name}_1.png")
            sounds.mkdir(parents=True, exist_ok=True)
            with wave.open(str(sounds / f"{name}.wav"), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes((draws.normal(0, 3000, 16000)).astype("<i2").tobytes())
    (root / "s4_meta_data.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def start(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., avcore.Run]:
    """``avcore.run`` for two epochs of two steps, into ``tmp_path / "run"``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AVCORE_PLUGINS", "avcore-mlflow,avcore-avs,avcore-demo,avcore-timm")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")

    def run(*sets: str, **options: Any) -> avcore.Run:
        given = {"epochs": 2, "out": tmp_path / "run", "prompts": "segment_embedding", **options}
        return avcore.run(
            task="avs", visual="demo_vit", data=clips, fusions="none", quiet=True, set=[*SETTINGS, *sets], **given
        )

    return run
