"""How the edits of several parts become one: rows, carries and prefixes concatenate in the order of the parts,
increments add. Shape letters: M batch, N tokens, D width, R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avcore.backbones.base import Rows
from avcore.errors import AssemblyError, AVCoreError
from avcore.injection.parts import Edit

__all__ = ["MergedEdit", "Owner", "merge_edits", "wrong_shape"]

Owner = tuple[str, str]
"""Name of a part and the stream it acts on: whom carried rows belong to."""


@dataclass(frozen=True)
class MergedEdit:
    """All edits of one site in one stream, in the stream's type."""

    add: Tensor | None = None
    rows: Rows = None
    kv: tuple[Tensor, Tensor] | None = None
    row_bias_R: Tensor | None = None
    carry: Tensor | None = None
    owners: tuple[tuple[Owner, int], ...] = field(default_factory=tuple)

    def split_carry(self, carry_MRD: Tensor) -> dict[Owner, Tensor]:
        """Give each owner its own carried rows back."""
        pieces = carry_MRD.split([rows for _, rows in self.owners], dim=1)
        return {owner: piece for (owner, _), piece in zip(self.owners, pieces, strict=True)}


def merge_edits(
    edits: Sequence[tuple[Owner, Edit]], x_MND: Tensor, neutral_row_bias: float, *, segments: int, pieces: bool
) -> MergedEdit:
    """Merge what the parts ask for at one site of one stream.

    Args:
        edits: each with the part it comes from, in the order of the parts.
        x_MND: the tokens of the stream: their type is that of the result.
        neutral_row_bias: the family's bias for rows that name none.
        segments: T.
        pieces: rows stay as they were given, for a block that `takes_pieces`.

    Raises:
        AVCoreError: a tensor has another shape than the stream takes; names the part.
    """
    if not edits:
        return MergedEdit()
    _check_shapes(edits, x_MND, segments)
    adds = [edit.add.to(x_MND.dtype) for _, edit in edits if edit.add is not None]
    rows = [piece.to(x_MND.dtype) for _, edit in edits for piece in _pieces(edit)]
    keys = [edit.kv[0].to(x_MND.dtype) for _, edit in edits if edit.kv is not None]
    values = [edit.kv[1].to(x_MND.dtype) for _, edit in edits if edit.kv is not None]
    carries = [(owner, edit.carry.to(x_MND.dtype)) for owner, edit in edits if edit.carry is not None]
    return MergedEdit(
        add=sum(adds[1:], start=adds[0]) if adds else None,
        rows=None if not rows else tuple(rows) if pieces else _join(rows, x_MND),
        kv=(_join(keys, x_MND), _join(values, x_MND)) if keys else None,
        row_bias_R=_row_bias([edit for _, edit in edits], x_MND, neutral_row_bias),
        carry=torch.cat([_batched(rows, x_MND) for _, rows in carries], dim=1) if carries else None,
        owners=tuple((owner, rows.shape[-2]) for owner, rows in carries),
    )


def _pieces(edit: Edit) -> Sequence[Tensor]:
    return () if edit.rows is None else (edit.rows,) if isinstance(edit.rows, Tensor) else edit.rows


def _check_shapes(edits: Sequence[tuple[Owner, Edit]], x_MND: Tensor, segments: int) -> None:
    batch, _, width = x_MND.shape
    for owner, edit in edits:
        if edit.add is not None:
            sizes = zip(edit.add.shape[::-1], x_MND.shape[::-1], strict=False)
            if edit.add.dim() > x_MND.dim() or any(size not in (1, whole) for size, whole in sizes):
                raise wrong_shape(owner, "add", edit.add, x_MND, "(M, N, D) or what broadcasts to it")
        keys, values = edit.kv or (None, None)
        for piece in _pieces(edit):
            if piece.shape[-1] != width or tuple(piece.shape[:-2]) not in ((), (segments,), (batch,)):
                raise wrong_shape(owner, "rows", piece, x_MND, "(R, D), (T, R, D) or (M, R, D)")
        for name, rows in (("carry", edit.carry), ("kv", keys), ("kv", values)):
            fits = rows is None or (rows.shape[-1] == width and tuple(rows.shape[:-2]) in ((), (batch,)))
            if rows is not None and not fits:
                raise wrong_shape(owner, name, rows, x_MND, "(R, D) or (M, R, D)")


def wrong_shape(owner: Owner, what: str, tensor: Tensor, x_MND: Tensor, wanted: str) -> AVCoreError:
    """The refusal of a tensor that does not fit the tokens of its stream."""
    part, stream = owner
    found, tokens = tuple(tensor.shape), tuple(x_MND.shape)
    return AssemblyError(
        f"Part '{part}' gives '{what}' of {found} for {stream} tokens of {tokens}, (M, N, D), which take {wanted}. If "
        f"the part was made for streams of equal widths or grids, its spec has to say so in 'requires' "
        f"(Need.EQUAL_WIDTHS, ...), or in 'as_own' and read the other stream by it: tell its author, and choose other "
        f"backbones or leave it out."
    )


def _batched(rows: Tensor, x_MND: Tensor) -> Tensor:
    if rows.dim() == 2:
        return rows.expand(x_MND.shape[0], -1, -1)
    # One set for each segment, the same in every clip.
    return rows if len(rows) == len(x_MND) else rows.repeat(len(x_MND) // len(rows), 1, 1)


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
            columns.append(x_MND.new_zeros(sum(piece.shape[-2] for piece in _pieces(edit))) + bias)
    for edit in edits:
        if edit.kv is not None:
            columns.append(x_MND.new_full((edit.kv[0].shape[-2],), neutral))
    return torch.cat(columns)
