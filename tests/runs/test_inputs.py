"""What a model sees beside pictures and sound: inputs, companions, and how a person gives them."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import toy_inputs
from click.testing import CliRunner, Result
from installed import installed
from media import grey_video

import avcore
from avcore import Clip, Features
from avcore.cli import main
from avcore.data.media import decode_frames
from avcore.data.randomness import generator
from avcore.data.verify import list_clips, verify
from avcore.errors import AVCoreError
from avcore.registry import Registry
from avcore.runs import Run

RATE = 16000


@pytest.fixture(scope="module", autouse=True)
def _toys(world: ModuleType) -> Iterator[None]:
    """`toy_inputs` beside the toy world, whose backbone and clips it uses."""
    with installed(Registry.from_modules({"toy-world": world.Plugin(), "toy-inputs": toy_inputs.Plugin()})):
        yield


@pytest.fixture(scope="module")
def files(world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips, each with a vector of three numbers that tells its class."""
    root: Path = world.render("listen", tmp_path_factory.mktemp("inputs"))
    for sound in sorted(root.glob("*/*.wav")):
        np.save(sound.with_suffix(".npy"), np.full(3, float(int(sound.stem) % 2), np.float32))
    return root


@pytest.fixture
def run(files: Path, tmp_path: Path) -> Callable[..., Run]:
    def start(task: str, **options: Any) -> Run:
        out = options.pop("out", tmp_path / "run")
        sets = ["optim.head_lr=0.3", "train.epochs=6", *options.pop("set", ())]
        return avcore.run(task=task, data=files, out=out, quiet=True, prompts="rows", set=sets, **options)

    return start


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of grey with a tone."""
    tone = (9000 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.int16)
    return grey_video(tmp_path_factory.mktemp("videos") / "two.mkv", range(0, 200, 10), tone[:, None], RATE)


def command(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_a_question_reaches_the_head(run: Callable[..., Run], video: Path, tmp_path: Path) -> None:
    done = run("asked")
    batch = next(iter(done.data.loader("val")))
    asked = done.model(batch)["logits"]
    # Half of the clips are asked whether they are quiet.
    assert batch.inputs["question"][:, 2].unique().tolist() == [3, 4]
    batch.inputs["question"][:, 2] = 7 - batch.inputs["question"][:, 2]
    assert (done.model(batch)["logits"] != asked).any(-1).all()
    given = done.predict(video, tmp_path / "out", inputs={"question": "is it humming?"})
    # As many numbers as the clip has segments, and yet not one for each.
    assert [(span.start_s, round(span.stop_s), span.text.split()[-1]) for span in given.spans] == [(0, 2, "2")]
    with pytest.raises(AVCoreError, match=r"add --input question=.*'is it humming'"):
        done.predict(video, tmp_path / "none")
    with pytest.raises(AVCoreError, match=r"takes no input 'qestion'\. Did you mean 'question'"):
        done.predict(video, tmp_path / "none", inputs={"qestion": "is it humming?"})
    with pytest.raises(AVCoreError, match="the word 'loud'"):
        done.predict(video, tmp_path / "none", inputs={"question": "is it loud"})
    assert not (tmp_path / "none").exists()


def test_several_questions_are_answered_by_one_pass_of_the_streams(
    run: Callable[..., Run], video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("asked", set=["train.epochs=1"])
    questions = ["is it humming?", "is it quiet?", "quiet"]
    alone = [
        done.predict(video, tmp_path / str(number), inputs={"question": text}) for number, text in enumerate(questions)
    ]
    assert [path.name for path in sorted((tmp_path / "0").iterdir())] == [
        *("two.overlay.mp4", "two.predictions.csv", "two.predictions.json", "two.strip.png")
    ]
    passes = []
    forward = type(done.model.clips).forward
    monkeypatch.setattr(type(done.model.clips), "forward", lambda *given: passes.append(1) or forward(*given))
    decoded = []
    monkeypatch.setattr(
        "avcore.report.predict.decode_frames", lambda *given: decoded.append(given) or decode_frames(*given)
    )
    found = done.predict(video, tmp_path / "all", inputs=[{"question": text} for text in questions])
    assert (len(passes), len(decoded)) == (1, 1)
    assert [one.spans for one in found] == [one.spans for one in alone]
    assert [one.video.name for one in found] == [f"two.{number}.overlay.mp4" for number in (1, 2, 3)]
    assert all(one.video.is_file() for one in found)
    assert {one.strip.name for one in found} == {"two.strip.png"}
    told = json.loads((tmp_path / "all" / "two.predictions.json").read_text())
    assert [one["inputs"]["question"] for one in told] == questions
    with (tmp_path / "all" / "two.predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["question"], line["start"], line["prediction"]) for line in lines] == [
        (text, "0.0", one.spans[0].text) for text, one in zip(questions, found, strict=True)
    ]
    found[0].video.unlink()
    with pytest.raises(AVCoreError, match=r"two\.2\.overlay\.mp4 exists already"):
        done.predict(video, tmp_path / "all", inputs=[{"question": text} for text in questions])
    with pytest.raises(AVCoreError, match="Input 2: Nobody taught this task the word 'loud'"):
        done.predict(video, tmp_path / "none", inputs=[{"question": "is it"}, {"question": "loud"}])
    with pytest.raises(AVCoreError, match="empty list of inputs"):
        done.predict(video, tmp_path / "none", inputs=[])


def test_a_part_that_finishes_features_sees_each_question(run: Callable[..., Run]) -> None:
    done = run("asked", set=["train.epochs=1"])
    seen = []

    class Looks(type(done.model.instances[0].module)):
        def finish(self, features: Features) -> Features:
            seen.append(features.inputs["question"].tolist())
            return features

    done.model.instances[0].module.__class__ = Looks
    batch = next(iter(done.data.loader("val")))
    given = [{"question": batch.inputs["question"]}, {"question": 0 * batch.inputs["question"]}]
    outputs = list(done.model.outputs(batch, given))
    assert seen == [one["question"].tolist() for one in given]
    for output, one in zip(outputs, given, strict=True):
        assert torch.equal(output["logits"], done.model(replace(batch, inputs=one))["logits"])


def test_a_drawn_question_decides_the_truth_wherever_it_is_read(run: Callable[..., Run], files: Path) -> None:
    drawn = "data.dataset=asked-drawn"
    done = run("asked", set=[drawn, "train.epochs=2", "train.sampler=balanced", "train.balance=answer"])
    loader = done.data.loader("train", train=True)
    asked = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        asked.append(
            {
                name: int(word)
                for batch in loader
                for name, word in zip(batch.names, batch.inputs["question"][:, 2], strict=True)
            }
        )
    both = asked[0].keys() & asked[1].keys()
    assert [asked[0][name] for name in both] != [asked[1][name] for name in both]
    listed, _ = list_clips(done.data.dataset)
    assert not [
        found for found in verify(done.data.dataset, listed, done.model.task) if any(one.defect for one in found)
    ]


def test_a_missing_question_ends_the_command_with_code_2(run: Callable[..., Run], video: Path) -> None:
    done = run("asked", set=["train.epochs=1"])
    refused = command("predict", done.directory, video)
    assert refused.exit_code == 2
    assert 'add --input question="..."' in refused.output
    assert command("predict", done.directory, video, "--input", "question").exit_code == 2
    answered = command("predict", done.directory, video, "--input", "question=is it humming?")
    assert answered.exit_code == 0, answered.output
    assert "of 2" in answered.output


def test_a_companion_is_drawn_anew_in_each_epoch_and_seen_by_the_frozen_stream(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    pairs = []
    for workers in (0, 2):
        toy_inputs.CompareHead.SEEN.clear()
        run("compared", out=tmp_path / str(workers), set=["train.epochs=2", f"data.workers={workers}"])
        epochs: dict[int, dict[str, str]] = {}
        for progress, found in toy_inputs.CompareHead.SEEN:
            assert (progress.epochs, progress.steps) == (2, 6)
            epochs.setdefault(progress.epoch, {}).update(found)
        assert set(epochs) == {0, 1}
        assert epochs[0] != epochs[1]
        for clip, negative in epochs[0].items():
            assert int(clip.removeprefix("train")) % 2 != int(negative.removeprefix("train")) % 2
        pairs.append(epochs)
    assert pairs[0] == pairs[1]
    assert [progress.step for progress, _ in toy_inputs.CompareHead.SEEN] == list(range(6))


def test_a_companion_of_shots_has_pictures_of_several_clips(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("compared", set=["train.epochs=1"])
    loader = done.data.loader("val")
    pictures = {name: frames for batch in loader for name, frames in zip(batch.names, batch.frames, strict=True)}
    clips = done.data.dataset.clips("val")

    def mixed(self: Any, clip: Clip, random: np.random.Generator) -> Clip:
        shots = [(clips[place], 1) for place in random.integers(len(clips), size=2)]
        return replace(clip, companions={"negative": replace(clips[0], shots=tuple(shots))})

    monkeypatch.setattr(type(done.data.dataset), "draw", mixed)
    batch = next(iter(loader))
    for name, drawn in zip(batch.names, batch.companions["negative"].frames, strict=True):
        place = next(place for place, clip in enumerate(clips) if clip.name == name)
        random = generator(done.config.seed, "draw", 0, place)
        expected = [pictures[clips[at].name][1] for at in random.integers(len(clips), size=2).tolist()]
        assert torch.equal(drawn, torch.stack(expected))


def test_companions_are_equal_to_the_plain_stream(run: Callable[..., Run]) -> None:
    done = run("compared", set=["train.epochs=1"])
    batch = next(iter(done.data.loader("val")))
    features = done.model.features(batch)
    negative = features.companions["negative"]
    assert negative.valid.all()
    for stream in ("visual", "audio"):
        expected = done.model.plain(stream, batch.companions["negative"])
        assert torch.equal(negative.stream(stream).tokens, expected.tokens)
    done.model.head.companions = {"negative": "parts"}
    through = done.model.features(batch).companions["negative"]
    assert torch.equal(through.stream("audio").tokens, done.model.features(batch.companions["negative"]).audio.tokens)
    assert not torch.equal(through.stream("audio").tokens, negative.stream("audio").tokens)
    done.model.head.companions = {"negative": "plane"}
    with pytest.raises(AVCoreError, match=r"CompareHead\.companions wants 'negative' as 'plane': it may say plain or"):
        done.model.features(batch)


def test_features_come_from_files_beside_the_clips(run: Callable[..., Run], files: Path) -> None:
    done = run("precomputed")
    assert done.results.metrics["test"]["accuracy"] == 100.0


def test_a_file_of_the_wrong_shape_is_refused_by_its_path(run: Callable[..., Run], files: Path) -> None:
    wrong = files / "train" / "3.npy"
    kept = np.load(wrong)
    np.save(wrong, np.zeros((2, 5), np.float32))
    try:
        with pytest.raises(AVCoreError, match=r"train/3\.npy' are \(2, 5\), and \(3,\) is wanted"):
            run("precomputed")
    finally:
        np.save(wrong, kept)


def test_a_head_serves_some_kinds_of_task_only() -> None:
    with pytest.raises(
        AVCoreError, match=r"Head 'answer' serves answer; task 'compared' predicts clip\. Heads for it: c"
    ):
        avcore.create_model(task="compared", prompts="none", set=["head.name=answer"])
