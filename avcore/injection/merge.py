"""How the edits of several parts become one: rows, carries and prefixes concatenate in the order of the parts,
increments add. Shape letters: M batch, N tokens, D width, R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avcore.injection.parts import Edit

__all__ = ["MergedEdit", "Owner", "merge_edits"]

Owner = tuple[str, str]
"""Name of a part and the stream it acts on: whom carried rows belong to."""


@dataclass(frozen=True)
class MergedEdit:
    """All edits of one site in one stream, in the stream's type."""

    add: Tensor | None = None
    rows: Tensor | None = None
    kv: tuple[Tensor, Tensor] | None = None
    row_bias_R: Tensor | None = None
    carry: Tensor | None = None
    owners: tuple[tuple[Owner, int], ...] = field(default_factory=tuple)

    def split_carry(self, carry_MRD: Tensor) -> dict[Owner, Tensor]:
        """Give each owner its own carried rows back."""
        pieces = carry_MRD.split([rows for _, rows in self.owners], dim=1)
        return {owner: piece for (owner, _), piece in zip(self.owners, pieces, strict=True)}


def merge_edits(edits: Sequence[tuple[Owner, Edit]], x_MND: Tensor, neutral_row_bias: float) -> MergedEdit:
    """Merge what the parts ask for at one site of one stream.

    Args:
        edits: each with the part it comes from, in the order of the parts.
        x_MND: the tokens of the stream: their type is that of the result.
        neutral_row_bias: the family's bias for rows that name none.
    """
    if not edits:
        return MergedEdit()
    adds = [edit.add.to(x_MND.dtype) for _, edit in edits if edit.add is not None]
    rows = [edit.rows.to(x_MND.dtype) for _, edit in edits if edit.rows is not None]
    keys = [edit.kv[0].to(x_MND.dtype) for _, edit in edits if edit.kv is not None]
    values = [edit.kv[1].to(x_MND.dtype) for _, edit in edits if edit.kv is not None]
    carries = [(owner, edit.carry.to(x_MND.dtype)) for owner, edit in edits if edit.carry is not None]
    return MergedEdit(
        add=sum(adds[1:], start=adds[0]) if adds else None,
        rows=_join(rows, x_MND) if rows else None,
        kv=(_join(keys, x_MND), _join(values, x_MND)) if keys else None,
        row_bias_R=_row_bias([edit for _, edit in edits], x_MND, neutral_row_bias),
        carry=torch.cat([_batched(rows, x_MND) for _, rows in carries], dim=1) if carries else None,
        owners=tuple((owner, rows.shape[-2]) for owner, rows in carries),
    )


def _batched(rows: Tensor, x_MND: Tensor) -> Tensor:
    return rows.expand(x_MND.shape[0], -1, -1) if rows.dim() == 2 else rows


def _join(pieces: list[Tensor], x_MND: Tensor) -> Tensor:
    # Rows common to the batch stay (R, D), so that their keys and values are computed once.
    if any(piece.dim() == 3 for piece in pieces):
        pieces = [_batched(piece, x_MND) for piece in pieces]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-2)


def _row_bias(edits: Sequence[Edit], x_MND: Tensor, neutral: float) -> Tensor | None:
    if all(edit.row_bias is None for edit in edits):
        return None
    columns = []
    for edit in edits:
        if edit.rows is not None:
            bias = neutral if edit.row_bias is None else edit.row_bias
            columns.append(x_MND.new_zeros(edit.rows.shape[-2]) + bias)
    for edit in edits:
        if edit.kv is not None:
            columns.append(x_MND.new_full((edit.kv[0].shape[-2],), neutral))
    return torch.cat(columns)
