"""The classes that authors of methods derive from: `Prompt`, `Fusion` and their layers.

A part makes one layer for each block (or pair of blocks) it wants, once, at assembly. What a class overrides is what
it takes part in: a site that no class overrides costs nothing. Shape letters: B clips, T segments, M = B*T, N tokens,
D width, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn

from avcore.specs import BlockLayout, StreamLayout

if TYPE_CHECKING:
    from avcore.injection.views import BlockView, PairView, StreamView
    from avcore.tasks import Features

__all__ = [
    "Edit",
    "Edits",
    "Fusion",
    "FusionLayer",
    "PairLayout",
    "Part",
    "Prompt",
    "PromptLayer",
]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What one site asks for in one stream.

    Attributes:
        add: (M, N, D) or what broadcasts to it, added to the tokens.
        rows: (R, D), (T, R, D) or (M, R, D), prompt rows that the frozen attention sees as keys and values: the same
            for all, or of each segment of a clip, or of each sequence; or several such tensors, in a tuple.
        carry: (R, D) or (M, R, D), rows that flow through attention and MLP beside the tokens; they come back to the
            part's next layer as ``at.carried``. They have the family's neutral bias.
        kv: keys and values, (R, D) or (M, R, D) each, as they stand after the frozen projection.
        row_bias: attention bias of ``rows``, a number or (R,); None for the family's neutral value.
        offer: named tensors for ``finish``, the head and ``features.offers``.
        sums: named numbers, () or one for each clip (B, ...), that add up over all sites and blocks in
            ``features.sums``, such as a balance loss; the part's ``losses`` reads them there.
        statistics: named numbers, () or (B, ...), to be logged: the mean over sites, blocks and valid clips. They give
            no gradient.
    """

    add: Tensor | None = None
    rows: Tensor | Sequence[Tensor] | None = None
    carry: Tensor | None = None
    kv: tuple[Tensor, Tensor] | None = None
    row_bias: float | Tensor | None = None
    offer: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What one site of a fusion asks for in both streams."""

    visual: Edit | None = None
    audio: Edit | None = None


@dataclass(frozen=True, kw_only=True)
class PairLayout:
    """Two blocks that run together. ``index`` counts the pairs from 0, ``pairs`` is their number."""

    visual: BlockLayout
    audio: BlockLayout
    index: int
    pairs: int

    @property
    def from_end(self) -> int:
        """1 for the last pair, 2 for the one before it, ..."""
        return self.pairs - self.index


class Layer(nn.Module):
    """What prompt and fusion layers share."""

    unused_in_reference: int = 0
    """Parameters that the reference creates here and never uses; counted, not allocated."""
    made_again: ClassVar[bool] = True
    """Whether the backward pass makes again what the layer does, with ``train.memory=balanced``. For that it keeps the
    tokens that the layer is given: False where the layer keeps no more by itself, as one that only has rows."""


class PromptLayer(Layer):
    """The parameters of one prompt at one block of one stream. Override the sites it takes part in.

    A layer holds no index and keeps no tensor between calls. ``at`` is a `BlockView`.
    """

    def before_attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Add to the tokens before the frozen attention; applied at once. No rows, carry or kv."""
        raise NotImplementedError

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Act beside the frozen attention."""
        raise NotImplementedError

    def attention_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        """Transform the increment of the frozen attention before it is added."""
        raise NotImplementedError

    def before_mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Add to the tokens between attention and MLP; applied at once. No rows, carry or kv."""
        raise NotImplementedError

    def mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Act beside the frozen MLP. No rows, carry or kv."""
        raise NotImplementedError

    def mlp_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        """Transform the increment of the frozen MLP before it is added."""
        raise NotImplementedError

    def projection(self, name: str, x: Tensor) -> Tensor | None:
        """The increment of the frozen map ``qkv``, ``proj``, ``fc1`` or ``fc2`` for input ``x``; None for none."""
        raise NotImplementedError

    def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor] | Edit:
        """Offer named tensors after the block and change nothing; sums and statistics too, in an `Edit`."""
        raise NotImplementedError


class FusionLayer(Layer):
    """The parameters of one fusion at one pair of blocks. Override its sites; ``at`` is a `PairView`."""

    def before_attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """As `PromptLayer.before_attention`, for both streams."""
        raise NotImplementedError

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """As `PromptLayer.attention`, for both streams."""
        raise NotImplementedError

    def attention_output(
        self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        """As `PromptLayer.attention_output`: both increments in, both out."""
        raise NotImplementedError

    def before_mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """As `PromptLayer.before_mlp`, for both streams."""
        raise NotImplementedError

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """As `PromptLayer.mlp`, for both streams."""
        raise NotImplementedError

    def mlp_output(
        self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        """As `PromptLayer.mlp_output`: both increments in, both out."""
        raise NotImplementedError

    def projection(self, name: str, visual: Tensor, audio: Tensor, at: PairView) -> tuple[Tensor | None, Tensor | None]:
        """The increments of the frozen maps ``qkv``, ``proj``, ``fc1`` or ``fc2`` of both streams; None for none.

        Both blocks stand before the same map at the same time, so that each stream may read what the other one has
        there: before ``proj`` the values that its attention mixed, before ``fc2`` its hidden layer. The tokens before
        the norm of the sub-layer are ``at.visual.tokens`` and ``at.audio.tokens``.

        Args:
            name: of the map.
            visual, audio: its inputs, (M, N, D), or (M, W, N, D) where the tokens lie in windows.
            at: both sides of the pair.
        """
        raise NotImplementedError

    def read(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Mapping[str, Tensor] | Edit:
        """Offer named tensors after the pair of blocks and change nothing; see `PromptLayer.read`."""
        raise NotImplementedError


class Part(nn.Module):
    """What prompts and fusions share: the layers that assembly made, and what acts once for the whole stream."""

    unused_in_reference: int = 0
    """Parameters that the reference creates here and never uses; counted, not allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        # The trainable copies that `backbone_parts` asks for, by stream and name; assembly makes them.
        self.backbone = nn.ModuleDict()

    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        """The frozen modules that this part trains: stream to names of `Tower.trainable`, such as ``norm``.

        A pattern stands for all names that it matches, as those of files: ``*norm*`` for every norm, those within
        blocks too. Assembly gives the part a copy of each, which the forward uses in place of the frozen one and which
        counts and is saved as the part's. Streams that share a trunk share the copy where both are asked for. A prompt
        gets what it names for its own stream: ``dict.fromkeys((*STREAMS, *TEXTS), ("norm",))`` serves wherever it is
        put.
        """
        return {}

    def backbone_tensors(self) -> Mapping[str, tuple[str, ...]]:
        """The frozen tensors that this part trains: stream to names of parameters among `Tower.weights`, or patterns.

        As `backbone_parts`, for single tensors: ``*.bias`` for every bias, ``*`` for all of a backbone. What a tower
        has worked out of its weights beforehand, such as tables of positions, stays as it was; copies that no loss
        depends on stay as they are, and the run says so.
        """
        return {}

    def finish(self, features: Features) -> Features:
        """Replace the fields of the features that the part's spec names in ``finishes``."""
        raise NotImplementedError

    def losses(self, features: Features) -> dict[str, Tensor]:
        """Named scalar loss terms, already weighted."""
        raise NotImplementedError


class Prompt(Part):
    """A part that acts on one stream; one instance for each stream it is put into."""

    def __init__(self, config: Any, stream: StreamLayout) -> None:
        super().__init__()

    def layer(self, block: BlockLayout) -> PromptLayer | None:
        """The layer for one block; None where the part does nothing."""
        return None

    def after_embedding(self, x_MND: Tensor, at: StreamView) -> Tensor:
        """What to add to the embedded tokens (M, N, D), or anything that broadcasts to it."""
        raise NotImplementedError


class Fusion(Part):
    """A part that reads both streams; one instance."""

    def __init__(self, config: Any, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__()

    def layer(self, pair: PairLayout) -> FusionLayer | None:
        """The layer for one pair of blocks; None where the part does nothing."""
        return None

    def after_embedding(self, visual_MND: Tensor, audio_MND: Tensor, at: StreamView) -> tuple[Tensor, Tensor]:
        """As `Prompt.after_embedding`: what to add to the embedded tokens of each stream."""
        raise NotImplementedError


class LayerFactory(Protocol):
    """A layer class named directly by a spec: made for every block or pair."""

    def __call__(self, config: Any, place: Any) -> Layer: ...
