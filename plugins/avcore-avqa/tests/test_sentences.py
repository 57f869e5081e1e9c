"""Questions for pretrained encoders: any text, from the file, from Python and from the command line, to an answer."""

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from avqa_files import make_files
from click.testing import CliRunner, Result
from media import grey_video
from tiny_runs import only
from torch import Tensor

import avcore
import avcore_avqa
import avcore_clip
import avcore_sentence
from avcore.assemble import assemble
from avcore.cli import main, options
from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.specs import resolve
from avcore.states import trainable_state
from avcore_avqa.config import AVQATaskConfig
from avcore_avqa.sentences import letters_of, sentence_of, text_of
from avcore_avqa.task import AVQATask

installed = only(avcore_avqa, avcore_clip, avcore_sentence)

ODD = {
    "Is the elephant louder than a Sousaphone?": "Is the elephant louder than a Sousaphone?",
    "¿Cuántos instrumentos suenan?": "¿Cuántos instrumentos suenan?",
    "音がしますか？": "音がしますか?",
    "What's the \"first\" 'one' ?!": "What's the \"first\" 'one' ?!",
    '"Is it loud?"': '"Is it loud?"',
    "how   many\tpipes ??": "how many pipes?",
    "Is the acoustic_guitar louder": "Is the acoustic guitar louder?",
    "x": "x?",
    "Is\u200b the piano\ufeff louder?": "Is the piano louder?",
}
"""Questions as people put them, and as an encoder reads them."""


@pytest.mark.parametrize(("text", "read"), ODD.items())
def test_any_text_is_a_question(text: str, read: str) -> None:
    task = AVQATask(AVQATaskConfig(question="text", letters=60))
    given = task.read_input("question", text)
    assert (given.shape, given.dtype) == ((60,), torch.int64)
    assert task.inputs["question"].shape == (60,)
    assert text_of(given.tolist()) == read
    assert task.describe({"answer": torch.tensor(0), "question": given}) == f"{read} two"


def test_what_is_too_long_is_cut_and_told(caplog: pytest.LogCaptureFixture) -> None:
    assert text_of(letters_of("abcd efgh", 9).tolist()) == "abcd efgh"
    assert not caplog.text
    assert text_of(letters_of("abcd efghi", 9).tolist()) == "abcd efgh"
    assert (
        "A question has 10 letters, and is read up to '...abcd efgh': 9 is the most (task_options.letters)"
        in caplog.text
    )


@pytest.mark.parametrize("text", ["", " ", "?", "？ ", "''", "...", "\x00"])
def test_what_has_no_word_is_refused(text: str) -> None:
    with pytest.raises(AVCoreError, match="The question has no word"):
        letters_of(text, 20)


def test_two_questions_in_one_are_refused_here_too() -> None:
    with pytest.raises(AVCoreError, match="more than one question"):
        AVQATask(AVQATaskConfig(question="text")).read_input("question", "Is it loud? Is it near?")


@pytest.mark.parametrize("question", ["words", "text"])
def test_bytes_that_are_no_text_are_refused(question: Literal["words", "text"]) -> None:
    with pytest.raises(AVCoreError, match="bytes that are no UTF-8"):
        AVQATask(AVQATaskConfig(question=question)).read_input(
            "question", b"How many\xe9?".decode("utf-8", "surrogateescape")
        )


def test_questions_of_the_files_are_written_as_people_do() -> None:
    assert sentence_of(("Is", "the", "acoustic_guitar", "louder")) == "Is the acoustic guitar louder?"
    task = AVQATask(AVQATaskConfig(question="text"))
    of_file = task.question(["Where", "is", "the", "electric_bass"])
    for put in ("Where is the electric bass?", "Where is the electric_bass", "Where is  the electric bass \uff1f"):
        assert torch.equal(task.read_input("question", put), of_file)


# --------------------------------------------------------------------------------------------------------------------
# The head


def model_with(text: str, *sets: str) -> AVModel:
    registry = options.load_registry()
    resolved = resolve_config(
        registry,
        method="none",
        task="avqa",
        visual="tiny",
        text=text,
        sets=("visual.weights=random", "text.weights=random", "head.question=text", "head.width=16", *sets),
        need_data=False,
    )
    return assemble(resolved.config, registry).eval()


def asked(model: AVModel, questions: list[str]) -> Tensor:
    """The vectors that the network gets."""
    seen: list[Tensor] = []
    handle = model.head.network.question.register_forward_hook(lambda module, given, found: seen.append(given[0]))
    letters = torch.stack([model.task.read_input("question", one) for one in questions])
    from avcore.testing import make_batch

    batch = make_batch(model, clips=len(questions))
    batch.inputs["question"] = letters
    model(batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("text", "width"), [("test_clip_text", 12), ("test_sentence", 16)])
