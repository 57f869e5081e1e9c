"""AVST's first stage: what it trains and scores, and the second one, which starts there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avqa_files import make_files, make_questions
from media import grey_video
from tiny_runs import only

import avcore
import avcore_avqa
from avcore.errors import AVCoreError, DataError
from avcore.runs import Run
from avcore.states import trainable_state
from avcore.tasks import Batch, Progress
from avcore_avqa.config import AVQATaskConfig, MusicAVQADataConfig
from avcore_avqa.datasets import MusicAVQA
from avcore_avqa.grounding import GroundingHead
from avcore_avqa.metrics import MatchMetrics
from avcore_avqa.task import AVQATask

installed = only(avcore_avqa)

CLIPS = ("data.clip_seconds=2", "data.segments=2", "data.window_seconds=0.9", "data.window_margin=1.0")
FIRST = "head.name=avqa.grounding"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    root = make_files(tmp_path / "data", seconds=2)
    common = ("visual.weights=random", "train.precision=fp32", "train.batch_size=2", *CLIPS)

    def start(name: str, *sets: str, **given: Any) -> Run:
        settings = ("head.width=16", "head.match_width=8", *common, *sets)
        given = {"epochs": 1, **given}
        return avcore.run(
            "none", task="avqa", visual="tiny", data=root, out=tmp_path / name, quiet=True, set=settings, **given
        )

    return start


def test_the_second_stage_starts_where_the_first_ended(run: Callable[..., Run], tmp_path: Path) -> None:
    first = run("first", FIRST)
    trained = trainable_state(first.model)
    assert {name.split(".")[2] for name in trained} == {"visual", "audio", "grounded", "match"}
    assert first.config.task_options.stage == "grounding"
    # Each video once, however many questions there are about it.
    assert first.results.clips == {"train": 3, "val": 2, "test": 2}
    assert first.results.metrics["val"].keys() == {"accuracy", "own", "other"}
    video = grey_video(tmp_path / "own.mkv", range(0, 200, 10), np.zeros((32000, 1), np.int16), 16000)
    # Nobody is asked for a question.
    found = avcore.load_run(first.directory).predict(video, tmp_path / "out")
    found = found[0] if isinstance(found, list) else found
    assert found.spans[0].text.startswith("sound and pictures match: ")

    second = run("second", start=first.directory, epochs=0, seed=7)
    state = trainable_state(second.model)
    assert all(torch.equal(state[name], trained[name]) for name in trained)
    log = (second.directory / "log.txt").read_text()
    assert f"starts at the run {first.directory}, epoch 1: {len(trained)} tensors of " in log
    assert "starts anew: " in log
    assert "head.network.question" in log
    other = trainable_state(run("other", epochs=0, seed=7).model)
    assert not any(torch.equal(other[name], trained[name]) for name in trained)

    with pytest.raises(AVCoreError, match=r"does not fit this run: head\.network\..* instead of .*leave --start"):
        run("third", "head.width=32", start=first.directory, epochs=0)
    assert not (tmp_path / "third").exists()


def test_settings_that_do_not_go_together_are_refused(run: Callable[..., Run]) -> None:
    with pytest.raises(AVCoreError, match=r"task_options\.stage=grounding.*head\.name=avqa\.grounding"):
        run("a", "task_options.stage=grounding")
    with pytest.raises(AVCoreError, match=r"gives no answers, and the task asks for some \(task_options\.stage\)"):
        run("b", FIRST, "task_options.stage=answers")
    with pytest.raises(AVCoreError, match="the audio stream is off"):
        run("c", FIRST, "streams=visual")


def test_synthesised_videos_are_known_by_their_ids(tmp_path: Path) -> None:
    root = make_questions(tmp_path / "data")
    file = root / "json" / "avqa-train.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows, *({**rows[0], "video_id": one} for one in ("esa00000004", "concert"))]))

    def videos(**settings: Any) -> list[str | None]:
        reader = MusicAVQA(MusicAVQADataConfig(**settings), root, AVQATask(AVQATaskConfig(stage="grounding")))
        clips = reader.clips("train")
        assert reader.inputs(clips[0], 0) == {}
        return [clip.group for clip in clips]

    assert videos() == ["00000001", "00000001", "00000002", "00000003", "esa00000004", "concert"]
    assert videos(each="video") == ["00000001", "00000002", "00000003", "esa00000004", "concert"]
    assert videos(each="video", videos="real") == ["00000001", "00000002", "00000003", "concert"]
    # Coverage is of what is asked for.
    reader = MusicAVQA(MusicAVQADataConfig(videos="real"), root, AVQATask(AVQATaskConfig(answers=("two", "no", "one"))))
    assert reader.target(reader.clips("train")[0])["listed"] == 5
    file.write_text(json.dumps([{**row, "video_id": f"my{row['video_id']}"} for row in rows]))
    with pytest.raises(DataError, match=r"'train' has no real video.*Set data\.videos=all"):
        videos(videos="real")


def batch_of(valid: list[bool]) -> Batch:
    clips = len(valid)
    return Batch(
        frames=None,
        waveform=None,
        targets={},
        names=["a"] * clips,
        samples=torch.arange(clips),
        valid=torch.tensor(valid),
    )


def test_pictures_are_told_right_or_not() -> None:
    metrics = AVQATask(AVQATaskConfig(stage="grounding")).metrics("paper")
    assert isinstance(metrics, MatchMetrics)
    with pytest.raises(AVCoreError, match="No picture was evaluated"):
        metrics.compute()
    own, other = torch.tensor([[0.9, 0.8], [0.6, 0.1], [0.1, 0.1]]), torch.tensor([[0.1, 0.9], [0.2, 0.9], [0.1, 0.1]])
    metrics.update({"match": own, "match_negative": other}, batch_of([True, True, False]))
    assert metrics.compute() == {"accuracy": 62.5, "other": 50.0, "own": 75.0}
    alone = MatchMetrics("clean")
    alone.update({"match": own}, batch_of([True, True, False]))
    assert alone.compute() == {"accuracy": 75.0, "own": 75.0}
    with pytest.raises(AVCoreError, match="use clean or paper"):
        MatchMetrics("other")


def test_what_the_task_says_of_the_first_stage() -> None:
    task = AVQATask(AVQATaskConfig(stage="grounding"))
    sure = {"match": torch.tensor([0.5, 1.0])}
    assert task.describe(sure) == "sound and pictures match: 75 %"
    assert task.details([(0.0, 1.0), (1.0, 2.0)], sure) == {"match": [0.5, 1.0]}
    assert task.truth({"answer": torch.tensor(1)}) is None
    assert task.majority([], 2) is not None
    assert task.draw(np.zeros((2, 64, 64, 3), np.uint8), sure).max() > 0


def test_without_other_videos_there_is_nothing_to_tell_apart() -> None:
    loss = GroundingHead.loss
    with pytest.raises(AVCoreError, match="train on two videos at least"):
        loss(GroundingHead.__new__(GroundingHead), {"match": torch.zeros(2, 2)}, batch_of([True]), Progress())
