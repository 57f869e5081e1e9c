"""CLAP's tower of sentences (arXiv:2211.06687): RoBERTa (arXiv:1907.11692) in avcore's own code.

A block computes its attention itself in any case, for the sake of rows, keys and values of parts. What is left of a
transformers model then are linear maps and norms, for which that package need not be installed.

Shape letters: K sentences (M where a block does not care), L ids of each, N tokens, D width, R rows, C carried rows.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.backbones import (
    Backbone,
    Block,
    Increment,
    Phases,
    Point,
    Projection,
    TextTower,
    Tower,
    attend,
    plus,
    split_heads,
    without_blocks,
)
from avcore.errors import AVCoreError
from avcore.specs import TEXT, StageLayout, StreamLayout, TextGeometry, Windows
from avcore_clap.settings import ClapTextSettings
from avcore_clap.tokenizer import PAD, Tokenizer
from avcore_clap.weights import fill, projection, text_keys

__all__ = ["ClapText", "ClapTextBlock", "ClapTextTower", "build"]


def build(settings: ClapTextSettings, *, name: str, preset: Mapping[str, Any] | None) -> "ClapText":
    """Make a tower of sentences, weights loaded as ``settings.weights`` says.

    125,302,016 frozen parameters at the published size, 656,384 of them the projection's.

    Args:
        settings: of the text stream.
        name: what the user wrote.
        preset: ``width``, ``depth``, ``heads``, ``vocabulary`` (ids), ``positions`` (two more than the longest sentence
            has ids), ``length`` of a sentence, ``eps`` of the norms, ``shared``, the width of the common space;
            optional ``hub``, a repository, ``weights``, a file that stands for it, and ``tokenizer``, in the place of
            that repository's.

    Raises:
        AVCoreError: there is no such model, or the weights cannot be had or do not fit.
    """
    if preset is None:
        raise AVCoreError(f"'{name}' has no sizes: choose a preset ('avcore plugins show clap_text').")
    made = ClapText(name, preset, eps=preset["eps"] if settings.norm_eps is None else settings.norm_eps)
    weights = preset.get("weights", "hub") if settings.weights == "hub" else settings.weights
    made.notices = fill(without_blocks(made), weights, name=name, stream=TEXT, hub=preset.get("hub"), rename=text_keys)
    return made


class _Layer(nn.Module):
    """The frozen weights of a block: norm1(x + proj(attention(x))), norm2(x + fc2(GELU(fc1(x))))."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)


