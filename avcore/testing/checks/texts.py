"""Checks of backbones that read sentences. Shape letters: K sentences, L ids of each, N tokens, D width."""

import torch
from torch import Tensor

from avcore.backbones import Block, TextTower, digest
from avcore.specs import TextGeometry, resolve
from avcore.testing.cases import BackboneCase
from avcore.testing.checks import Skipped, check
from avcore.testing.checks.backbones import TOLERANCE, offline
from avcore.testing.checks.compare import gap

SENTENCES = ["rain", "a dog barks at the door", "somebody plays"]


@check("backbone", "sentences")
def sentences(case: BackboneCase) -> None:
    """Sentences become ids without a network, tokens as the layout declares, and one vector each; so do they alone."""
    tower, where = case.text(), case.where("text")
    ids = _ids(tower, where)
    stage = tower.layout.stages[-1]
    with torch.no_grad():
        x = tower.embed(ids)
        _same(where, "the embedded tokens", x, (len(ids), tower.layout.stages[0].tokens, tower.layout.stages[0].width))
        tokens = _through(tower, x, ids)
        _same(where, "the tokens behind the blocks", tokens, (len(ids), stage.tokens, stage.width))
        _same(where, "the map", tower.map(tokens, stage), (len(ids), stage.width, *stage.grid))
        pooled = tower.pool(tokens, ids)
        _same(where, "what 'pool' makes", pooled, (len(ids), tower.layout.width))
        for number in range(len(ids)):
            one = ids[number : number + 1]
            alone = tower.pool(_through(tower, tower.embed(one), one), one)[0]
            assert gap(alone, pooled[number]) <= TOLERANCE, (
                f"{where}: a sentence alone gives another vector than beside others: sentences must not see each other."
            )


@check("backbone", "hidden tokens")
def hidden_tokens(case: BackboneCase) -> None:
    """What `key_bias` hides of a sentence changes neither its vector nor what carried rows become."""
    tower, where = case.text(), case.where("text")
    ids = _ids(tower, where)
    bias = tower.key_bias(ids)
    if bias is None:
        raise Skipped(f"'{case.member}' hides no token of a sentence.")
    x = tower.embed(ids)
    _same(where, "what 'key_bias' makes", bias, (len(ids), 1, 1, x.shape[1]))
    hidden_KN = bias[:, 0, 0] == -torch.inf
    assert hidden_KN.any(), f"{where}: 'key_bias' hides nothing, though sentences of fewer words are filled up."
    other = torch.where(hidden_KN[..., None], -x, x)
    rows = torch.randn(len(ids), 2, x.shape[2])
    with torch.no_grad():
        found, changed = (tower.pool(_through(tower, tokens, ids), ids) for tokens in (x, other))
        _, carried = tower.block(0).attention(x, carry=rows, bias_HNN=bias)
        _, moved = tower.block(0).attention(other, carry=rows, bias_HNN=bias)
    assert carried is not None
    assert moved is not None
    for what, before, after in (("its vector", found, changed), ("carried rows", carried, moved)):
        assert gap(before, after) <= TOLERANCE, (
            f"{where}: {what} depends on a token that 'key_bias' hides: add bias_HNN to the logits of all queries."
        )


@check("backbone", "shared space")
def shared_space(case: BackboneCase) -> None:
    """`project` gives vectors of the width that the layout calls shared; where that is None it is not offered."""
    found = [(stream, tower) for stream, tower in case.every_tower()]
    for stream, tower in found:
        shared, where = tower.layout.shared, case.where(stream)
        try:
            with torch.no_grad():
                made = tower.project(torch.randn(2, tower.layout.width))
        except NotImplementedError:
            assert shared is None, f"{where}: layout.shared is {shared}, and 'project' is not implemented."
            continue
        assert shared is not None, f"{where}: 'project' works, but layout.shared is None: declare its width."
        _same(where, "what 'project' makes", made, (2, shared))


@check("backbone", "frozen sentences")
def frozen_sentences(case: BackboneCase) -> None:
    """What reads sentences needs no gradient, stays in evaluation, and is the same after a forward and a backward."""
    tower, where = case.fresh_text(), case.where("text")
    before = digest(tower)
    tower.train()
    training = [name or "itself" for name, module in tower.named_modules() if module.training]
    assert not training, f"{where}: after .train(), {training[0]} is in training mode."
    needing = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    assert not needing, f"{where}: {needing[0]} needs a gradient: call freeze() at the end."
    ids = _ids(tower, where)
    x = tower.embed(ids).requires_grad_()
    tower.pool(_through(tower, x, ids), ids).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0, f"{where}: no gradient reaches the embedded tokens."
    assert digest(tower) == before, f"{where}: a forward changes the weights."


@check("backbone", "types of sentences")
def types_of_sentences(case: BackboneCase) -> None:
    """What reads sentences works in bfloat16 and in float64, and has the same layout without weights."""
    where = case.where("text")
    for kind in (torch.bfloat16, torch.float64):
        tower = case.fresh_text().to(kind)
        found = tower.block(0).dtype
        assert found == kind, f"{where}: weights in {kind}, but Block.dtype says {found}."
        ids = _ids(tower, where)
        with torch.no_grad():
            pooled = tower.pool(_through(tower, tower.embed(ids), ids), ids)
        assert torch.isfinite(pooled).all(), f"{where} in {kind}: not finite."
    with torch.device("meta"):
        shapes = case.fresh_text()
    assert shapes.layout == case.text().layout, f"{where}: on the meta device the layout is another."


def _ids(tower: TextTower, where: str) -> Tensor:
    geometry = tower.geometry
    assert isinstance(geometry, TextGeometry), f"{where}: the geometry is {geometry!r}, no TextGeometry."
    with offline():
        ids: Tensor = resolve(geometry.tokenizer)(SENTENCES, length=geometry.length)
    assert ids.dtype == torch.int64, f"{where}: ids are {ids.dtype}, not torch.int64."
    _same(where, "the ids", ids, (len(SENTENCES), geometry.length))
    assert ids.min() >= 0, f"{where}: an id is {ids.min()}."
    assert ids.max() < geometry.vocabulary, f"{where}: an id is {ids.max()}, of a vocabulary of {geometry.vocabulary}."
    return ids


def _through(tower: TextTower, x_KND: Tensor, ids_KL: Tensor) -> Tensor:
    """Normed tokens."""
    x_KND, bias = tower.enter(x_KND), tower.key_bias(ids_KL)
    for number in range(tower.layout.depth):
        block: Block = tower.block(number)
        x_KND = block.after_sum("attention", x_KND + block.attention(x_KND, bias_HNN=bias)[0])
        x_KND = block.after_sum("mlp", x_KND + block.mlp(x_KND))
    return tower.norm(x_KND)


def _same(where: str, what: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    assert tuple(tensor.shape) == expected, f"{where}: {what} are {tuple(tensor.shape)}, but declared {expected}."
