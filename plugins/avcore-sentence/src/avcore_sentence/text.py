"""Sentence encoders on the BERT modules of transformers (Reimers & Gurevych 2019, arXiv:1908.10084).

Shape letters: K sentences (M where a block does not care), L ids of each, N tokens, D width, R rows, C carried rows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avcore import compat
from avcore.backbones import Backbone, Block, Projection, TextTower, Tower, attend, split_heads, without_blocks
from avcore.errors import AVCoreError
from avcore.specs import TEXT, StageLayout, StreamLayout, TextGeometry, Windows
from avcore_sentence.settings import HUB, RANDOM, SentenceSettings
from avcore_sentence.tokenizer import FolderTokenizer, HashedWords
from avcore_sentence.weights import hub_folder, load_folder, pooling_of, read_config

__all__ = ["SentenceBlock", "SentenceEncoder", "SentenceTower", "build"]


def build(settings: SentenceSettings, *, name: str, preset: Mapping[str, Any] | None) -> "SentenceEncoder":
    """Make a sentence encoder, weights and tokenizer from where ``settings.weights`` says.

    Args:
        settings: of the text stream.
        name: what the user wrote: that of a model on the hub, or ``sentence`` for the one in a folder.
        preset: ``config``, which stands for the model's where there are no files.

    Raises:
        AVCoreError: the files cannot be had, or are those of another kind of model.
    """
    shapes = torch.empty(0).device.type == "meta"
    known = (preset or {}).get("config")
    if settings.weights == RANDOM or (settings.weights == HUB and known is not None and shapes):
        if known is None:
            raise AVCoreError(
                f"Random weights need a size, and '{name}' has none without its files: name a member that "
                "'avcore plugins show sentence' lists."
            )
        notices = (f"'{name}' runs on random weights, and tells words apart by a hash.",)
        return SentenceEncoder(_model(known), HashedWords(known["vocab_size"]), "mean", notices=notices)
    if settings.weights == HUB and known is None and "/" not in name:
        raise AVCoreError(
            f"'{name}' names no model: give its folder with --set text.weights=FOLDER, or name one of the hub, such as "
            "--text all-MiniLM-L6-v2."
        )
    folder = hub_folder(name) if settings.weights == HUB else Path(settings.weights)
    model = _model(read_config(folder))
    tokenizer = FolderTokenizer(folder)
    if tokenizer.vocabulary > model.config.vocab_size:
        raise AVCoreError(
            f"The tokenizer in '{folder}' has {tokenizer.vocabulary} ids and the model {model.config.vocab_size}: they "
            "are not of one model. Fetch the files again."
        )
    if not shapes:
        load_folder(model, folder)
    return SentenceEncoder(model, tokenizer, pooling_of(folder))


def _model(config: Mapping[str, Any]) -> Any:
    """BERT without its pooler."""
    compat.install()
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**config), add_pooling_layer=False)


class SentenceBlock(Block):
    """A block of BERT: x <- LN(x + MHSA(x)), x <- LN(x + MLP(x)); all tokens see all."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner: Any = inner

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return self.inner.attention.self.query.weight.dtype  # type: ignore[no-any-return]

    def after_sum(self, name: str, x_MND: Tensor) -> Tensor:
        """See `Block.after_sum`."""
        normed: Tensor = (self.inner.attention if name == "attention" else self.inner).output.LayerNorm(x_MND)
        return normed

    def attention(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
        project: Projection | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """See `Block.attention`."""
        heads, tokens = self.inner.attention.self.num_attention_heads, x_MND.shape[1]
        if carry is not None:
            x_MND = torch.cat([x_MND, carry], dim=1)
        made = self._qkv(x_MND, project)
        others = [] if rows is None else [self.keys_values(rows, project=project)]
        others += [] if kv is None else [kv]
        for pair in others:
            more = [one.expand(len(x_MND), -1, -1) for one in pair]
            made = [made[0], *(torch.cat(two, dim=1) for two in zip(made[1:], more, strict=True))]
        q, k, v = (split_heads(one, heads) for one in made)
        mixed_MND = attend(q, k, v, bias=bias_HNN, row_bias_R=row_bias_R)
        out_MND = _linear("proj", self.inner.attention.output.dense, mixed_MND, project)
        return out_MND[:, :tokens], None if carry is None else out_MND[:, tokens:]

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """See `Block.keys_values`."""
        _, k, v = self._qkv(u, project)
        return k, v

    def mlp(self, x_MND: Tensor, *, project: Projection | None = None) -> Tensor:
        """See `Block.mlp`."""
        hidden = self.inner.intermediate.intermediate_act_fn(
            _linear("fc1", self.inner.intermediate.dense, x_MND, project)
        )
        return _linear("fc2", self.inner.output.dense, hidden, project)

    def _qkv(self, x: Tensor, project: Projection | None) -> list[Tensor]:
        own = self.inner.attention.self
        made = [layer(x) for layer in (own.query, own.key, own.value)]
        increment = None if project is None else project("qkv", x)
        if increment is None:
            return made
        return [one + more for one, more in zip(made, increment.chunk(3, dim=-1), strict=True)]


class SentenceEncoder(Backbone):
    """BERT without its pooler, and the tokenizer that it was trained with."""

    def __init__(
        self, model: Any, tokenizer: FolderTokenizer | HashedWords, pooling: str, *, notices: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        model.encoder.layer = nn.ModuleList(SentenceBlock(layer) for layer in model.encoder.layer)
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.notices = notices
        self.freeze()

    def tower(self, stream: str, settings: SentenceSettings, segments: int, windows: Windows | None = None) -> Tower:
        """See `Backbone.tower`.

        Raises:
            AVCoreError: the stream is not ``text``, or the settings ask for sentences that are too long.
        """
        if stream != TEXT:
            raise AVCoreError(f"A sentence encoder serves the {TEXT} stream only, not {stream}.")
        return SentenceTower(self, settings, segments).freeze()


class SentenceTower(TextTower):
    """Sentences through BERT; a vector is the mean of the tokens that are no padding, or the class token."""

    def __init__(self, trunk: SentenceEncoder, settings: SentenceSettings, segments: int) -> None:
        super().__init__()
        self.trunk = trunk
        config = trunk.model.config
        if settings.length > config.max_position_embeddings:
            raise AVCoreError(
                f"text.length is {settings.length}; the model has positions for {config.max_position_embeddings} ids."
            )
        stage = StageLayout(
            width=config.hidden_size,
            heads=config.num_attention_heads,
            depth=config.num_hidden_layers,
            grid=(1, settings.length),
            mlp=(config.intermediate_size,) * 2,
        )
        self.layout = StreamLayout(stages=(stage,), segments=segments, pool=trunk.pooling)
        self.geometry = TextGeometry(length=settings.length, vocabulary=config.vocab_size, tokenizer=trunk.tokenizer)
        self.pad = trunk.tokenizer.pad

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """The norm behind the embedding."""
        return {"enter": self.trunk.model.embeddings.LayerNorm}

    def weights(self) -> Mapping[str, Tensor]:
        """The names of BERT in transformers."""
        return without_blocks(self.trunk.model)

    def embed(self, ids_KL: Tensor) -> Tensor:
        """(K, L) ids to (K, L, D), positions added; any L up to the model's."""
        embeddings = self.trunk.model.embeddings
        of_both = embeddings.position_embeddings.weight[: ids_KL.shape[1]] + embeddings.token_type_embeddings.weight[0]
        out: Tensor = embeddings.word_embeddings(ids_KL) + of_both
        return out

    def enter(self, x_MND: Tensor) -> Tensor:
        """The norm behind the embedding."""
        out: Tensor = self.trunk.model.embeddings.LayerNorm(x_MND)
        return out

    def block(self, index: int) -> SentenceBlock:
        """See `Tower.block`."""
        found: SentenceBlock = self.trunk.model.encoder.layer[index]
        return found

    def norm(self, x_MND: Tensor) -> Tensor:
        """Nothing: blocks end with a norm."""
        return x_MND

    def key_bias(self, ids_KL: Tensor) -> Tensor:
        """See `TextTower.key_bias`."""
        seen_KL = self._seen(ids_KL)
        bias_KL = torch.zeros(ids_KL.shape, dtype=self.block(0).dtype, device=ids_KL.device)
        return bias_KL.masked_fill(~seen_KL, -torch.inf)[:, None, None]

    def pool(self, tokens_MND: Tensor, ids_KL: Tensor | None = None) -> Tensor:
        """See `TextTower.pool`."""
        if self.layout.pool == "class":
            return tokens_MND[:, 0]
        if ids_KL is None:
            raise ValueError("What fills a sentence up is no part of its mean: pool(tokens, ids).")
        seen_KL1 = self._seen(ids_KL)[..., None].to(tokens_MND.dtype)
        return (tokens_MND * seen_KL1).sum(1) / seen_KL1.sum(1)

    def _seen(self, ids_KL: Tensor) -> Tensor:
        """(K, L): what is no padding; the first id never is."""
        first_L = torch.arange(ids_KL.shape[1], device=ids_KL.device) == 0
        return (ids_KL != self.pad) | first_L


def _linear(name: str, layer: nn.Module, x: Tensor, project: Projection | None) -> Tensor:
    out: Tensor = layer(x)
    increment = None if project is None else project(name, x)
    return out if increment is None else out + increment
