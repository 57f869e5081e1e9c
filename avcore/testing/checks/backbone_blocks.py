"""Checks of the blocks of a backbone: rows, prefixes, windows, maps. Letters: M batch, N tokens, D width, R rows."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from avcore.backbones import Block
from avcore.specs import BlockLayout
from avcore.testing.cases import BackboneCase
from avcore.testing.checks import check
from avcore.testing.checks.compare import gap

TOLERANCE = 1e-4
"""Of what should be equal and is summed in another order, relative to the largest value."""
SHUT_OUT = -1e4
"""A bias at which a row says nothing."""


@check("backbone", "blocks")
def blocks(case: BackboneCase) -> None:
    """A block is one module of the tower, the same whenever it is asked for; its weights stand there alone."""
    for stream, tower in case.every_tower():
        known = {id(module) for module in tower.modules()}
        for number in range(tower.layout.depth):
            where = f"{case.where(stream)}, block {number}"
            assert tower.block(number) is tower.block(number), (
                f"{where}: asked for twice, it is another module. Make the blocks once, with the backbone, in the "
                f"places of the layers that they run."
            )
            assert id(tower.block(number)) in known, f"{where}: it is no module of the tower: register it."
        owned = {id(one) for number in range(tower.layout.depth) for one in tower.block(number).parameters()}
        names: dict[int, str] = {}
        for name, tensor in tower.state_dict(keep_vars=True).items():
            assert id(tensor) not in owned & names.keys(), (
                f"{case.where(stream)}: a weight stands there twice, as {names[id(tensor)]} and as {name}: what a "
                f"block reads beside its own layers is kept unregistered, such as in a tuple."
            )
            names[id(tensor)] = name


@check("backbone", "rows")
def rows(case: BackboneCase) -> None:
    """Rows are keys and values of all tokens, as carried rows are; given for all or each picture; by their bias."""
    for where, block, x, made in _every_stage(case):
        alone, _ = block.attention(x)
        with_rows, nothing = block.attention(x, rows=made)
        assert nothing is None, f"{where}: attention returns carried rows, and was given none."
        _close(where, "rows as (M, R, D) and as (R, D)", block.attention(x, rows=_each(made, x))[0], with_rows)
        assert gap(with_rows, alone) > TOLERANCE, f"{where}: rows change nothing for the tokens."
        _close(where, "rows and the same rows carried", block.attention(x, carry=_each(made, x))[0], with_rows)
        shut = x.new_full((len(made),), SHUT_OUT)
        _close(
            where,
            f"rows at a bias of {SHUT_OUT:g} and no rows",
            block.attention(x, rows=made, row_bias_R=shut)[0],
            alone,
        )
        neutral = x.new_full((len(made),), block.neutral_row_bias)
        _close(
            where,
            "rows at the neutral bias and at none",
            block.attention(x, rows=made, row_bias_R=neutral)[0],
            with_rows,
        )


@check("backbone", "rows in pieces")
def rows_in_pieces(case: BackboneCase) -> None:
    """Where a block takes rows in several tensors, those of segments follow each other as the segments do."""
    for where, block, x, made in _every_stage(case):
        if not block.takes_pieces:
            continue
        clips = torch.cat([x, x.flip(-1)])
        segments = torch.stack([made.roll(1, -1), made.roll(2, -1)])
        whole = torch.cat([_each(made, clips), segments.repeat(2, 1, 1)], dim=1)
        pieces: Any = (made, segments)
        _close(
            where,
            "rows of all and rows of two segments, and the same rows in one tensor of each sequence's,",
            block.attention(clips, rows=pieces)[0],
            block.attention(clips, rows=whole)[0],
        )


@check("backbone", "carried rows")
def carried_rows(case: BackboneCase) -> None:
    """Carried rows come out of attention and MLP in their own shape, and see the tokens."""
    for where, block, x, made in _every_stage(case):
        carry = _each(made, x)
        _, out = block.attention(x, carry=carry)
        assert out is not None, f"{where}: attention drops the increment of carried rows."
        assert out.shape == carry.shape, f"{where}: carried rows {tuple(carry.shape)} come out as {tuple(out.shape)}."
        _, other = block.attention(x.roll(1, 0) * 2, carry=carry)
        assert other is not None
        assert gap(other, out) > TOLERANCE, f"{where}: what becomes of carried rows does not depend on the tokens."
        wide = block.mlp(torch.cat([x, carry], dim=1))
        _close(where, "the MLP of tokens beside rows and of tokens alone", wide[:, : x.shape[1]], block.mlp(x))


@check("backbone", "norms behind sums")
def after_sums(case: BackboneCase) -> None:
    """What a block does behind its sums, `after_sum`, it does to each token and carried row by itself."""
    for where, block, x, made in _every_stage(case):
        for name in ("attention", "mlp"):
            alone, wide = block.after_sum(name, x), block.after_sum(name, torch.cat([x, _each(made, x)], dim=1))
            assert alone.shape == x.shape, (
                f"{where}: after_sum('{name}', x) makes {tuple(alone.shape)} of {tuple(x.shape)}."
            )
            _close(where, f"after_sum('{name}', ...) of tokens beside rows and alone", wide[:, : x.shape[1]], alone)


@check("backbone", "keys and values")
def keys_values(case: BackboneCase) -> None:
    """``kv`` stands beside the keys and values of the tokens as it is, and `keys_values` makes such pairs."""
    for where, block, x, made in _every_stage(case):
        alone, _ = block.attention(x)
        pair = (made, made.roll(1, 0))
        with_pair, _ = block.attention(x, kv=pair)
        assert gap(with_pair, alone) > TOLERANCE, f"{where}: kv changes nothing for the tokens."
        each = (_each(pair[0], x), _each(pair[1], x))
        _close(where, "kv as (M, R, D) and as (R, D)", block.attention(x, kv=each)[0], with_pair)
        shut = x.new_full((len(made),), SHUT_OUT)
        _close(where, f"kv at a bias of {SHUT_OUT:g} and none", block.attention(x, kv=pair, row_bias_R=shut)[0], alone)
        both, _ = block.attention(x, rows=made, kv=pair)
        assert min(gap(both, with_pair), gap(both, alone)) > TOLERANCE, f"{where}: rows beside kv change nothing."
        if type(block).keys_values is Block.keys_values:
            continue
        keys, values = block.keys_values(made)
        for name, tensor in (("keys", keys), ("values", values)):
            assert tensor.shape == made.shape, f"{where}: keys_values makes {name} {tuple(tensor.shape)}, not (R, D)."


@check("backbone", "gated attention")
def gated_attention(case: BackboneCase) -> None:
    """`gated_attention` is the increment times the gate, and so is the gradient of the gate."""
    for where, block, x, made in _every_stage(case):
        of_tokens = torch.linspace(-1, 1, x.shape[1], dtype=x.dtype, device=x.device)[:, None]
        for gate in (of_tokens.requires_grad_(), x.new_tensor(0.5).requires_grad_()):
            ways = (block.gated_attention(x, gate, rows=made), gate * block.attention(x, rows=made)[0])
            of_gate = [torch.autograd.grad(way.square().sum(), gate)[0] for way in ways]
            for what, (found, wanted) in (("the tokens", ways), ("the gate", of_gate)):
                _close(where, f"what gated_attention gives {what} and what a product with A(x) does", found, wanted)


@check("backbone", "free sequences")
def free_sequences(case: BackboneCase) -> None:
    """With ``windowed=False`` attention takes sequences of any number and length, in any order, and a bias."""
    for where, block, x, _ in _every_stage(case):
        some = x[:1, :3].repeat(5, 1, 1) + torch.randn(5, 3, x.shape[-1], generator=_draws())
        try:
            out, _ = block.attention(some, windowed=False)
        except Exception as error:
            raise AssertionError(
                f"{where}: attention over five sequences of three tokens fails with {type(error).__name__}: {error}. "
                f"With "
                f"windowed=False, parts attend over time or across both streams."
            ) from error
        _close(
            where,
            "sequences and their tokens in another order",
            block.attention(some.flip(0, 1), windowed=False)[0].flip(0, 1),
            out,
        )
        hidden = some.new_zeros(1, 3, 3)
        hidden[..., 2] = SHUT_OUT
        _close(
            where,
            f"tokens that see the third at bias_HNN={SHUT_OUT:g} and those without it",
            block.attention(some, windowed=False, bias_HNN=hidden)[0][:, :2],
            block.attention(some[:, :2], windowed=False)[0],
        )


@check("backbone", "windows")
def windows(case: BackboneCase) -> None:
    """`unwindows` undoes `windows`, which cuts tokens into windows of the layout's size."""
    for stream, tower in case.every_tower():
        for number, declared in enumerate(tower.layout.blocks):
            block, where = tower.block(number), f"{case.where(stream)}, block {number}"
            x = torch.randn(2, declared.tokens, declared.width, generator=_draws())
            cut = block.windows(x)
            assert torch.equal(block.unwindows(cut), x), f"{where}: unwindows(windows(x)) is not x."
            if declared.window is not None:
                size = declared.window[0] * declared.window[1]
                assert cut.shape[1] == size, f"{where}: windows of {declared.window} hold {cut.shape[1]} tokens."


