"""The reader: clips, media and truth in LLP's layout."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from llp_files import make_files

from avcore.data.broken import refuse_missing
from avcore.errors import DataError
from avcore.testing.golden import real_data
from avcore_avvp.config import FEATURES, AVVPTaskConfig, LLPDataConfig
from avcore_avvp.datasets import LLP, LLPFeatures
from avcore_avvp.task import AVVPTask


def reader(root: Path, **settings: object) -> LLP:
    return LLP(LLPDataConfig(**settings), root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_files(tmp_path)


def with_video(root: Path, *names: str) -> Path:
    shutil.rmtree(root / "frame")
    (root / "video").mkdir()
    for name in names:
        (root / "video" / name).touch()
    return root


def test_clips_are_named_by_the_list_and_media_by_the_id(root: Path) -> None:
    found = reader(root)
    clips = {split: found.clips(split) for split in found.splits}
    assert [clip.name for clip in clips["test"]] == ["-dddddddddd_0_10", "eeeeeeeeeee_0_10"]
    first = clips["test"][0]
    assert first.group == "Dog, Cat"
    assert first.seconds == 10
    assert first.audio == root / "audio" / "-dddddddddd.wav"
    assert [frame.name for frame in first.frames] == [f"{number:08d}.jpg" for number in range(1, 11)]
    with pytest.raises(DataError, match="no split 'all'; it has train, val, test"):
        found.clips("all")


def test_pictures_are_those_in_the_middle_of_the_seconds(root: Path) -> None:
    folder = root / "frame" / "aaaaaaaaaaa"
    for number in range(11, 81):
        (folder / f"{number:08d}.jpg").touch()
    frames = reader(root).clips("train")[0].frames
    assert [int(frame.stem) for frame in frames] == [5 + 8 * second for second in range(10)]


def test_videos_of_any_kind_go_before_pictures_and_a_missing_one_is_named(root: Path) -> None:
    with_video(root, "aaaaaaaaaaa.mkv", "aaaaaaaaaaa.mp4", "bbbbbbbbbbb.webm", "bbbbbbbbbbb.txt", "ccccccccccc.MP4")
    found = reader(root)
    names = [clip.frames.name for split in found.splits for clip in found.clips(split)]
    assert names == ["aaaaaaaaaaa.mp4", "bbbbbbbbbbb.webm", "ccccccccccc.MP4", "-dddddddddd.mp4", "eeeeeeeeeee.mp4"]
    with pytest.raises(DataError, match=r"2 of 2 clips of split 'test' lack files.*-dddddddddd\.mp4 does not exist"):
        refuse_missing("test", found.clips("test"), visual=True, audio=True)


def test_media_lie_beside_the_lists_or_in_han_s_folder(root: Path) -> None:
    (root / "LLP_dataset").mkdir()
    (root / "frame").rename(root / "LLP_dataset" / "frame")
    assert reader(root).clips("train")[0].audio == root / "LLP_dataset" / "audio" / "aaaaaaaaaaa.wav"
    shutil.rmtree(root / "LLP_dataset" / "frame")
    with pytest.raises(DataError, match=r"no media: neither video/<id>\.mp4 nor frame/<id>"):
        reader(root).clips("train")
    assert reader(root, media="video").clips("train")[0].frames == root / "video" / "aaaaaaaaaaa.mp4"


def test_train_knows_the_classes_of_clips_alone_and_the_others_the_seconds(root: Path) -> None:
    found = reader(root)
    (target,) = [found.target(clip) for clip in found.clips("train") if clip.name.startswith("a")]
    assert target.keys() == {"labels"}
    assert target["labels"].nonzero().flatten().tolist() == [found.classes.index(name) for name in ("Speech", "Dog")]
    target = found.target(found.clips("test")[0])
    speech, dog, cat = (found.classes.index(name) for name in ("Speech", "Dog", "Cat"))
    expected = torch.zeros(10, 2, 25, dtype=torch.bool)
    expected[2, 0, dog] = True
    expected[:, 1, cat] = True
    assert torch.equal(target["seconds"], expected)
    assert torch.equal(target["seconds_before_fix"], expected)
    assert target["listed"] == 2
    assert found.target(found.clips("val")[0])["seconds"][:, 0, speech].tolist() == [True] * 4 + [False] * 6


def test_seconds_follow_the_segments(root: Path) -> None:
    found = reader(root, segments=5)
    assert found.target(found.clips("val")[0])["seconds"][:, 0, 0].tolist() == [True, True, False, False, False]


def test_a_list_that_is_missing_and_classes_that_differ_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"25 classes \(Speech, Car, \.\.\., Clapping\), but .* 2 classes \(a, b\)"):
        LLP(LLPDataConfig(), root, AVVPTask(AVVPTaskConfig(classes=("a", "b"))))
    (root / "AVVP_val_pd.csv").unlink()
    with pytest.raises(DataError, match=r"Split 'val': '.*AVVP_val_pd\.csv' is missing or lists no clip"):
        reader(root).clips("val")
    (root / "AVVP_eval_visual.csv").unlink()
    with pytest.raises(DataError, match=r"AVVP_eval_visual\.csv"):
        reader(root).target(reader(root).clips("test")[0])


def test_either_official_file_of_sound_gives_both_truths(tmp_path: Path) -> None:
    official = real_data("annotations", "LLP")

    def truth(audio: str, before: bool) -> torch.Tensor:
        folder = tmp_path / f"{audio}-{before}"
        folder.mkdir()
        for name in ("AVVP_train.csv", "AVVP_val_pd.csv", "AVVP_test_pd.csv", "AVVP_eval_visual.csv"):
            (folder / name).symlink_to(official / name)
        (folder / "AVVP_eval_audio.csv").symlink_to(official / audio)
        if before:
            (folder / "AVVP_eval_audio.before_2024_fix.csv").symlink_to(
                official / "AVVP_eval_audio.before_2024_fix.csv"
            )
        found = LLPFeatures(LLPDataConfig(), folder)
        targets = [found.target(clip) for clip in found.clips("test")]
        return torch.stack([torch.stack([one["seconds"], one["seconds_before_fix"]]) for one in targets])

    both = truth("AVVP_eval_audio.csv", True)
    assert torch.equal(truth("AVVP_eval_audio.csv", False), both)
    assert torch.equal(truth("AVVP_eval_audio.before_2024_fix.csv", False), both)
    differ = (both[:, 0] != both[:, 1]).flatten(1)
    assert differ.any(1).sum() == 2
    assert differ.sum() == 4 + 3 + 1
    seen = both[:, 0, :, 1].flatten(1).any(1)
    assert (~seen).sum() == 121
    assert (~both[:, 0, :, 0].flatten(1).any(1)).sum() == 5 + 1  # five clips have no line, one a line of no second


def with_features(root: Path, *names: str) -> Path:
    for name in names:
        for clip in ("aaaaaaaaaaa", "bbbbbbbbbbb"):
            (root / name).mkdir(parents=True, exist_ok=True)
            np.save(root / name / f"{clip}.npy", np.full(FEATURES[name], 2.0))
    return root


def test_features_are_read_beside_the_lists_or_where_a_person_says(root: Path) -> None:
    task = AVVPTask(AVVPTaskConfig(features=("vggish", "r2plus1d_18")))
    with_features(root / "feats", "vggish", "r2plus1d_18", "res152")
    shutil.copytree(root / "feats", root / "elsewhere")
    for settings, folder in (({"features": str(root / "elsewhere")}, "elsewhere"), ({}, "feats")):
        found = LLPFeatures(LLPDataConfig(**settings), root, task)
        clip = found.clips("train")[0]
        assert clip.files == tuple(root / folder / name / "aaaaaaaaaaa.npy" for name in ("vggish", "r2plus1d_18"))
        inputs = found.inputs(clip, 0)
        assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == {
            "vggish": (10, 128),
            "r2plus1d_18": (10, 512),
        }
        assert {name: spec.shape for name, spec in task.inputs.items()} == {
            name: tuple(tensor.shape) for name, tensor in inputs.items()
        }
        assert len(clip.frames) == 10
        assert clip.frames[0].is_file()
        refuse_missing("train", found.clips("train"), visual=True, audio=False)
    with pytest.raises(DataError, match=r"1 of 1 clips .*/feats/\w+/ccccccccccc\.npy does not exist"):
        refuse_missing("val", found.clips("val"), visual=True, audio=False)
    np.save(root / "feats" / "vggish" / "aaaaaaaaaaa.npy", np.zeros((10, 127)))
    with pytest.raises(DataError, match=r"aaaaaaaaaaa\.npy' are \(10, 127\), and \(10, 128\) is wanted"):
        found.inputs(clip, 0)
    assert reader(root).inputs(reader(root).clips("train")[0], 0) == {}
    (root / "feats" / "vggish" / "aaaaaaaaaaa.npy").unlink()
    torch.save(torch.full((10, 128), 3.0), root / "feats" / "vggish" / "aaaaaaaaaaa.pt")
    assert (found.inputs(found.clips("train")[0], 0)["vggish"] == 3).all()


def test_what_is_told_of_the_files(root: Path) -> None:
    found = reader(root)
    still = (
        "There are no features of motion (feats/r2plus1d_18); a head that is published with them goes without. "
        "Where they lie elsewhere, set data.features and task_options.features=[r2plus1d_18]."
    )
    assert found.notes() == [still]
    asks = AVVPTask(AVVPTaskConfig(features=("r2plus1d_18",)))
    assert LLP(LLPDataConfig(), root, asks).notes() == []
    assert found.counts("train") == {}
    assert found.counts("test") == {"silent": 1, "unseen": 1, "labels_differ": 1}
    (root / "audio" / "bbbbbbbbbbb.wav").unlink()
    with (root / "AVVP_eval_visual.csv").open("a") as file:
        file.write("gone_0_10\t0\t1\tDog\neeeeeeeeeee_0_10\t3\t3\tSpeech\n")
    again = reader(root)
    assert again.counts("train") == {"without_media": 1}
    assert again.notes() == [
        "AVVP_eval_visual.csv: line 3 (gone_0_10) names no clip.",
        "AVVP_eval_visual.csv: line 4 (eeeeeeeeeee_0_10) ends where it begins or before, and marks no second.",
        still,
    ]


def test_what_is_told_of_the_official_files() -> None:
    found = LLPFeatures(LLPDataConfig(), real_data("annotations", "LLP"))
    assert found.counts("test") == {"silent": 6, "unseen": 121, "labels_differ": 51}
    notes = found.notes()
    assert "The audio truth of 2 clips is another one since its fix of April 2024." in notes[-1]
    assert [note.partition(": ")[0] for note in notes] == [
        "AVVP_test_pd.csv",
        *["AVVP_eval_audio.csv"] * 2,
        *["AVVP_eval_audio.before_2024_fix.csv"] * 4,
        "AVVP_eval_visual.csv",
        *notes[-2:],
    ]
