"""What the contract says of sentences: a tower whose pooling is told the ids, and projections."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from avcore.backbones import Block, TextTower
from avcore.specs import STREAMS, TEXT, StageLayout, StreamLayout, TextGeometry, resolve

LENGTH = 6


def initials(sentences: Sequence[str]) -> Tensor:
    """One id a word, by its first letter; 1 begins a sentence, 30 ends it, 0 fills it."""
    rows = [[1, *(ord(word[0]) - ord("a") + 2 for word in sentence.split()), 30] for sentence in sentences]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


class Sentences(TextTower):
    """Embedding and projection, and nothing between."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(31, 4)
        self.shared = nn.Linear(4, 3, bias=False)
        stage = StageLayout(width=4, heads=1, depth=0, grid=(1, LENGTH))
        self.layout = StreamLayout(stages=(stage,), segments=1, taps=(), pool="end", name=TEXT, shared=3)
        self.geometry = TextGeometry(length=LENGTH, vocabulary=31, tokenizer=f"{__name__}:initials")
        self.freeze()

    def embed(self, ids_KL: Tensor) -> Tensor:
        made: Tensor = self.words(ids_KL)
        return made

    def enter(self, x_MND: Tensor) -> Tensor:
        return x_MND

    def block(self, index: int) -> Block:
        raise IndexError(index)

    def norm(self, x_MND: Tensor) -> Tensor:
        return x_MND

    def pool(self, tokens_MND: Tensor, ids_KL: Tensor | None = None) -> Tensor:
        if ids_KL is None:
            raise ValueError("The end of a sentence is where its ids say.")
        return tokens_MND[torch.arange(len(ids_KL)), ids_KL.argmax(1)]

    def project(self, pooled_MD: Tensor) -> Tensor:
        made: Tensor = self.shared(pooled_MD)
        return made


class Unprojected(Sentences):
    project = TextTower.project


def test_sentences_of_different_lengths_are_pooled_where_they_end() -> None:
    tower = Sentences()
    ids = initials(["a dog barks", "rain"])
    tokens = tower.norm(tower.enter(tower.embed(ids)))
    pooled = tower.pool(tokens, ids)
    assert torch.equal(pooled, tokens[[0, 1], [4, 2]])
    assert tower.project(pooled).shape == (2, tower.layout.shared)
    with pytest.raises(ValueError, match="ids"):
        tower.pool(tokens)


def test_the_projection_counts_among_the_frozen_weights() -> None:
    tower = Sentences()
    assert set(tower.weights()) == {"words.weight", "shared.weight"}
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_a_tower_without_projection_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Unprojected shares no space.*layout\.shared is None"):
        Unprojected().project(torch.zeros(1, 4))


def test_text_is_no_stream_of_a_clip() -> None:
    assert TEXT not in STREAMS


def test_the_tokenizer_is_a_reference() -> None:
    geometry = TextGeometry(length=77, vocabulary=10, tokenizer="json:loads")
    assert resolve(geometry.tokenizer)("[1]") == [1]
    assert (geometry.placeholder, geometry.lead) == ("X", 1)
    # Or, where it depends on files, what makes ids itself.
    assert resolve(TextGeometry(length=77, vocabulary=10, tokenizer=initials).tokenizer) is initials
