"""k clips of each class in train, the rest of the data whole."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ave_files import make_ave
from llp_files import make_files

import avcore_avar
import avcore_ave
import avcore_fewshot
from avcore.config import resolve_config
from avcore.errors import DataError
from avcore.registry import Registry
from avcore.tasks import Clip
from avcore.testing.backbones import ToyBackbones
from avcore.testing.texts import ToyTexts
from avcore_fewshot.config import FewAVEConfig, FewLLPConfig, Shots
from avcore_fewshot.datasets import FewAVEClips, FewLLPClips, few

CLIPS = [
    Clip(name=f"{number}", frames=Path("x"), audio=None, seconds=1.0, group="abac"[number % 4]) for number in range(40)
]


def named(settings: Shots) -> list[str]:
    return [clip.name for clip in few(CLIPS, settings)]


def test_the_first_of_each_class_in_their_order() -> None:
    assert named(Shots(shots=2, choose="first")) == ["0", "1", "2", "3", "5", "7"]
    assert named(Shots(shots=0)) == []
    assert len(named(Shots(shots=100))) == 40


def test_the_protocol_says_which() -> None:
    for protocol, choose in (("clean", "seed"), ("paper", "first")):
        resolved = resolve_config(
            Registry.from_modules(
                {
                    "ave": avcore_ave,
                    "avar": avcore_avar,
                    "few": avcore_fewshot,
                    "toys": ToyBackbones(),
                    "texts": ToyTexts(),
                }
            ),
            task="fewshot-ave",
            prompts="none",
            fusions="none",
            visual="toy_shared",
            text="toy_text",
            options={"protocol": protocol},
            need_data=False,
        )
        assert resolved.config.data.settings.choose == choose


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
    first = reader.clips("test")[0]
    assert [reader.classes[place] for place in reader.target(first)["labels"].nonzero()[:, 0]] == sorted(
        ("Dog", "Cat"), key=reader.classes.index
    )
    (told,) = (note for note in reader.notes() if "fewer than 4 clips" in note)
    assert told.endswith("Dog (0); Cat (1) and 20 more.")  # of 25 classes