def test_questions_pass_the_encoder_that_is_chosen(text: str, width: int) -> None:
    model = model_with(text)
    questions = ["Is the piano louder?", "How many elephants?"]
    encoder = model.encoders["text"]
    tower = encoder.tower
    ids = resolve(tower.geometry.tokenizer)(questions, length=tower.geometry.length)
    with torch.no_grad():
        pooled = encoder(ids).pooled
        expected = pooled if tower.layout.shared is None else tower.project(pooled)
        expected = width**0.5 * expected / expected.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(asked(model, questions), expected)
    assert "head.network.question.weight" in trainable_state(model)
    assert trainable_state(model)["head.network.question.weight"].shape == (16, width)
    assert not any(name.startswith("head.network.question.lstm") for name in trainable_state(model))
    assert model.head.unused_in_reference == 0


def test_a_question_that_is_cut_by_the_tokenizer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = model_with("test_sentence", "text.length=6")
    asked(model, ["one two three four"])
    assert not caplog.text
    asked(model, ["one two three four five"])
    assert "The encoder reads 6 ids (text.length) and no more of: 'one two three four five?...'" in caplog.text


def test_one_setting_is_enough() -> None:
    found = resolve_config(
        options.load_registry(),
        method="none",
        task="avqa",
        visual="tiny",
        text="test_sentence",
        sets=["head.question=text"],
        need_data=False,
    )
    assert found.config.task_options.question == "text"
    assert found.origins["task_options.question"] == "head avqa.avst"


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(AVCoreError, match=r"head\.question is text, and the task reads words"):
        model_with("test_sentence", "task_options.question=words")
    registry, given = options.load_registry(), {"method": "none", "task": "avqa", "visual": "tiny", "need_data": False}
    with pytest.raises(AVCoreError, match=r"reads sentences: give --text NAME\. Available: .*all-MiniLM-L6-v2"):
        resolve_config(registry, **given, sets=["head.question=text"])
    with pytest.raises(AVCoreError, match=r"reads no sentences\. Leave it out, or choose a setting.*show avqa\.avst"):
        resolve_config(registry, **given, text="test_sentence")


# --------------------------------------------------------------------------------------------------------------------
# Whole runs


def small_model(folder: Path) -> Path:
    """A BERT with a vocabulary of a few words in a folder, as people have them."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "the", "how", "many", "?", "in", "video", "##s", "a"]
    config = BertConfig(**{**avcore_sentence.TEST_SENTENCE["config"], "vocab_size": len(words)})
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "bert"}))
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    save_file(BertModel(config, add_pooling_layer=False).state_dict(), folder / "model.safetensors")
    return folder


def test_a_run_with_a_folder_s_encoder_answers_any_question_without_its_data(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_files(root, seconds=2)
    sets = ["visual.weights=random", "head.question=text", "head.width=16", "train.precision=fp32"]
    sets += ["data.clip_seconds=2", "data.segments=2", "data.window_seconds=0.9", "data.window_margin=1.0"]
    sets += [f"text.weights={small_model(tmp_path / 'bert')}", "text.length=24"]
    done = avcore.run(
        "none",
        task="avqa",
        visual="tiny",
        text="sentence",
        data=root,
        epochs=1,
        set=(*sets, "train.batch_size=2", "data.broken_limit=0.9"),
        out=tmp_path / "run",
        quiet=True,
    )
    avcore.save_adapter(done.model, tmp_path / "adapter")
    shutil.rmtree(root)
    video = grey_video(tmp_path / "own.mkv", range(0, 200, 10), np.zeros((32000, 1), np.int16), 16000)

    def predict(*words: str) -> Result:
        command = ["predict", str(tmp_path / "run"), str(video), "--overwrite", *words]
        return CliRunner().invoke(main, command)

    for text, read in ODD.items():
        given = predict("--input", f"question={text}")
        assert given.exit_code == 0, given.output
        assert read.split()[0] in given.output
    long = predict("--input", f"question={'how many ' * 200}")
    assert long.exit_code == 0, long.output
    empty = predict("--input", "question= ")
    assert empty.exit_code == 2
    assert "The question has no word" in empty.output
    model = avcore.load_adapter(tmp_path / "adapter", set=[f"text.weights={tmp_path / 'bert'}"])
    assert all(torch.equal(value, trainable_state(model)[key]) for key, value in trainable_state(done.model).items())
