import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from avcore.specs import BackboneSpec, ClipSettings, DatasetSpec, HeadSpec, TaskSpec, Windows
from avcore.tasks import Clip, Dataset, Task


@dataclass(frozen=True, kw_only=True)
class FolderConfig(ClipSettings):
    """Settings of the reader below."""

    segments: int = 2


class Folder(Dataset):
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

    def counts(self, split: str) -> dict[str, int]:
        return {"padded": len(self.clips(split)) - 1} if split == "train" else {}

    def notes(self) -> Sequence[str]:
        return ["A hash chose."]

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
def invoke(monkeypatch: pytest.MonkeyPatch) -> Any:
    hooks = (avcore_tasks, avcore_backbones, avcore_heads, avcore_datasets)
    registry = Registry.from_modules({"looking": SimpleNamespace(**{hook.__name__: hook for hook in hooks})})
    monkeypatch.setattr(avcore.cli.data, "load_registry", lambda: registry)
    builds = {"looking": Nothing, "folder": Folder}
    for kind in (TaskSpec, DatasetSpec):
        monkeypatch.setattr(kind, "load", lambda spec: builds[spec.name])

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["data", *arguments])

    return run


@pytest.fixture
def call(invoke: Any) -> Any:
    return lambda *arguments: invoke("info", *arguments)


@pytest.fixture
def verify(invoke: Any) -> Any:
    return lambda *arguments: invoke("verify", *arguments)


