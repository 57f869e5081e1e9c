"""Scores, losses and predictions by the formulas of the papers, written out by hand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click import ClickException
from installed import installed
from media import grey_video
from torch import Tensor

import avcore
import avcore_avar
import avcore_ave
import avcore_avvp
import avcore_fewshot
from avcore.cli import main
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.tasks import Batch
from avcore.testing.backbones import ToyBackbones
from avcore.testing.texts import ToyTexts, tokenize
from avcore.testing.toys import make_batch
from avcore_fewshot.config import WordsTaskConfig
from avcore_fewshot.task import WordsTask
from avcore_fewshot.words import joined

REGISTRY = Registry.from_modules(
    {
        "backbones": ToyBackbones(),
        "texts": ToyTexts(),
        "avcore-ave": avcore_ave,
        "avcore-avar": avcore_avar,
        "avcore-avvp": avcore_avvp,
        "avcore-fewshot": avcore_fewshot,
    }
)
WORDS = ["dog", "two cellos", "rain"]
SHORT = ("text.length=10",)


@pytest.fixture(autouse=True)
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AVCORE_DATA", raising=False)
    with installed(REGISTRY):
        yield


def both(*sets: str, **given: Any) -> AVModel:
    named = {"visual": "toy_shared", "audio": "toy_shared", "text": "toy_text", "text_audio": "toy_text", **given}
    return avcore.zero_shot(named.pop("words", WORDS), set=(*SHORT, *sets), **named).model


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum(-1, keepdim=True).sqrt()


def test_scores_are_scaled_cosines_of_each_stream_with_its_own_words() -> None:
    model = both("head.visual_scale=10", "head.audio_scale=20", "text_audio.length=9")
    batch = make_batch(model)
    with torch.no_grad():
        features = model.features(batch)
        out = model(batch)
        for stream, encoder, sentence, scale, length in (
            ("visual", "text", "a photo of a {}", 10, 10),
            ("audio", "text_audio", "The sounds of {}", 20, 9),
        ):
            ids = tokenize([sentence.format(name) for name in WORDS], length=length)
            text: Any = model.encoders[encoder]
            words_CD = unit(text.project(text(ids).pooled))
            seen_BTD = unit(features.project(stream))
            expected = scale * torch.einsum("btd,cd->btc", seen_BTD, words_CD)
            torch.testing.assert_close(out[stream], expected)
        prediction = model.predict(out)
    mean = (out["visual"].softmax(-1) + out["audio"].softmax(-1)) / 2
    torch.testing.assert_close(prediction["scores"], mean)
    torch.testing.assert_close(prediction["audio"], out["audio"].softmax(-1))


def test_several_templates_are_a_mean_of_directions() -> None:
    one, other = (both(f"head.visual_templates=['{text} <class>']") for text in ("a", "one small"))
    two = both("head.visual_templates=['a <class>', 'one small <class>']")
    features = [model.features(make_batch(model)) for model in (one, other, two)]
    first, second, mean = (
        model.head.words.vectors(found, "visual") for model, found in zip((one, other, two), features, strict=True)
    )
    torch.testing.assert_close(mean, unit((first + second) / 2))


def test_ways_to_join() -> None:
    visual, audio = torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 4.0]]])
    assert joined("sum", [visual, audio]).tolist() == [[[8.0, 10.0]]]
    w = torch.tensor([3 / 4, 1 / 5])
    torch.testing.assert_close(joined("weighted", [visual, audio])[0, 0], w * visual[0, 0] + (1 - w) * audio[0, 0])
    assert joined("weighted", [visual, -visual]).isfinite().all()
    assert joined("sum", [visual]) is visual


def test_segments_without_a_word_for_background_are_never_called_so() -> None:
    sets = ("task_options.classes=[dog, cat]", "data.segments=4", "data.clip_seconds=4")
    model, learns = (
        avcore.create_model(
            task="ave",
            visual="toy_shared",
            text="toy_text",
            streams="visual",
            prompts="none",
            fusions="none",
            set=[*sets, "head.name=fewshot.words", *more],
        ).eval()
        for more in ([], ["head.background=true"])
    )
    batch = make_batch(model, 2)
    assert model(batch)["logits"].shape == (2, 4, 2)
    assert learns(batch)["logits"].shape == (2, 4, 3)
    assert model.predict(model(batch))["labels"].max() <= 1
    labels = torch.tensor([[0, 1, 2, 2], [1, 1, 1, 1]])
    batch = Batch(**{**vars(batch), "targets": {"labels": labels}, "valid": torch.tensor([True, False])})
    out = model(batch)
    each = [-out["logits"].log_softmax(-1)[0, place, label] for place, label in enumerate((0, 1))]
    torch.testing.assert_close(model.losses(out, batch)["class"], sum(each) / 2)
    out = learns(batch)
    each = [-out["logits"].log_softmax(-1)[0, place, label] for place, label in enumerate((0, 1, 2, 2))]
    torch.testing.assert_close(learns.losses(out, batch)["class"], sum(each) / 4)


def test_logits_of_a_clip_are_the_mean_of_its_segments() -> None:
    model = avcore.create_model(
        task="fewshot",
        visual="toy_shared",
        text="toy_text",
        streams="visual",
        prompts="none",
        fusions="none",
        set=["task_options.classes=[dog, cat, rain]"],
    ).eval()
    batch = make_batch(model, 2)
    batch.targets = {"label": torch.tensor([1, 0])}
    out = model(batch)
    mean = out["logits"].mean(1)
    assert torch.equal(model.predict(out)["label"], mean.argmax(-1))
    expected = -mean.log_softmax(-1)[[0, 1], [1, 0]].mean()
    torch.testing.assert_close(model.losses(out, batch)["class"], expected)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"visual": "toy_plain"}, "The backbone for pictures shares no space with sentences"),
        ({"text_audio": None}, "name that of sound with --text-audio NAME"),
        ({"text": None, "text_audio": None}, "reads sentences: give --text NAME"),
    ],
)
def test_what_cannot_be_compared_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(AVCoreError, match=says):
        both(**given)


def test_a_template_without_a_place_is_refused() -> None:
    with pytest.raises(AVCoreError, match="each with <class> in it"):
        both("head.visual_templates=['a photo']")


def test_a_video_and_any_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    video = grey_video(tmp_path / "v.mkv", range(20, 50), np.zeros((24000, 1), np.int16), 8000)
    options = ["--visual", "toy_shared", "--audio", "toy_shared", "--text", "toy_text", "--text-audio", "toy_text"]
    monkeypatch.chdir(tmp_path)
    main(["predict", str(video), "--zero-shot", 'dog, "cello, two", дождь', *options], standalone_mode=False)
    said = capsys.readouterr().out
    assert all(word in said for word in ("seen: ", "heard: ", "both: "))
    rows = (tmp_path / "predictions" / "v.events.csv").read_text().splitlines()
    assert rows[0] == "class,modality,start,end,probability"
    assert {row.rsplit(",", 4)[1] for row in rows[1:]} == {"visual", "audio", ""}
    run = avcore.zero_shot(WORDS, visual="toy_shared", text="toy_text")
    assert run.predict(video, tmp_path / "seen").spans[0].text.startswith("seen: ")
    assert run.model.sound is None


def test_events_are_runs_of_one_word() -> None:
    task = WordsTask(WordsTaskConfig(classes=("dog", "rain")))
    times = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
    scores = [torch.tensor([[[0.75, 0.25], [0.25, 0.75]][word]]) for word in (0, 1, 1, 0)]
    seen = task.events(times, [{"scores": one, "visual": one} for one in scores])
    assert seen is not None
    assert [(one.label, one.modality, one.start_s, one.stop_s, one.probability) for one in seen] == [
        ("dog", "visual", 0, 1, 0.75),
        ("rain", "visual", 1, 3, 0.75),
        ("dog", "visual", 3, 4, 0.75),
    ]
    both = task.events(times, [{"scores": one, "visual": one, "audio": one.flip(-1)} for one in scores])
    assert both is not None
    assert {one.modality for one in both} == {"visual", "audio", ""}
    assert [one.label for one in both if one.modality == "audio"] == ["rain", "dog", "rain"]


def test_six_hundred_words(tmp_path: Path) -> None:
    run = avcore.zero_shot([f"class {number}" for number in range(600)], visual="toy_shared", text="toy_text")
    scores = run.model.predict(run.model(make_batch(run.model)))["scores"]
    assert scores.shape[-1] == 600
    torch.testing.assert_close(scores.sum(-1), torch.ones(scores.shape[:2]))


def test_an_evaluation_without_training(tmp_path: Path, capsys: Any) -> None:
    for split in ("train", "test"):
        for name in ("dog", "two cellos"):
            folder = tmp_path / "own" / split / name
            folder.mkdir(parents=True)
            grey_video(folder / "one.mkv", [40] * 100, np.zeros((80000, 1), np.int16), 8000)
    options = ["--data", str(tmp_path / "own"), "--visual", "toy_shared", "--text", "toy_text", "--protocol", "paper"]
    main(["eval", "--zero-shot", "--task", "avar", *options, "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert said["run"] is None
    assert said["metrics"]["test"]["top1"] == 50  # the same picture twice
    out = tmp_path / "out"
    written = [*options, "--out", str(out)]
    main(["eval", "--zero-shot", "--task", "avar", *written], standalone_mode=False)
    kept = json.loads((out / "results.json").read_text())
    assert (kept["status"], kept["metrics"]) == ("finished", said["metrics"])
    assert json.loads((out / "clips" / "test.json").read_text())["scores"]["top1"] in ([0, 100], [100, 0])
    assert "task: avar" in (out / "config.yaml").read_text()
    with pytest.raises(ClickException, match="is not empty"):
        main(["eval", "--zero-shot", "--task", "avar", *written], standalone_mode=False)
