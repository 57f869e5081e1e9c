"""Reference parts that a part under test is mixed with: one for each way in which parts act. Small, and trained.

Shape letters: M = B*T, N tokens, D width, R rows.
"""

from typing import Any

import torch
from torch import Tensor, nn

from avcore.hookspecs import hookimpl
from avcore.injection import BlockView, Edit, Edits, FusionLayer, PairLayout, PairView, PromptLayer
from avcore.specs import BlockLayout, FusionSpec, PromptSpec
from avcore.testing.toys import at_hand

__all__ = ["FUSIONS", "PROMPTS", "Partners"]


class Rows(PromptLayer):
    """Two rows in every block."""

    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width) * 0.1)

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Rows beside the tokens."""
        return Edit(rows=self.rows)


class Maps(PromptLayer):
    """A low-rank increment of the map to queries, keys and values."""

    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.down = nn.Linear(block.width, 2, bias=False)
        self.up = nn.Linear(2, 3 * block.width, bias=False)

    def projection(self, name: str, x: Tensor) -> Tensor | None:
        """W x <- W x + B A x."""
        if name != "qkv":
            return None
        increment: Tensor = self.up(self.down(x.to(self.down.weight.dtype)))
        return increment


class Scales(PromptLayer):
    """Scales what the frozen attention and MLP add, and says how much."""

    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.scale = nn.Parameter(1 + torch.randn(block.width) * 0.1)

    def attention_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        """Each component by its own number."""
        return out_MND * self.scale

    def mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Nothing but an offer, and a number for the log."""
        return Edit(offer={"scale": self.scale}, statistics={"scale": self.scale.mean()})

    def mlp_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        """Each component by its own number."""
        return out_MND * self.scale


class Exchange(FusionLayer):
    """Adds a linear map of the mean token of the other stream, before and beside the attention and at the MLP."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.to_visual = nn.Linear(pair.audio.width, pair.visual.width)
        self.to_audio = nn.Linear(pair.visual.width, pair.audio.width)

    def before_attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """Added at once."""
        return self._exchange(visual_MND, audio_MND)

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """Added with the increment."""
        return self._exchange(visual_MND, audio_MND)

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """Added with the increment."""
        return self._exchange(visual_MND, audio_MND)

    def _exchange(self, visual_MND: Tensor, audio_MND: Tensor) -> Edits:
        dtype = self.to_visual.weight.dtype
        seen_M1D, heard_M1D = (x_MND.mean(1, keepdim=True).to(dtype) for x_MND in (visual_MND, audio_MND))
        return Edits(
            visual=Edit(add=self.to_visual(heard_M1D).expand(-1, visual_MND.shape[1], -1)),
            audio=Edit(add=self.to_audio(seen_M1D).expand(-1, audio_MND.shape[1], -1)),
        )


PROMPTS = {"partner.rows": Rows, "partner.maps": Maps, "partner.scales": Scales}
FUSIONS = {"partner.exchange": Exchange}


class Partners:
    """A plugin that offers them."""

    @hookimpl
    def avcore_prompts(self) -> list[PromptSpec]:
        """Rows, an increment of a frozen map, and scales of the increments."""
        return [at_hand(PromptSpec, name=name, thing=thing) for name, thing in PROMPTS.items()]

    @hookimpl
    def avcore_fusions(self) -> list[FusionSpec]:
        """An exchange by additions."""
        return [at_hand(FusionSpec, name=name, thing=thing) for name, thing in FUSIONS.items()]
