"""``copl.rows``: the modality-specific prompts of CoPL (Zhao et al., ACM MM 2024, section 3.2).

Shape letters: B clips, T segments, M = B*T, N tokens, D width, G = L_g global rows.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from avcore import Edit, Prompt, PromptLayer
from avcore.injection import BlockView
from avcore.specs import BlockLayout, StreamLayout
from avcore_copl.settings import CouplingSettings, RowsSettings

__all__ = ["Rows", "RowsLayer", "row_bias"]


class Rows(Prompt):
    """M = [M^g ; M^f], eq. 2: rows beside the tokens of every block, eq. 3, whose outputs are dropped.

    The sets that several blocks share live here; a block's own live in its layer. One M^g for the whole stream has the
    width of its first stage; later ones see it through the frozen merging layers (VPT, arXiv:2203.12119).
    """

    def __init__(self, config: RowsSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.config = config
        self.stream = stream
        widths = {"input": {"input": stream.stages[0].width}, "stage": _stage_widths(stream), "block": {}}
        self.global_rows = nn.ParameterDict(
            {key: _rows(config.length, width, config.std) for key, width in widths[config.global_scope].items()}
            if config.length
            else {}
        )
        staged = config.frame_rows != "none" and config.frame_scope == "stage"
        self.frame_rows = nn.ParameterDict(
            {key: _rows(stream.segments, width, config.std) for key, width in _stage_widths(stream).items()}
            if staged
            else {}
        )

    def layer(self, block: BlockLayout) -> "RowsLayer | None":
        """A layer in every block; with ``frame_scope=paired`` only where the other stream runs too."""
        if self.config.frame_scope == "paired" and self.stream.paired and not block.paired:
            return None
        return RowsLayer(self.config, block)


class RowsLayer(PromptLayer):
    """The rows of one block."""

    made_again: ClassVar[bool] = False

    def __init__(self, config: RowsSettings, block: BlockLayout) -> None:
        super().__init__()
        self.config = config
        self.stage = str(block.stage)
        own_global = config.length and config.global_scope == "block"
        own_frame = config.frame_rows != "none" and config.frame_scope != "stage"
        self.global_rows = _rows(config.length, block.width, config.std) if own_global else None
        self.frame_rows = _rows(block.segments, block.width, config.std) if own_frame else None
        self.row_bias = row_bias(config)

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        """Rows M^g for all, M^f for the frame they belong to."""
        global_GD = carry = None
        if self.config.global_flow == "carry" and at.carried is not None:
            carry = at.lift(at.carried)
        elif self.config.global_flow == "carry":
            carry = self._global(at)
        else:
            global_GD = self._global(at)
        rows = tuple(piece for piece in (global_GD, self._frame(at.part)) if piece is not None)
        return Edit(rows=rows or None, carry=carry, row_bias=self.row_bias if rows else None)

    def _global(self, at: BlockView) -> Tensor | None:
        if not self.config.length or self.global_rows is not None:
            return self.global_rows
        if self.config.global_scope == "input":
            return at.lift(at.part.global_rows["input"])
        rows: Tensor = at.part.global_rows[self.stage]
        return rows

    def _frame(self, part: Rows) -> Tensor | None:
        """(T, D) for all frames, or (T, 1, D), a row for each."""
        if self.config.frame_rows == "none":
            return None
        frame_TD: Tensor = part.frame_rows[self.stage] if self.frame_rows is None else self.frame_rows
        return frame_TD if self.config.frame_rows == "all" else frame_TD[:, None]


def row_bias(config: RowsSettings | CouplingSettings) -> nn.Parameter | float | None:
    """The bias of a layer's rows, trained or not."""
    if not config.learn_row_bias:
        return config.row_bias
    return nn.Parameter(torch.tensor(config.row_bias))


def _rows(count: int, width: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width) * std)


def _stage_widths(stream: StreamLayout) -> dict[str, int]:
    return {str(number): stage.width for number, stage in enumerate(stream.stages)}
