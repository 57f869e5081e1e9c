"""``stfp.base``, ``stfp.temporal`` and ``stfp.spatial``: what acts on one stream (Wang et al., BMVC 2025).

Shape letters: B clips, T segments, M = B*T, N tokens, D width, H heads, R rows.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, BlockLayout, Edit, Prompt, PromptLayer, StreamLayout
from avcore.injection import BlockView, StreamView
from avcore.specs import STREAMS, TEXT
from avcore_stfp.settings import BaseSettings, SpatialSettings, TemporalSettings
from avcore_stfp.tensors import beside, gate, normal

__all__ = ["Base", "SpaceTimeLayer", "SpatialLayer", "Temporal", "TemporalLayer"]


class Base(Prompt):
    """A class token of its own for sound, and the trainable final norm.

    The class token is the frozen one plus a trained increment that starts at zero, so it starts as CLIP's. Its position
    vector stays frozen. A backbone without class tokens trains its final norm alone (``class_token=auto``).
    """

    def __init__(self, config: BaseSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.config = config
        width, has_one = stream.stages[0].width, stream.stages[0].prefix > 0
        wanted = config.class_token == "audio" or (config.class_token == "auto" and has_one)
        here = wanted and stream.name == "audio"
        self.class_token = nn.Parameter(torch.zeros(width)) if here else None
        if not stream.paired:
            # The reference has the segment embeddings of both streams, and the class token, whichever stream runs.
            elsewhere = width if wanted and not here else 0
            self.unused_in_reference = stream.segments * width + elsewhere

    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        """See `Part.backbone_parts`."""
        return dict.fromkeys((*STREAMS, TEXT), ("norm",)) if self.config.final_norm else {}

    def after_embedding(self, x_MND: Tensor, at: StreamView) -> Tensor:
        """The increment of the class token, which is row 0."""
        if self.class_token is None:
            return x_MND.new_zeros(())
        return F.pad(self.class_token[None], (0, 0, 0, x_MND.shape[1] - 1))


class Temporal(Prompt):
    """Temporal-aware prompts, in every block."""

    def __init__(self, config: TemporalSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.config = config
        if not config.own_pass and stream.segments == 1:
            raise AssemblyError(
                "parts.stfp.temporal.own_pass=false needs clips of two segments or more (data.segments)."
            )

    def layer(self, block: BlockLayout) -> "TemporalPrompts":
        """A pass of its own, or one that is merged with the frozen attention."""
        return (TemporalLayer if self.config.own_pass else SpaceTimeLayer)(self.config, block)


class TemporalPrompts(PromptLayer):
    """K_m and V_m of one block; without V_m, K_m are tokens that give keys and values."""

    def __init__(self, config: TemporalSettings, block: BlockLayout) -> None:
        super().__init__()
        self.form = config.form
        are_tokens = config.form == "tokens"
        self.keys = normal(config.vectors if are_tokens else config.vectors // 2, block.width, config.std)
        self.values = None if are_tokens else normal(config.vectors // 2, block.width, config.value_std)
        self.gate = gate(config.gate)
        self.head_gates = nn.Parameter(torch.zeros(block.heads)) if config.gate == "heads" else None

    def prompts(self, at: BlockView) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Rows, and keys and values, as the frozen attention takes them."""
        if self.values is None:
            return self.keys, None
        if self.form == "unprojected":
            keys, values = at.keys_values(self.keys)[0], at.keys_values(self.values)[1]
        else:
            keys, values = self.keys, self.values
        if self.head_gates is not None:
            values = (values.unflatten(-1, (len(self.head_gates), -1)) * self.head_gates[:, None]).flatten(-2)
        return None, (keys, values)


class TemporalLayer(TemporalPrompts):
    """x <- x + g A([K_m ; x], [V_m ; x]), the frozen attention A running over the segments of each token position.

    Class tokens take part as any position does. Segments have no place on the grid: a backbone whose attention has
    position biases attends without them here.
    """

    def before_attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """The pass over time."""
        rows, kv = self.prompts(at)
        return Edit(add=at.from_time(at.attend(at.over_time(x_MND), rows=rows, kv=kv, gate=self.gate)))


class SpaceTimeLayer(TemporalPrompts):
    """The frozen attention over space and time at once: a frame sees the prompts and the tokens of all frames."""

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """The other frames of the clip as rows beside the frame's own tokens."""
        rows, kv = self.prompts(at)
        others = other_frames(x_MND, at)
        return Edit(rows=others if rows is None else beside(rows, others), kv=kv)


class SpatialLayer(PromptLayer):
    """S_m: rows beside the tokens of each frame; their outputs are dropped, every block has its own."""

    made_again: ClassVar[bool] = False

    def __init__(self, config: SpatialSettings, block: BlockLayout) -> None:
        super().__init__()
        self.normed = config.normed
        self.row_bias = config.row_bias
        self.rows = normal(config.length, block.width, config.std)

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """[S_m ; x] through the frozen attention."""
        return Edit(rows=self.rows, row_bias=self.row_bias) if self.normed else Edit(kv=at.keys_values(self.rows))


def other_frames(x_MND: Tensor, at: StreamView) -> Tensor:
    """For each frame the tokens of the other frames of its clip, (M, (T - 1) * N, D)."""
    frames = torch.arange(at.T, device=x_MND.device)
    others = (frames[:, None] + frames[1:]) % at.T
    return x_MND.reshape(at.B, at.T, *x_MND.shape[1:])[:, others].flatten(2, 3).flatten(0, 1)
