"""The tower equals transformers' own BERT with the mean over what is no padding, and parts act in it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from avcore.backbones import digest
from avcore.errors import AVCoreError
from avcore.specs import resolve
from avcore_sentence import TEST_SENTENCE
from avcore_sentence.settings import SentenceSettings
from avcore_sentence.text import SentenceTower, build
from avcore_sentence.tokenizer import HashedWords

SENTENCES = ["a dog barks", "rain", "how many dog 'el piano' are sounding?", "", "音 é unheard", "rain " * 40]


def tower_of(folder: Path, **settings: Any) -> SentenceTower:
    given = SentenceSettings(weights=str(folder), **{"length": 16, **settings})
    made = build(given, name="sentence", preset=None).double().tower("text", given, 1)
    assert isinstance(made, SentenceTower)
    return made


def ids_of(tower: SentenceTower) -> Tensor:
    ids: Tensor = resolve(tower.geometry.tokenizer)(SENTENCES, length=tower.geometry.length)
    return ids


def through(tower: SentenceTower, ids_KL: Tensor) -> Tensor:
    x, bias = tower.enter(tower.embed(ids_KL)), tower.key_bias(ids_KL)
    for index in range(tower.layout.depth):
        block = tower.block(index)
        x = block.after_sum("attention", x + block.attention(x, bias_HNN=bias)[0])
        x = block.after_sum("mlp", x + block.mlp(x))
    return tower.norm(x)


@pytest.mark.parametrize("length", [16, 7, 24])
def test_it_equals_transformers(folder: Path, length: int) -> None:
    from transformers import AutoTokenizer, BertModel

    tower = tower_of(folder, length=length)
    reference: Any = BertModel.from_pretrained(str(folder)).double().eval()
    given = AutoTokenizer.from_pretrained(str(folder))(
        SENTENCES, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    with torch.no_grad():
        states = reference(**given).last_hidden_state
    ids = ids_of(tower)
    assert torch.equal(ids, given["input_ids"])
    found = through(tower, ids)
    # Sentence by sentence, its own tokens alone: the pooling of sentence-transformers, written out.
    expected = torch.stack(
        [one[: int(mask.sum())].mean(0) for one, mask in zip(states, given["attention_mask"], strict=True)]
    )
    assert expected.std() > 0.1
    torch.testing.assert_close(tower.pool(found, ids), expected, rtol=0, atol=1e-10)
    seen = given["attention_mask"].bool()
    torch.testing.assert_close(found[seen], states[seen], rtol=0, atol=1e-10)


def test_padding_changes_nothing(folder: Path) -> None:
    short, long = tower_of(folder, length=16), tower_of(folder, length=24)
    ids = [ids_of(tower)[:5] for tower in (short, long)]
    one, other = (tower.pool(through(tower, of), of) for tower, of in zip((short, long), ids, strict=True))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="ids"):
        short.pool(torch.zeros(1, 16, 16))


def test_ids_of_a_clip_that_is_not_there_give_numbers(folder: Path) -> None:
    """Batches are filled up with zeros, which are padding alone."""
    tower, ids = tower_of(folder), torch.zeros(1, 16, dtype=torch.int64)
    assert tower.pool(through(tower, ids), ids).isfinite().all()


def test_the_class_token_where_the_folder_says_so(make_folder: Any) -> None:
    folder = make_folder()
    (folder / "1_Pooling").mkdir()
    file = folder / "1_Pooling" / "config.json"
    file.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    tower = tower_of(folder)
    x = torch.randn(2, 16, 16, dtype=torch.float64)
    assert tower.layout.pool == "class"
    assert torch.equal(tower.pool(x), x[:, 0])
    file.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(AVCoreError, match="asks for pooling_mode_max_tokens; known is one of"):
        tower_of(folder)


def test_rows_carried_rows_and_keys_are_beside_the_tokens(folder: Path) -> None:
    tower = tower_of(folder)
    block, x = tower.block(1), torch.randn(2, 5, 16, dtype=torch.float64)
    rows, carry = torch.randn(3, 16, dtype=torch.float64), torch.randn(2, 2, 16, dtype=torch.float64)
    joined = torch.cat([x, carry, rows.expand(2, -1, -1)], dim=1)
    expected = block.attention(joined)[0]
    found, carried = block.attention(x, rows=rows, carry=carry)
    assert carried is not None
    torch.testing.assert_close(torch.cat([found, carried], dim=1), expected[:, :7])
    as_kv, _ = block.attention(x, kv=block.keys_values(rows), carry=carry)
    torch.testing.assert_close(as_kv, found)
    # A bias of keys holds for carried rows, and leaves rows visible.
    bias = torch.tensor([0, 0, 0, 0, -torch.inf], dtype=torch.float64).expand(2, 1, 1, 5)
    shorter = block.attention(x[:, :4], rows=rows, carry=carry)
    hidden = block.attention(x, rows=rows, carry=carry, bias_HNN=bias)
    torch.testing.assert_close((hidden[0][:, :4], hidden[1]), shorter)


def test_increments_of_the_frozen_maps(folder: Path) -> None:
    tower = tower_of(folder)
    block, x = tower.block(0), torch.randn(2, 5, 16, dtype=torch.float64)
    maps = {"qkv": (16, 48), "proj": (16, 16), "fc1": (16, 32), "fc2": (32, 16)}
    extra = {name: torch.randn(*shape, dtype=torch.float64) * 0.1 for name, shape in maps.items()}
    found = (
        block.attention(x, project=lambda name, u: u @ extra[name])[0],
        block.mlp(x, project=lambda name, u: u @ extra[name]),
    )
    inner = block.inner
    own = inner.attention.self
    with torch.no_grad():
        for layer, more in zip((own.query, own.key, own.value), extra["qkv"].chunk(3, dim=1), strict=True):
            layer.weight += more.T
        inner.attention.output.dense.weight += extra["proj"].T
        inner.intermediate.dense.weight += extra["fc1"].T
        inner.output.dense.weight += extra["fc2"].T
    torch.testing.assert_close(found, (block.attention(x)[0], block.mlp(x)))


def test_layout_names_and_what_is_frozen(folder: Path) -> None:
    tower = tower_of(folder)
    (stage,) = tower.layout.stages
    assert (stage.width, stage.heads, stage.depth, stage.grid, stage.mlp) == (16, 2, 3, (1, 16), (32, 32))
    assert (tower.layout.shared, tower.layout.pool, tower.layout.taps) == (None, "mean", (0, 1, 2))
    assert {"embeddings.word_embeddings.weight", "encoder.layer.2.output.LayerNorm.bias"} < set(tower.weights())
    before = digest(tower)
    x = tower.embed(ids_of(tower)).requires_grad_()
    tower.train()
    tower.enter(x).sum().backward()
    assert digest(tower) == before
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(AVCoreError, match=r"text\.length is 25; the model has positions for 24"):
        tower_of(folder, length=25)
    with pytest.raises(ValueError, match="at least 3"):
        SentenceSettings(length=2)
    backbone = build(SentenceSettings(weights="random"), name="test_sentence", preset=TEST_SENTENCE)
    with pytest.raises(AVCoreError, match="serves the text stream only, not visual"):
        backbone.tower("visual", SentenceSettings(), 1)


def test_shapes_of_minilm_need_no_files() -> None:
    from avcore_sentence import PRESETS

    with torch.device("meta"):
        backbone = build(SentenceSettings(), name="all-MiniLM-L6-v2", preset=PRESETS["all-MiniLM-L6-v2"])
        tower = backbone.tower("text", SentenceSettings(), 1)
    # The published 22,713,216 less the pooler, 384 * 385.
    assert sum(parameter.numel() for parameter in tower.parameters()) == 22_713_216 - 384 * 385


def test_random_weights_tell_words_apart_by_a_hash() -> None:
    made = HashedWords(vocabulary=64)
    ids = made(["A dog", "a  dog", "rain " * 9, ""], length=6)
    assert ids[0].tolist() == ids[1].tolist()
    assert ids[0, [0, 3, 4]].tolist() == [1, 2, 0]
    assert ids[2, [0, 5]].tolist() == [1, 2]
    assert ids[3].tolist() == [1, 2, 0, 0, 0, 0]
    assert ids.max() < 64