def write_sounds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of noise beside each picture, and a reader that takes it."""
    rng = np.random.default_rng(0)
    for picture in root.rglob("*.png"):
        Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).save(picture.with_suffix(".2.png"))
        with wave.open(str(picture.with_suffix(".wav")), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(rng.bytes(2 * 8000))

    def clips(self: Folder, split: str) -> Sequence[Clip]:
        sounds = sorted((self.root / split).glob("*.wav"))
        if not sounds:
            raise AVCoreError(f"{self.root / split} has no sound.")
        return [
            Clip(
                name=path.stem,
                frames=(path.with_suffix(".png"), path.with_suffix(".2.png")),
                audio=path,
                seconds=self.config.clip_seconds,
            )
            for path in sounds
        ]

    monkeypatch.setattr(Folder, "clips", clips)


def test_a_data_set_is_described(call: Any, root: Path) -> None:
    result = call("looking", "--data", str(root), "--set", "data.clip_seconds=3", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["dataset"] == "folder"
    assert facts["root"] == str(root)
    assert facts["segments"] == 2
    assert facts["windows"] == {"length_s": 0.5, "margin_s": 0.6}
    assert facts["splits"]["train"] == {"clips": 3, "groups": {"cat": 2, "dog": 1}, "counts": {"padded": 2}}
    assert facts["notes"] == ["A hash chose."]
    assert facts["splits"]["test"]["clips"] == 1
    clip = facts["first_clip"]
    assert (clip["name"], clip["seconds"], clip["audio"]) == ("cat_1", 3.0, None)
    assert (clip["frames"]["pictures"], clip["frames"]["width"], clip["frames"]["height"]) == (2, 9, 6)
    assert clip["targets"] == {"mask": [2, 5, 7]}
    assert (clip["inputs"], clip["types"]) == ({}, {"mask": "float32"})


def test_the_same_in_words(call: Any, root: Path) -> None:
    result = call("looking", "--data", str(root))
    assert result.exit_code == 0, result.output
    for text in ("folder for task looking", "2 segments", "3 clips", "cat 2, dog 1", "First clip: cat_1", "(2, 5, 7)"):
        assert text in result.output
    for line in ("  train         3 clips, 2 padded   2 groups: cat 2, dog 1", "A hash chose."):
        assert line in result.output.splitlines()


def test_what_the_clip_cache_takes_is_told(call: Any, root: Path) -> None:
    facts = json.loads(call("looking", "--data", str(root), "--set", "data.clip_seconds=3", "--json").output)
    pictures, sound = 2 * 3 * 224 * 224, 2 * 3 * 16000
    assert facts["cache"] == {
        "pictures_px": 224,
        "rate_hz": 16000,
        "channels": 1,
        "clip_bytes": pictures + sound,
        "bytes": 4 * (pictures + sound),
        "features_clip_bytes": None,
        "features_bytes": None,
    }
    told = "In the clip cache a clip takes 0.3 MiB, all 4 1.3 MiB: pictures of 224 px and sound of 16000 Hz.\n"
    assert told in call("looking", "--data", str(root), "--set", "data.clip_seconds=1").output


def test_clips_without_their_files_are_counted(call: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Clip(name="there", frames=(next(root.rglob("*.png")),) * 2, audio=None, seconds=1.0)
    gone = replace(there, name="gone", frames=(root / "gone.png",) * 2)
    clips = {"train": [gone, there, gone], "test": [there]}
    monkeypatch.setattr(Folder, "clips", lambda self, split: clips[split])
    facts = json.loads(call("looking", "--data", str(root), "--json").output)
    assert facts["splits"]["train"]["counts"] == {"missing": 2, "padded": 2}
    assert "missing" not in facts["splits"]["test"]["counts"]
    assert facts["first_clip"]["name"] == "there"


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


ONE_SECOND = ("--set", "data.clip_seconds=1")


def test_a_sound_data_set_is_verified(verify: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sounds(root, monkeypatch)
    result = verify("looking", "--data", str(root), *ONE_SECOND)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[:4] == [f"verifying: {done}/4  clips" for done in range(1, 5)]
    assert result.output.splitlines()[4:] == [
        f"folder for task looking, in {root}",
        "  train         3 clips, 2 padded",
        "  test          1 clips",
        "A hash chose.",
        "4 clips, 0 with defects, 0 notes",
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_defect_is_listed_with_its_file(
    verify: Any, root: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    write_sounds(root, monkeypatch)
    (root / "train" / "cat_1.wav").write_bytes(b"")
    (root / "train" / "cat_1.png").unlink()
    (root / "test" / "dog_2.png").write_bytes((root / "test" / "dog_2.png").read_bytes()[:40])
    result = verify("looking", "--data", str(root), *ONE_SECOND, "--set", f"data.workers={workers}")
    assert result.exit_code == 1
    listed = [line for line in result.output.splitlines() if line.startswith("DEFECT")]
    assert len(listed) == 3
    assert listed[0] == f"DEFECT  train, clip cat_1: {root}/train/cat_1.png does not exist."
    assert listed[1] == f"DEFECT  train, clip cat_1: {root}/train/cat_1.wav is empty (0 bytes)."
    assert f"test, clip dog_2: {root}/test/dog_2.png cannot be read as a picture" in listed[2]
    assert result.output.splitlines()[-1] == "4 clips, 2 with defects, 0 notes"


def test_findings_as_json_and_nothing_else(verify: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sounds(root, monkeypatch)
    (root / "train" / "cat_1.wav").write_bytes(b"no sound at all")
    (root / "test" / "dog_2.wav").unlink()
    result = verify("looking", "--data", str(root), *ONE_SECOND, "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert (facts["task"], facts["dataset"], facts["clips"], facts["defects"]) == ("looking", "folder", 3, 2)
    assert facts["splits"] == {"train": {"clips": 3, "groups": {}, "counts": {"padded": 2}}}
    assert facts["notes"] == ["A hash chose."]
    [unlisted, unread] = facts["findings"]
    assert unlisted == {"split": "test", "clip": "", "text": f"{root}/test has no sound.", "defect": True}
    assert unread["clip"] == "cat_1"
    assert "cat_1.wav cannot be decoded" in unread["text"]
    assert "verifying: 3/3" in result.stderr


def test_what_is_odd_is_noted_and_no_defect(verify: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sounds(root, monkeypatch)
    (root / "train" / "cat_1.2.png").write_bytes((root / "train" / "cat_1.png").read_bytes())
    with wave.open(str(root / "train" / "cat_2.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 8000))
    result = verify("looking", "--data", str(root), "--set", "data.clip_seconds=2.5")
    assert result.exit_code == 0, result.output
    notes = [line for line in result.output.splitlines() if line.startswith("note")]
    assert "note    train, clip cat_1: All 2 pictures are the same." in notes
    assert "note    train, clip cat_2: The sound is silence." in notes
    assert sum("lasts 1.0 s; the clip is to end at 2.5 s" in note for note in notes) == 4


def test_a_stream_that_is_off_is_not_looked_at(verify: Any, root: Path) -> None:
    assert verify("looking", "--data", str(root)).exit_code == 1
    result = verify("looking", "--data", str(root), "--set", "streams=visual")
    assert result.exit_code == 0, result.output


def test_a_mistake_is_not_taken_for_a_defect(verify: Any) -> None:
    assert verify("looking", "--data", "nowhere").exit_code == 2


def test_a_split_without_truth_is_a_defect(verify: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sounds(root, monkeypatch)
    monkeypatch.setattr(Nothing, "is_empty", lambda self, targets: not targets["mask"].any())
    full = {"cat_1"}
    monkeypatch.setattr(Folder, "target", lambda self, clip: {"mask": torch.full((2, 5, 7), float(clip.name in full))})
    for workers in (0, 2):
        result = verify("looking", "--data", str(root), *ONE_SECOND, "--set", f"data.workers={workers}")
        assert result.exit_code == 1, result.output
        [line] = [line for line in result.output.splitlines() if line.startswith(("DEFECT", "note"))]
        assert line.startswith("DEFECT  test: NOTHING IS IN THE TRUTH of any of its clips")
    full.add("dog_2")
    assert verify("looking", "--data", str(root), *ONE_SECOND).exit_code == 0


def test_files_of_the_truth_and_the_inputs_are_looked_at(
    verify: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sounds(root, monkeypatch)
    original = Folder.clips

    def clips(self: Folder, split: str) -> list[Clip]:
        return [replace(clip, files=(self.root / f"{clip.name}.mask",)) for clip in original(self, split)]

    def inputs(self: Folder, clip: Clip, epoch: int) -> dict[str, torch.Tensor]:
        (self.root / f"{clip.name}.words").read_bytes()
        return {}

    monkeypatch.setattr(Folder, "clips", clips)
    monkeypatch.setattr(Folder, "inputs", inputs)
    for name in ("cat_1", "cat_2", "dog_1"):
        (root / f"{name}.mask").write_text("there")
        if name != "dog_1":
            (root / f"{name}.words").touch()
    result = verify("looking", "--data", str(root), *ONE_SECOND)
    assert [line for line in result.output.splitlines() if line.startswith("DEFECT")] == [
        f"DEFECT  train, clip dog_1: {root}/dog_1.words cannot be read: No such file or directory.",
        f"DEFECT  test, clip dog_2: {root}/dog_2.mask does not exist.",
    ]


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["1.png", "2.png", "3.png", "10.png", "11.png"], "After 3.png comes 10.png: the numbers"),
        (["f_0010.png", "f_0020.png", "f_0040.png"], "After f_0020.png comes f_0040.png: the numbers"),
        (["1.png", "01.png", "2.png"], "01.png and 1.png have the same number"),
        (["8.png", "9.png", "10.png", "a_30.png"], None),
        (["cat.png", "dog.png"], None),
    ],
)
def test_gaps_between_numbered_pictures_are_noted(
    verify: Any, root: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], note: str | None
) -> None:
    (root / "frames").mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(root / "frames" / name)
    paths = (root / "frames" / names[0], root / "frames" / names[1])
    monkeypatch.setattr(Folder, "clips", lambda self, split: [Clip(name="a", frames=paths, audio=None, seconds=1.0)])
    result = verify("looking", "--data", str(root), "--set", "streams=visual")
    assert result.exit_code == 0, result.output
    notes = [line for line in result.output.splitlines() if line.startswith("note")]
    assert len(notes) == (0 if note is None else 2)  # of two splits
    assert note is None or all(note in line for line in notes)
