"""Sentences: a tokenizer from files that equals transformers' own, settings, and what parts see in a block."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from claps import TEXT, text, through

from avcore.errors import AVCoreError
from avcore_clap.settings import ClapTextSettings
from avcore_clap.tokenizer import BEGIN, END, PAD, Tokenizer

SENTENCES = ["the sound of rain", "a dog", "Thunder  and rain; ß, 雨", "", "the sound of " * 9]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small vocabulary of RoBERTa's kind, in both forms."""
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    made = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(SENTENCES * 3, vocab_size=290, special_tokens=special, show_progress=False)
    made.save_model(str(folder))
    return folder


@pytest.fixture
def theirs(files: Path) -> Any:
    from transformers import RobertaTokenizer

    return RobertaTokenizer.from_pretrained(str(files))


@pytest.mark.parametrize("form", ["folder", "tokenizer.json"])
def test_it_equals_transformers(files: Path, theirs: Any, form: str, tmp_path: Path) -> None:
    source = files
    if form != "folder":
        theirs.save_pretrained(tmp_path)
        source = tmp_path / "tokenizer.json"
        assert "model" in json.loads(source.read_text())
    found = Tokenizer(str(source))(SENTENCES, length=12)
    assert (found.shape, found.dtype, found.device.type) == ((5, 12), torch.int64, "cpu")
    expected = theirs(SENTENCES, padding="max_length", truncation=True, max_length=12)["input_ids"]
    assert found.tolist() == expected
    assert found[3].tolist() == [BEGIN, END, *[PAD] * 10]
    assert found[4, -1] == END
    assert Tokenizer(str(source))([], length=12).shape == (0, 12)


def test_without_files_it_is_said_what_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*given: Any, **more: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(AVCoreError, match=r"could not be fetched from 'a/clap'.*--set text\.tokenizer=PATH"):
        Tokenizer("a/clap")(["rain"])
    with pytest.raises(AVCoreError, match=r"'/no/such' does not exist\. Pass a tokenizer\.json"):
        Tokenizer("/no/such")(["rain"])
    with pytest.raises(AVCoreError, match=r"cannot be read: .* Pass a tokenizer\.json"):
        Tokenizer(str(tmp_path))(["rain"])
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(AVCoreError, match=r"is not RoBERTa's: its <s>, <pad>, </s> are not 0, 1, 2"):
        Tokenizer(str(tmp_path))(["rain"])


def test_the_setting_says_where_words_come_from(files: Path) -> None:
    assert text().geometry.tokenizer == Tokenizer("words")
    assert text(tokenizer=str(files)).geometry.tokenizer == Tokenizer(str(files))
    hub = {key: value for key, value in TEXT.items() if key != "tokenizer"} | {"hub": "a/clap"}
    assert text(preset=hub).geometry.tokenizer == Tokenizer("a/clap")


def test_settings() -> None:
    assert text(length=20).layout.stages[0].tokens == 20
    assert text(norm_eps=1e-5).block(0).inner.norm1.eps == text(norm_eps=1e-5).trunk.norm.eps == 1e-5
    with pytest.raises(AVCoreError, match=r"text\.length is 33; 'small' has positions for 32 ids"):
        text(length=33)
    with pytest.raises(ValueError, match="at least 3"):
        ClapTextSettings(length=2)
    with pytest.raises(ValueError, match="above 0"):
        ClapTextSettings(norm_eps=0.0)


def test_rows_and_carried_rows_equal_tokens_that_stand_there(saved: Path) -> None:
    tower = text(saved)
    ids = Tokenizer("words")(["rain and wind", "dog"], length=12)
    x, bias, block = tower.enter(tower.embed(ids)), tower.key_bias(ids), tower.block(1)
    more = torch.randn(2, 3, 16, dtype=torch.float64)
    joined = block.attention(torch.cat([x, more], 1), bias_HNN=torch.nn.functional.pad(bias, (0, 3)))[0]
    out, carried = block.attention(x, carry=more, bias_HNN=bias)
    torch.testing.assert_close(torch.cat([out, carried], 1), joined)
    torch.testing.assert_close(block.attention(x, rows=more, bias_HNN=bias)[0], joined[:, :12])
    kv = block.keys_values(more)
    torch.testing.assert_close(block.attention(x, kv=kv, bias_HNN=bias)[0], joined[:, :12])


def test_a_learnt_context_changes_vectors_where_placeholders_stand(saved: Path) -> None:
    tower = text(saved)
    ids = tower.geometry.tokenizer(["X X dog"], length=12)
    assert ids[0, 1] == ids[0, 2] != ids[0, 3]
    context = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)
    x = tower.embed(ids) + torch.nn.functional.pad(context, (0, 0, 1, 12 - 3))
    tower.project(tower.pool(through(tower, x, ids), ids)).square().sum().backward()
    assert context.grad is not None
    assert (context.grad.abs().sum(1) > 0).all()
