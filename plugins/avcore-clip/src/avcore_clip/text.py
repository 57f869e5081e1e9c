"""CLIP's text towers on open_clip modules (arXiv:2103.00020, section 2.4).

Shape letters: K sentences (M where a block does not care), L ids of each, N tokens, D width, R rows, C carried rows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.backbones import (
    Backbone,
    Block,
    Projection,
    TextTower,
    Tower,
    attend,
    split_heads,
    without_blocks,
)
from avcore.errors import AVCoreError
from avcore.specs import TEXT, StageLayout, StreamLayout, TextGeometry, Windows
from avcore_clip.models import configuration, make_model
from avcore_clip.settings import TextSettings
from avcore_clip.tokenizer import tokenize
from avcore_clip.weights import hub_file, load_file

__all__ = ["ClipText", "ClipTextBlock", "ClipTextTower", "build", "causal_bias"]


def build(settings: TextSettings, *, name: str, preset: Mapping[str, Any] | None) -> "ClipText":
    """Make the text tower of a model of open_clip, weights loaded as ``settings.weights`` says.

    Args:
        settings: of the text stream.
        name: what the user wrote: open_clip's name, with the tag of the weights after a dot.
        preset: ``config`` (stands for open_clip's configuration) and ``weights`` (a file that stands for ``hub``), both
            optional.

    Raises:
        AVCoreError: open_clip has no such model, its text tower is of another kind, or the weights cannot be had.
    """
    preset = preset or {}
    config = configuration(name, preset)
    model = make_model(config)
    if torch.empty(0).device.type == "meta":
        return ClipText(model)
    weights = str(preset.get("weights", "hub")) if settings.weights == "hub" else settings.weights
    if weights == "random":
        return ClipText(model, notices=(f"'{name}' runs on random weights.",))
    path = hub_file(name, quick_gelu=bool(config.get("quick_gelu"))) if weights == "hub" else Path(weights)
    load_file(model, path, name=name)
    return ClipText(model)


class ClipTextBlock(Block):
    """A block of open_clip: A(x) = LS(MHSA(LN x)), M(x) = LS(MLP(LN x)), each token seeing itself and those before it.

    Rows, ``kv`` and carried rows are seen by all tokens. A carried row sees the first token, the carried rows before it
    and itself, as deep prompts of text do that are written behind the first token (MaPLe, arXiv:2210.03117): nothing of
    a sentence reaches an earlier place through it. Without a causal mask all see all.
    """

    def __init__(self, inner: nn.Module, *, causal: bool) -> None:
        super().__init__()
        self.inner: Any = inner
        self.causal = causal

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return self.inner.attn.in_proj_weight.dtype  # type: ignore[no-any-return]

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
        """See `Block.attention`. ``windowed=False`` lets every token see all, the later ones too."""
        attn, tokens = self.inner.attn, x_MND.shape[1]
        carried = 0 if carry is None else carry.shape[1]
        if carry is not None:
            x_MND = torch.cat([x_MND, carry], dim=1)
        u_MND = self.inner.ln_1(x_MND)
        made = F.linear(u_MND, attn.in_proj_weight, attn.in_proj_bias)
        increment = None if project is None else project("qkv", u_MND)
        if increment is not None:
            made = made + increment
        q, k, v = (split_heads(one, attn.num_heads) for one in made.chunk(3, dim=-1))
        keys, values = [k], [v]
        if rows is not None:
            kv_rows = self.keys_values(self.inner.ln_1(_batched(rows)), project=project)
            keys.append(split_heads(kv_rows[0], attn.num_heads))
            values.append(split_heads(kv_rows[1], attn.num_heads))
        if kv is not None:
            keys.append(split_heads(_batched(kv[0]), attn.num_heads))
            values.append(split_heads(_batched(kv[1]), attn.num_heads))
        if len(keys) > 1:
            shape = (x_MND.shape[0], -1, -1, -1)
            k = torch.cat([key.expand(shape) for key in keys], dim=2)
            v = torch.cat([value.expand(shape) for value in values], dim=2)
        bias = bias_HNN
        if self.causal and windowed:
            hidden = causal_bias(tokens, carried, like=q)
            bias = hidden if bias_HNN is None else hidden + F.pad(bias_HNN, (0, carried, 0, carried))
        mixed_MND = attend(q, k, v, bias=bias, row_bias_R=row_bias_R)
        out_MND = self.inner.ls_1(_linear("proj", attn.out_proj, mixed_MND, project))
        if carry is None:
            return out_MND, None
        return out_MND[:, :tokens], out_MND[:, tokens:]

    def keys_values(self, u: Tensor, *, project: Projection | None = None) -> tuple[Tensor, Tensor]:
        """See `Block.keys_values`."""
        attn, width = self.inner.attn, u.shape[-1]
        made = F.linear(u, attn.in_proj_weight[width:], attn.in_proj_bias[width:])
        increment = None if project is None else project("qkv", u)
        if increment is not None:
            made = made + increment[..., width:]
        k, v = made.chunk(2, dim=-1)
        return k, v

    def mlp(self, x_MND: Tensor, *, project: Projection | None = None) -> Tensor:
        """See `Block.mlp`."""
        mlp = self.inner.mlp
        hidden = mlp.gelu(_linear("fc1", mlp.c_fc, self.inner.ln_2(x_MND), project))
        out: Tensor = self.inner.ls_2(_linear("fc2", mlp.c_proj, hidden, project))
        return out


class ClipText(Backbone):
    """The text transformer of a model of open_clip."""

    def __init__(self, model: Any, *, notices: tuple[str, ...] = ()) -> None:
        super().__init__()
        causal = model.attn_mask is not None
        layers = [ClipTextBlock(layer, causal=causal) for layer in model.transformer.resblocks]
        model.transformer.resblocks = nn.ModuleList(layers)
        self.model = model
        self.notices = notices
        self.freeze()

    def tower(self, stream: str, settings: TextSettings, segments: int, windows: Windows | None = None) -> Tower:
        """See `Backbone.tower`.

        Raises:
            AVCoreError: the stream is not ``text``, or the settings ask for sentences that are too long.
        """
        if stream != TEXT:
            raise AVCoreError(f"A text tower of CLIP serves the {TEXT} stream only, not {stream}.")
        return ClipTextTower(self, settings, segments).freeze()


class ClipTextTower(TextTower):
    """Sentences through the text transformer, pooled where they end."""

    def __init__(self, trunk: ClipText, settings: TextSettings, segments: int) -> None:
        super().__init__()
        self.trunk = trunk
        model = trunk.model
        length = settings.length or model.context_length
        if length > model.context_length:
            raise AVCoreError(f"text.length is {length}; the model has positions for {model.context_length} ids.")
        mlp = model.transformer.resblocks[0].inner.mlp
        stage = StageLayout(
            width=model.width,
            heads=model.heads,
            depth=len(model.transformer.resblocks),
            grid=(1, length),
            mlp=(mlp.c_fc.out_features, mlp.c_proj.in_features),
        )
        self.layout = StreamLayout(
            stages=(stage,),
            segments=segments,
            pool="class" if model.pool_type == "first" else "end",
            shared=None if model.text_projection is None else model.output_dim,
        )
        self.geometry = TextGeometry(
            length=length, vocabulary=model.vocab_size, tokenizer=f"{tokenize.__module__}:{tokenize.__name__}"
        )

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """The final norm."""
        return {"norm": self.trunk.model.ln_final}

    def weights(self) -> Mapping[str, Tensor]:
        """open_clip's names, without those of the tower for pictures beside it."""
        return without_blocks(self.trunk.model)

    def embed(self, ids_KL: Tensor) -> Tensor:
        """(K, L) ids to (K, L, D), positions added; any L up to the model's."""
        model = self.trunk.model
        out: Tensor = model.token_embedding(ids_KL) + model.positional_embedding[: ids_KL.shape[1]]
        return out

    def enter(self, x_MND: Tensor) -> Tensor:
        """Nothing lies between."""
        return x_MND

    def block(self, index: int) -> ClipTextBlock:
        """See `Tower.block`."""
        found: ClipTextBlock = self.trunk.model.transformer.resblocks[index]
        return found

    def norm(self, x_MND: Tensor) -> Tensor:
        """See `Tower.norm`."""
        out: Tensor = self.trunk.model.ln_final(x_MND)
        return out

    def pool(self, tokens_MND: Tensor, ids_KL: Tensor | None = None) -> Tensor:
        """The token of the id that ends a sentence, the largest of the vocabulary; see `TextTower.pool`."""
        model = self.trunk.model
        if model.pool_type in ("first", "last"):
            return tokens_MND[:, 0 if model.pool_type == "first" else -1]
        if ids_KL is None:
            raise ValueError("The end of a sentence is where its ids say: pool(tokens, ids).")
        ends_KL = ids_KL if model.pool_type == "argmax" else (ids_KL == model.eos_id).int()
        places_K = ends_KL.argmax(dim=1)
        return tokens_MND[torch.arange(len(tokens_MND), device=tokens_MND.device), places_K]

    def project(self, pooled_MD: Tensor) -> Tensor:
        """See `Tower.project`."""
        projection = self.trunk.model.text_projection
        if projection is None:
            return super().project(pooled_MD)
        if isinstance(projection, nn.Linear):
            mapped: Tensor = projection(pooled_MD)
            return mapped
        out: Tensor = pooled_MD @ projection
        return out


def causal_bias(tokens: int, carried: int = 0, *, like: Tensor) -> Tensor:
    """The bias that hides what comes later, (N + C, N + C); queries and keys are the tokens, then the carried rows.

    Args:
        tokens: N.
        carried: C rows, which stand between the first token and the second, and which the first sees too.
        like: has the device and type of the bias.
    """
    places = torch.arange(tokens, device=like.device)
    reach = places
    if carried:
        rows = torch.arange(1, carried + 1, device=like.device)
        places = torch.cat([places[:1], places[1:] + carried, rows])
        reach = torch.cat([places[:1] + carried, places[1:]])
    later = places[None, :] > reach[:, None]
    return torch.zeros(later.shape, dtype=like.dtype, device=like.device).masked_fill(later, float("-inf"))


def _batched(rows: Tensor) -> Tensor:
    return rows[None] if rows.dim() == 2 else rows


def _linear(name: str, layer: nn.Module, x: Tensor, project: Projection | None) -> Tensor:
    out: Tensor = layer(x)
    increment = None if project is None else project(name, x)
    return out if increment is None else out + increment
