"""The reader: clips, media, companions, inputs and truth in MUSIC-AVQA's layout."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from avqa_files import make_files, make_questions

from avcore.errors import DataError
from avcore.tasks import Clip
from avcore_avqa.annotations import settings_in
from avcore_avqa.config import AVQATaskConfig, MusicAVQADataConfig
from avcore_avqa.datasets import MusicAVQA
from avcore_avqa.task import AVQATask


def reader(root: Path, **settings: object) -> MusicAVQA:
    found = settings_in(root)
    task = AVQATask(
        AVQATaskConfig(words=tuple(found["task_options.words"]), answers=tuple(found["task_options.answers"]))
    )
    return MusicAVQA(MusicAVQADataConfig(**settings), root, task)


def test_a_clip_for_each_question(tmp_path: Path) -> None:
    found = reader(make_files(tmp_path))
    clips = found.clips("test")
    assert [clip.name for clip in clips] == ["00000004_7", "00000004_7-2", "00000005_8"]
    assert [clip.group for clip in clips] == ["00000004", "00000004", "00000005"]
    first = clips[0]
    assert first.seconds == 60
    assert [int(frame.stem) for frame in first.frames] == list(range(2, 21, 2))
    assert first.audio == tmp_path / "audio" / "00000004.wav"
    target = {name: tensor.item() for name, tensor in found.target(first).items()}
    # Train answers that template "one" most often.
    assert target == {"answer": 0, "kind": 5, "prior": 2, "listed": 3}
    ids = found.inputs(first, 0)["question"]
    assert [found.task.config.words[place] for place in ids[:8]] == [
        *("How", "many", "sounding", "piano", "in", "the", "video", "<pad>")
    ]
    with pytest.raises(DataError, match="no split 'all'; it has train, val, test"):
        found.clips("all")


def test_what_is_missing_and_what_is_shared_is_told(tmp_path: Path) -> None:
    found = reader(make_files(tmp_path))
    assert found.counts("test") == {"videos": 2, "repeated": 1}
    assert found.notes() == [
        "Questions are those of json/ (data.questions).",
        "1 videos have questions in train and in val: splits part questions.",
        "1 videos have questions in val and in test: splits part questions.",
    ]
    shutil.rmtree(tmp_path / "frames")
    (tmp_path / "video").mkdir()
    (tmp_path / "MUSIC-AVQA-videos-Synthetic").mkdir()
    (tmp_path / "video" / "00000005.mp4").touch()
    (tmp_path / "MUSIC-AVQA-videos-Synthetic" / "00000001.MKV").touch()
    found = reader(tmp_path)
    assert found.counts("test") == {"videos": 2, "without_media": 1, "repeated": 1}
    assert found.clips("test")[2].frames == tmp_path / "video" / "00000005.mp4"
    assert found.clips("train")[0].frames == tmp_path / "MUSIC-AVQA-videos-Synthetic" / "00000001.MKV"
    assert not found.clips("test")[0].frames.exists()
    task = found.task
    (tmp_path / "json" / "avqa-train.json").unlink()
    found = MusicAVQA(MusicAVQADataConfig(), tmp_path, task)
    assert found.notes()[-1] == "Without training questions there is no prior to compare scores with."
    assert found.target(found.clips("test")[0])["prior"] == -1


def test_an_mp4_goes_before_others_and_the_first_folder_before_the_rest(tmp_path: Path) -> None:
    root = make_files(tmp_path)
    for name in ("videos/00000001.mkv", "video/00000001.mp4", "video/00000002.mp4", "videos/00000002.mp4"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "videos" / "00000003.txt").touch()
    frames = {clip.group: clip.frames for clip in reader(root).clips("train")}
    assert frames["00000001"] == root / "video" / "00000001.mp4"
    assert frames["00000002"] == root / "videos" / "00000002.mp4"
    assert len(frames["00000003"]) == 10  # pictures


def test_a_negative_is_another_video_that_is_there(tmp_path: Path) -> None:
    root = make_files(tmp_path)
    (root / "audio" / "00000002.wav").unlink()
    found = reader(root)

    def drawn(clip: Clip) -> set[str | None]:
        shots = found.draw(clip, np.random.default_rng(0)).companions["negative"].shots
        return {other.group for other, _ in shots}

    clip, missing = found.clips("train")[0], found.clips("train")[2]
    assert drawn(clip) == {"00000003"}
    assert drawn(missing) == {"00000001", "00000003"}
    shutil.rmtree(root / "audio")
    assert not reader(root).draw(clip, np.random.default_rng(0)).companions


def test_each_picture_of_a_negative_is_drawn_by_itself(tmp_path: Path) -> None:
    found = reader(make_files(tmp_path))
    clip = found.clips("train")[0]
    drawn = [found.draw(clip, np.random.default_rng(seed)).companions["negative"].shots for seed in range(40)]
    assert {len(shots) for shots in drawn} == {10}
    videos = Counter(other.group for shots in drawn for other, _ in shots)
    assert videos.keys() == {"00000002", "00000003"}
    assert min(videos.values()) > 150
    places = Counter(place for shots in drawn for _, place in shots)
    assert places.keys() == set(range(10))
    assert min(places.values()) > 20
    # Each by itself: hardly ever of one video, or in order.
    assert sum(len({other.group for other, _ in shots}) == 1 for shots in drawn) < 3
    again = found.draw(clip, np.random.default_rng(3)).companions["negative"].shots
    assert [(other.name, place) for other, place in again] == [(other.name, place) for other, place in drawn[3]]


def test_the_corrected_questions_are_a_setting(tmp_path: Path) -> None:
    make_files(tmp_path)
    with pytest.raises(DataError, match="json_update"):
        reader(tmp_path, questions="json_update").clips("train")
    make_questions(tmp_path, "json_update")
    assert "json_update/" in reader(tmp_path, questions="json_update").notes()[0]
    assert len(reader(tmp_path, questions="json_update").clips("train")) == 4


def test_words_and_answers_that_train_lacks_are_named(tmp_path: Path) -> None:
    make_files(tmp_path)
    found = MusicAVQA(
        MusicAVQADataConfig(), tmp_path, AVQATask(AVQATaskConfig(words=("<pad>", "How"), answers=("one", "no")))
    )
    clip = found.clips("test")[0]
    with pytest.raises(DataError, match=r"'00000004_7' of test: .*'many', 'sounding', 'piano'"):
        found.inputs(clip, 0)
    with pytest.raises(DataError, match="'two' is none of the 2 answers"):
        found.target(clip)
    with pytest.raises(DataError, match=r"holds no json/avqa-train\.json"):
        MusicAVQA(MusicAVQADataConfig(), tmp_path / "audio")