@check("backbone", "lifted rows")
def lifted_rows(case: BackboneCase) -> None:
    """Rows of the first stage's width are lifted to every later stage's; rows of a block's own width stay as is."""
    for stream, tower in case.every_tower():
        first = tower.layout.stages[0].width
        for number, declared in enumerate(tower.layout.blocks):
            where = f"{case.where(stream)}, block {number}"
            lifted = tower.block(number).lift(torch.randn(3, first, generator=_draws()))
            assert lifted.shape == (3, declared.width), f"{where}: lift makes rows of {tuple(lifted.shape)}."
            own = torch.randn(2, 3, declared.width, generator=_draws())
            assert torch.equal(tower.block(number).lift(own), own), (
                f"{where}: lift changes rows of the block's own width."
            )


@check("backbone", "frozen maps")
def frozen_maps(case: BackboneCase) -> None:
    """``project`` is asked for increments of ``qkv``, ``proj``, ``fc1`` and ``fc2``; zeros change nothing."""
    for where, block, x, made in _every_stage(case):
        width = x.shape[-1]
        asked: dict[str, int] = {}

        def zeros(name: str, u: Tensor, asked: dict[str, int] = asked, width: int = width) -> Tensor | None:
            asked[name] = u.shape[-1]
            sizes = {"qkv": 3 * width, "proj": width, "fc2": width}
            return u.new_zeros(*u.shape[:-1], sizes[name]) if name in sizes else None

        out, _ = block.attention(x, rows=made, project=zeros)
        _close(where, "attention with increments of zero and without", out, block.attention(x, rows=made)[0])
        _close(where, "the MLP with increments of zero and without", block.mlp(x, project=zeros), block.mlp(x))
        known = {"qkv", "proj", "fc1", "fc2"}
        assert set(asked) <= known, (
            f"{where}: project is asked for '{min(set(asked) - known)}'; names: {sorted(known)}."
        )
        assert {"qkv", "proj"} <= set(asked), f"{where}: attention does not ask project for 'qkv' and 'proj'."

        def ramp(name: str, u: Tensor, width: int = width) -> Tensor | None:
            # No constant, which a norm behind the map would take out again.
            return torch.linspace(-1, 1, width).expand(*u.shape[:-1], -1) if name == "proj" else None

        moved, _ = block.attention(x, project=ramp)
        assert gap(moved, block.attention(x)[0]) > TOLERANCE, f"{where}: an increment of 'proj' changes nothing."


