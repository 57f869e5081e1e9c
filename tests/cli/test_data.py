import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import avcore.cli.data
from avcore.cli import main
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.registry import Registry
from avcore.specs import BackboneSpec, ClipSettings, DatasetSpec, HeadSpec, TaskSpec
from avcore.tasks import Clip, Task, Windows


@dataclass(frozen=True, kw_only=True)
class FolderConfig(ClipSettings):
    """Settings of the reader below."""

    segments: int = 2


class Folder:
    """Every picture of ``<root>/<split>`` is a clip of two segments."""

    segments = 2
    windows = Windows(length=0.5, margin=0.6)
    splits = ("train", "test")

    def __init__(self, config: FolderConfig, root: Path, task: Task) -> None:
        if not (root / "train").is_dir():
            raise AVCoreError(f"{root} has no folder 'train'.")
        self.config, self.root = config, root

    def clips(self, split: str) -> Sequence[Clip]:
        pictures = sorted((self.root / split).glob("*.png"))
        return [
            Clip(
                name=path.stem,
                frames=(path, path),
                audio=None,
                seconds=self.config.clip_seconds,
                group=path.stem.split("_")[0],
            )
            for path in pictures
        ]

    def target(self, clip: Clip) -> dict[str, torch.Tensor]:
        return {"mask": torch.zeros(2, 5, 7)}


class Nothing(Task):
    score = "none"


@hookimpl
def avcore_tasks() -> list[TaskSpec]:
    return [TaskSpec(name="looking", build="unused:unused", head="plain")]


@hookimpl
def avcore_backbones() -> list[BackboneSpec]:
    return [BackboneSpec(name="eye", build="unused:unused", presets={"eye_tiny": {}})]


@hookimpl
def avcore_heads() -> list[HeadSpec]:
    return [HeadSpec(name="plain", build="unused:unused")]


@hookimpl
def avcore_datasets() -> list[DatasetSpec]:
    return [DatasetSpec(name="folder", build="unused:unused", config=FolderConfig, tasks=("looking",))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, names in {"train": ["cat_1", "cat_2", "dog_1"], "test": ["dog_2"]}.items():
        (tmp_path / split).mkdir()
        for name in names:
            Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(tmp_path / split / f"{name}.png")
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Any:
    hooks = (avcore_tasks, avcore_backbones, avcore_heads, avcore_datasets)
    registry = Registry.from_modules({"looking": SimpleNamespace(**{hook.__name__: hook for hook in hooks})})
    monkeypatch.setattr(avcore.cli.data, "load_registry", lambda: registry)
    builds = {"looking": Nothing, "folder": Folder}
    for kind in (TaskSpec, DatasetSpec):
        monkeypatch.setattr(kind, "load", lambda spec: builds[spec.name])

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["data", "info", *arguments])

    return run


def test_a_data_set_is_described(call: Any, root: Path) -> None:
    result = call("looking", "--data", str(root), "--set", "data.clip_seconds=3", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["dataset"] == "folder"
    assert facts["root"] == str(root)
    assert facts["segments"] == 2
    assert facts["windows"] == {"length_s": 0.5, "margin_s": 0.6}
    assert facts["splits"]["train"] == {"clips": 3, "groups": {"cat": 2, "dog": 1}}
    assert facts["splits"]["test"]["clips"] == 1
    clip = facts["first_clip"]
    assert (clip["name"], clip["seconds"], clip["audio"]) == ("cat_1", 3.0, None)
    assert (clip["frames"]["pictures"], clip["frames"]["width"], clip["frames"]["height"]) == (2, 9, 6)
    assert clip["targets"] == {"mask": [2, 5, 7]}


def test_the_same_in_words(call: Any, root: Path) -> None:
    result = call("looking", "--data", str(root))
    assert result.exit_code == 0, result.output
    for text in ("folder for task looking", "2 segments", "3 clips", "cat 2, dog 1", "First clip: cat_1", "(2, 5, 7)"):
        assert text in result.output


def test_a_clip_of_video_and_sound_files(call: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avcore.data import media

    told = media.MediaInfo(duration_s=5.0, fps=25.0, width=320, height=240, audio_rate=44100, channels=2, frames=125)
    monkeypatch.setattr(media, "probe", lambda path: told)
    clip = Clip(name="v", frames=Path("v.mp4"), audio=Path("v.wav"), seconds=5.0)
    monkeypatch.setattr(Folder, "clips", lambda self, split: [clip])
    facts = json.loads(call("looking", "--data", str(root), "--json").output)["first_clip"]
    assert facts["frames"]["fps"] == 25.0
    assert facts["audio"] == {"file": "v.wav", **vars(told)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lookin"], "Did you mean 'looking'?"),
        (["looking", "--data", "nowhere"], "'nowhere' does not exist"),
        (["looking"], "--data PATH"),
        (["looking", "--data", "{root}/test"], "has no folder 'train'"),
        (["looking", "--data", "{root}", "--set", "data.clip_secnods=1"], "data.clip_secnods"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(call: Any, root: Path, arguments: list[str], message: str) -> None:
    result = call(*(text.format(root=root) for text in arguments))
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_an_empty_data_set_says_so(call: Any, root: Path) -> None:
    for picture in root.rglob("*.png"):
        picture.unlink()
    result = call("looking", "--data", str(root))
    assert result.exit_code == 0
    assert "no clip in any split" in result.output
