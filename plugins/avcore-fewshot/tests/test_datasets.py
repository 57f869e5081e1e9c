"""k clips of each class in train, the rest of the data whole."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ave_files import make_ave
from llp_files import make_files

import avcore_avar
import avcore_ave
import avcore_avvp
import avcore_fewshot
from avcore.config import RunConfig, resolve_config
from avcore.errors import AVCoreError, DataError
from avcore.registry import Registry
from avcore.tasks import Clip
from avcore.testing.backbones import ToyBackbones
from avcore.testing.texts import ToyTexts
from avcore_avar.task import AVARTask
from avcore_fewshot.config import FewAVEConfig, FewLLPConfig, Shots
from avcore_fewshot.datasets import FewAVEClips, FewLLPClips, few

DATASETS = {spec.name.removeprefix("fewshot-"): spec for spec in avcore_fewshot.avcore_datasets()}
CLIPS = [
    Clip(name=f"{number}", frames=Path("x"), audio=None, seconds=1.0, group="abac"[number % 4]) for number in range(40)
]


def named(settings: Shots) -> list[str]:
    return [clip.name for clip in few(CLIPS, settings)]


def test_the_first_of_each_class_in_their_order() -> None:
    assert named(Shots(shots=2, choose="first")) == ["0", "1", "2", "3", "5", "7"]
    assert len(named(Shots(shots=100))) == 40


def resolved(**given: Any) -> RunConfig:
    return resolve_config(
        Registry.from_modules(
            {
                "ave": avcore_ave,
                "avar": avcore_avar,
                "avvp": avcore_avvp,
                "few": avcore_fewshot,
                "toys": ToyBackbones(),
                "texts": ToyTexts(),
            }
        ),
        **{"task": "fewshot", **given},
        prompts="none",
        fusions="none",
        visual="toy_shared",
        text="toy_text",
    ).config


def test_the_protocol_says_which() -> None:
    for protocol, choose in (("clean", "seed"), ("paper", "first")):
        config = resolved(task="fewshot-ave", options={"protocol": protocol}, need_data=False)
        assert config.data.settings.choose == choose


def opened(name: str, root: Path, **given: Any) -> Any:
    config = resolved(data=root, **given)
    return DATASETS[name].load()(config.data.settings, root, AVARTask(config.task_options))


def make_folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(4):
            (root / name / f"{number}.mp4").touch()
    return root


def test_one_task_takes_clips_of_any_data_set_by_its_layout(tmp_path: Path) -> None:
    (tmp_path / "ave").mkdir()
    made = {
        "ave-cls": make_ave(tmp_path / "ave"),
        "llp-cls": make_files(tmp_path / "llp"),
        "own-folders": make_folders(tmp_path / "own", "Vögel", "a, b"),
    }
    for name, root in made.items():
        assert resolved(data=root).data.dataset == f"fewshot-{name}"
        reader = opened(name, root)
        target = reader.target(reader.clips("train")[0])
        assert {key: (value.shape, value.dtype) for key, value in target.items()} == {"label": ((), torch.int64)}
        assert resolved(data=root).task_options.classes == reader.classes


@pytest.mark.parametrize("task", ["fewshot-ave-cls", "fewshot-llp-cls"])
def test_the_names_of_the_published_columns_are_the_same_task(task: str) -> None:
    assert resolved(task=task, need_data=False).task == "fewshot"


def test_what_no_class_can_be_learned_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        AVCoreError, match=r"shots must be 1 or more, not 0: .*eval --zero-shot.* \(--set data.shots=0\)"
    ):
        resolved(data=make_folders(tmp_path / "two", "a", "b"), sets=["data.shots=0"])
    with pytest.raises(DataError, match="has only folder 'alone' with videos; two classes are needed at least"):
        opened("own-folders", make_folders(tmp_path / "one", "alone"))


def test_fewer_clips_than_shots_are_all_taken_and_told(tmp_path: Path) -> None:
    reader = opened(
        "own-folders", make_folders(tmp_path, "Vögel", "a, b"), sets=["data.shots=5", "data.fractions=[1,0,0]"]
    )
    assert len(reader.clips("train")) == 8
    assert "Classes of which train has fewer than 5 clips: Vögel (4); a, b (4)." in reader.notes()


def test_or_drawn_by_a_seed() -> None:
    first, again, other = (Shots(shots=3, choose="seed", shot_seed=seed) for seed in (0, 0, 1))
    assert named(first) == named(again) != named(other)
    groups = [clip.group for clip in few(CLIPS, first)]
    assert sorted(groups) == [*"aaabbbccc"]
    assert [int(name) for name in named(first)] == sorted(int(name) for name in named(first))


def test_clips_of_ave_have_the_class_of_their_event(tmp_path: Path) -> None:
    reader = FewAVEClips(FewAVEConfig(shots=1, choose="first"), make_ave(tmp_path))
    assert [clip.name for clip in reader.clips("train")] == ["clip0", "clip1"]
    assert len(reader.clips("test")) == 3
    assert [int(reader.target(clip)["label"]) for clip in reader.clips("test")] == [0, 1, 0]
    wrong = SimpleNamespace(classes=("Truck", "Bark"))
    with pytest.raises(DataError, match="leave that setting out"):
        FewAVEClips(FewAVEConfig(), reader.root, wrong)  # type: ignore[arg-type]


def test_of_llp_only_clips_of_one_class_train(tmp_path: Path) -> None:
    reader = FewLLPClips(FewLLPConfig(shots=4), make_files(tmp_path / "llp"))
    assert [clip.name for clip in reader.clips("train")] == ["bbbbbbbbbbb_5_15"]
    both = reader.clips("test")[0]
    assert both.info["labels"] == ("Dog", "Cat")
    assert int(reader.target(both)["label"]) == reader.classes.index("Dog") < reader.classes.index("Cat")
    (told,) = (note for note in reader.notes() if "fewer than 4 clips" in note)
    assert told.endswith("Dog (0); Cat (1) and 20 more.")  # of 25 classes