@check("backbone", "gradients pass")
def gradients_pass(case: BackboneCase) -> None:
    """Gradients reach tokens and rows through attention and MLP, although the weights need none."""
    for where, block, x, made in _every_stage(case):
        tokens, prompts = x.clone().requires_grad_(), made.clone().requires_grad_()
        for what, needing, out in (
            ("attention", (tokens, prompts), block.attention(tokens, rows=prompts)[0]),
            ("mlp", (tokens,), block.mlp(tokens)),
        ):
            assert out.requires_grad, f"{where}: no gradient passes through {what}: do not wrap it in torch.no_grad()."
            for tensor in torch.autograd.grad(out.square().sum(), needing, allow_unused=True):
                assert tensor is not None, f"{where}: {what} gives its input no gradient."


# --------------------------------------------------------------------------------------------------------------------
# Blocks to look at


def _every_stage(case: BackboneCase) -> Iterator[tuple[str, Block, Tensor, Tensor]]:
    """The first and the last block of each stage with random tokens (M, N, D) and rows (R, D)."""
    for stream, tower in case.every_tower():
        blocks = tower.layout.blocks
        for number, declared in enumerate(blocks):
            if _at_an_end(blocks, number):
                draws = _draws()
                x = torch.randn(2, declared.tokens, declared.width, generator=draws)
                made = torch.randn(3, declared.width, generator=draws)
                yield f"{case.where(stream)}, block {number}", tower.block(number), x, made


def _at_an_end(blocks: tuple[BlockLayout, ...], number: int) -> bool:
    stage = blocks[number].stage
    starts = number == 0 or blocks[number - 1].stage != stage
    return starts or number + 1 == len(blocks) or blocks[number + 1].stage != stage


def _draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _each(rows_RD: Tensor, x_MND: Tensor) -> Tensor:
    return rows_RD.expand(len(x_MND), -1, -1)


def _close(where: str, what: str, one: Tensor, other: Tensor) -> None:
    apart = gap(one, other)
    assert apart <= TOLERANCE, (
        f"{where}: {what} do not give the same (they differ by {apart:.2g} of the largest value)."
    )