class ClapTextBlock(Block):
    """A block of RoBERTa: every token sees all, carried rows and rows too, but what fills a sentence up."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return self.inner.qkv.weight.dtype  # type: ignore[no-any-return]

    def after_sum(self, name: str, x_MND: Tensor) -> Tensor:
        """See `Block.after_sum`."""
        normed: Tensor = (self.inner.norm1 if name == "attention" else self.inner.norm2)(x_MND)
        return normed

    def attention_phases(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
    ) -> Phases[Increment]:
        """See `Block.attention_phases`; there are no windows."""
        tokens, heads = x_MND.shape[1], self.inner.heads
        if carry is not None:
            x_MND = torch.cat([x_MND, carry], dim=1)
        q, k, v = plus(self.inner.qkv(x_MND), (yield Point("qkv", x_MND))).chunk(3, dim=-1)
        others = [] if kv is None else [kv]
        if rows is not None:
            others.insert(0, self._keys_values(rows, (yield Point("qkv", rows, tokens=False))))
        for more_k, more_v in others:
            k, v = (torch.cat([one, more.expand(len(one), -1, -1)], dim=1) for one, more in ((k, more_k), (v, more_v)))
        q, k, v = (split_heads(one, heads) for one in (q, k, v))
        bias = None if bias_HNN is None else bias_HNN.to(q.dtype)
        mixed_MND = attend(q, k, v, bias=bias, row_bias_R=row_bias_R)
        out_MND = plus(self.inner.proj(mixed_MND), (yield Point("proj", mixed_MND)))
        yield out_MND[:, :tokens], None if carry is None else out_MND[:, tokens:]

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """See `Block.keys_values`; no norm comes before them."""
        return self._keys_values(u, None if project is None else project("qkv", u))

    def _keys_values(self, u: Tensor, increment: Tensor | None) -> tuple[Tensor, Tensor]:
        _, k, v = plus(self.inner.qkv(u), increment).chunk(3, dim=-1)
        return k, v

    def mlp_phases(self, x_MND: Tensor) -> Phases[Tensor]:
        """See `Block.mlp`."""
        hidden = F.gelu(plus(self.inner.fc1(x_MND), (yield Point("fc1", x_MND))))
        yield plus(self.inner.fc2(hidden), (yield Point("fc2", hidden)))


class ClapText(Backbone):
    """RoBERTa, and the map of what it pools into the common space."""

    def __init__(self, name: str, preset: Mapping[str, Any], *, eps: float) -> None:
        super().__init__()
        self.name, self.preset = name, preset
        width = preset["width"]
        self.words = nn.Embedding(preset["vocabulary"], width)
        self.positions = nn.Embedding(preset["positions"], width)
        self.kinds = nn.Embedding(1, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.blocks = nn.ModuleList(ClapTextBlock(_Layer(width, preset["heads"], eps)) for _ in range(preset["depth"]))
        self.pooler = nn.Linear(width, width)
        self.projection = projection(width, preset["shared"])
        self.freeze()

    def tower(self, stream: str, settings: ClapTextSettings, segments: int, windows: Windows | None = None) -> Tower:
        """See `Backbone.tower`.

        Raises:
            AVCoreError: the settings ask for sentences that are too long.
        """
        return ClapTextTower(self, settings, segments).freeze()


class ClapTextTower(TextTower):
    """Sentences through RoBERTa, pooled where they begin."""

    def __init__(self, trunk: ClapText, settings: ClapTextSettings, segments: int) -> None:
        super().__init__()
        self.trunk = trunk
        preset = trunk.preset
        length, longest = settings.length or preset["length"], preset["positions"] - PAD - 1
        if length > longest:
            raise AVCoreError(f"text.length is {length}; '{trunk.name}' has positions for {longest} ids.")
        width = preset["width"]
        stage = StageLayout(
            width=width, heads=preset["heads"], depth=preset["depth"], grid=(1, length), mlp=(4 * width, 4 * width)
        )
        self.layout = StreamLayout(stages=(stage,), segments=segments, pool="class", shared=preset["shared"])
        source = settings.tokenizer if settings.tokenizer != "hub" else preset.get("tokenizer", preset.get("hub"))
        self.geometry = TextGeometry(length=length, vocabulary=preset["vocabulary"], tokenizer=Tokenizer(source))

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """The norm of the embedding; none comes behind the last block."""
        return {"enter": self.trunk.norm}

    def weights(self) -> Mapping[str, Tensor]:
        """The names of `ClapText`."""
        return without_blocks(self.trunk)

    def embed(self, ids_KL: Tensor) -> Tensor:
        """(K, L) ids to (K, L, D), positions added; those count from 2 and leave out what fills a sentence up."""
        trunk, real_KL = self.trunk, (ids_KL != PAD).long()
        positions_KL = real_KL.cumsum(1) * real_KL + PAD
        out: Tensor = trunk.words(ids_KL) + trunk.positions(positions_KL) + trunk.kinds.weight[0]
        return out

    def enter(self, x_MND: Tensor) -> Tensor:
        """The norm of the embedding."""
        out: Tensor = self.trunk.norm(x_MND)
        return out

    def key_bias(self, ids_KL: Tensor) -> Tensor:
        """See `TextTower.key_bias`."""
        none = torch.zeros(ids_KL.shape, dtype=self.trunk.pooler.weight.dtype, device=ids_KL.device)
        return none.masked_fill(ids_KL == PAD, -torch.inf)[:, None, None]

    def block(self, index: int) -> ClapTextBlock:
        """See `Tower.block`."""
        found: Any = self.trunk.blocks[index]
        made: ClapTextBlock = found
        return made

    def norm(self, x_MND: Tensor) -> Tensor:
        """None: a block ends with its own."""
        return x_MND

    def pool(self, tokens_MND: Tensor, ids_KL: Tensor | None = None) -> Tensor:
        """RoBERTa's pooler on the first token."""
        out: Tensor = self.trunk.pooler(tokens_MND[:, 0]).tanh()
        return out

    def project(self, pooled_MD: Tensor) -> Tensor:
        """See `Tower.project`."""
        out: Tensor = self.trunk.projection(pooled_MD)
        return out
