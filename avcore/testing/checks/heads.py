"""Checks of heads. Shape letters: B clips."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from avcore.errors import did_you_mean
from avcore.specs import TEXTS
from avcore.streams import TextEncoder
from avcore.tasks import Batch, Progress
from avcore.testing.cases import HeadCase
from avcore.testing.cases.heads import padded
from avcore.testing.checks import Skipped, check
from avcore.testing.checks.compare import gap

TOLERANCE = 1e-4
"""Of what should be equal and is summed in another order, relative to the largest value."""
FIRST, LAST = Progress(epoch=0, epochs=9, step=0, steps=90), Progress(epoch=8, epochs=9, step=89, steps=90)
"""Of a training of nine epochs with ten steps each."""
SOUND_TEXT = TEXTS[1]
WAYS = ("plain", "parts")
"""How a head may ask for the features of a companion."""
KINDS = ("segments", "clip", "masks", "answer", "parsing")
"""The kinds of task that `TaskSpec` names; authors may name others."""


@check("head", "outputs")
def outputs(case: HeadCase) -> None:
    """Named outputs are finite, and predictions have the clips along their first axis."""
    world = case.world
    batch = world.batch()
    out = world.forward(batch)
    assert out.values, f"Head '{case.spec.name}' returns no output."
    for name, tensor in out.values.items():
        assert torch.isfinite(tensor).all(), f"Head '{case.spec.name}': its output '{name}' is not finite."
    prediction = world.prediction(batch)
    assert prediction, f"Head '{case.spec.name}' predicts nothing."
    for name, tensor in prediction.items():
        assert tuple(tensor.shape[:1]) == (len(batch),), (
            f"Head '{case.spec.name}': the prediction '{name}' is {tuple(tensor.shape)} for {len(batch)} clips; its "
            f"first "
            f"axis must be B."
        )


@check("head", "prediction axes")
def prediction_axes(case: HeadCase) -> None:
    """Predictions have the axes that the task declares: (B, T, ...) for ``segment``, (B, T, Y, X) for ``pixel``."""
    world = case.world
    declared, segments = world.model.task.prediction, world.model.segments
    for name, tensor in world.prediction(world.batch()).items():
        # What a task does not declare of its own default head, its own check finds.
        assert name in declared or world.task.head == case.spec.name, (
            f"Head '{case.spec.name}' predicts '{name}', and the task '{world.task.name}' declares "
            f"{', '.join(declared) or 'nothing'}: a prediction of another name is not shown by 'avcore predict'."
        )
        axes, shape = declared.get(name), tuple(tensor.shape)
        fits = shape[1:2] == (segments,) and (axes == "segment" or len(shape) == 4)
        assert axes not in ("segment", "pixel") or fits, (
            f"Head '{case.spec.name}': the prediction '{name}' is {shape} with {segments} segments, and the task "
            f"'{world.task.name}' declares it '{axes}': "
            f"{'(B, T, Y, X)' if axes == 'pixel' else '(B, T, ...)'}."
        )


@check("head", "serves")
def serves(case: HeadCase) -> None:
    """What ``HeadSpec.serves`` names is a kind of task that there is, or an installed task by its name."""
    tasks = [*case.registry.tasks]
    known = sorted({*KINDS, *(task.name for task in tasks), *(task.kind for task in tasks if task.kind)})
    for name in case.spec.serves:
        assert name in known, (
            f"Head '{case.spec.name}' serves '{name}', which is no kind of task and no task that is installed."
            f"{did_you_mean(name, known)} Known: {', '.join(known)}."
        )


@check("head", "companions")
def companions(case: HeadCase) -> None:
    """It asks for companions that the data set draws, as ``plain`` or ``parts``, and predicts without them too."""
    world = case.world
    name, asked = case.spec.name, dict(world.model.head.companions)
    for companion, way in asked.items():
        assert way in WAYS, (
            f"Head '{name}' asks for the companion '{companion}' as {way!r}; it may be {' or '.join(WAYS)}."
        )
    for companion in world.model.head.companion_reads:
        assert asked.get(companion) == "plain", (
            f"Head '{name}' says in companion_reads what it reads of '{companion}', which it does not ask for as "
            f"'plain': those that go through the parts are made whole."
        )
    batch = world.batch()
    lacking = sorted({*asked} - {*batch.companions})
    assert not lacking, (
        f"Head '{name}' asks for the companion '{lacking[0]}', and the clips of the data set for '{world.task.name}' "
        f"come with {', '.join(batch.companions) or 'none'}: draw it in the reader's 'draw'."
    )
    if not asked:
        return
    try:
        world.prediction(replace(batch, companions={}))
    except Exception as error:
        raise AssertionError(
            f"Head '{name}' fails on clips without companions with {type(error).__name__}: {error}. The video of a "
            f"person has none: look whether features.companions holds one."
        ) from error


@check("head", "sentences for sound")
def sentences_for_sound(case: HeadCase) -> None:
    """A head that may be given ``text_audio`` beside ``text`` runs with both, and calls both."""
    name = case.spec.name
    alone = case.world.model
    if SOUND_TEXT not in case.spec.calls(alone.config.head.settings):
        raise Skipped(f"'{name}' calls no encoder of sentences for sound.")
    calls: list[str] = []
    world = case.world.beside(f"{SOUND_TEXT}.backbone=toy_text")
    for one, encoder in world.model.encoders.items():
        # Of a block: a head may walk the tower by itself.
        block = cast(TextEncoder, encoder).tower.block(0)
        block.register_forward_hook(lambda *_, one=one: calls.append(one))
    for name_of, tensor in world.forward(world.batch()).values.items():
        assert torch.isfinite(tensor).all(), f"Head '{name}' with '{SOUND_TEXT}': its output '{name_of}' is not finite."
    missed = [one for one in world.model.encoders if one not in calls]
    assert not missed, f"Head '{name}' may be given '{missed[0]}' beside other sentences and never calls it."


@check("head", "targets")
def targets(case: HeadCase) -> None:
    """The targets that it declares are as the data set has them, its losses need no other, and run on shapes alone."""
    world, name = case.world, case.spec.name
    declared = world.model.head.targets
    if not declared:
        raise Skipped(f"'{name}' declares no targets: it is followed from its outputs.")
    batch = world.batch()
    for target, wanted in declared.items():
        assert target in batch.targets, (
            f"Head '{name}' declares the target '{target}', and the data set for '{world.task.name}' has "
            f"{', '.join(batch.targets)}.{did_you_mean(target, batch.targets)}"
        )
        found, expected = batch.targets[target], wanted.zeros(len(batch))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), (
            f"Head '{name}' declares the target '{target}' as {tuple(expected.shape)} {expected.dtype}; the data set "
            f"has {tuple(found.shape)} {found.dtype}."
        )
    given = replace(batch, targets={target: batch.targets[target] for target in declared})
    values = {key: value.to("meta") for key, value in world.forward(batch).values.items()}
    try:
        world.model.head.loss(values, given.map(lambda tensor: tensor.to("meta")), FIRST)
    except KeyError as error:
        raise AssertionError(
            f"Head '{name}': its loss reads {error}, which it does not declare in 'targets'."
        ) from error
    except Exception as error:
        raise AssertionError(
            f"Head '{name}': its loss does not run on shapes alone: {type(error).__name__}: {error}. Weigh by "
            f"batch.valid instead of choosing by it, and ask no tensor for its value."
        ) from error


@check("head", "losses")
def losses(case: HeadCase) -> None:
    """Loss terms are named, finite scalars, and every parameter of the head gets a gradient from them."""
    world, name = case.world, case.spec.name
    batch = world.batch()
    out = world.forward(batch, training=True)
    terms = world.model.head.loss(out.values, batch, FIRST)
    assert terms, f"Head '{name}' returns no loss."
    _check_terms(name, terms)
    head = world.model.head
    head.zero_grad(set_to_none=True)
    _go_back(terms)
    for key, parameter in head.named_parameters():
        assert parameter.requires_grad, f"Head '{name}': {key} needs no gradient, so it is not saved: make it a buffer."
        assert parameter.grad is not None, (
            f"Head '{name}': no loss gives {key} a gradient: do not make it, and list it in unused_in_reference."
        )
        assert torch.isfinite(parameter.grad).all(), f"Head '{name}': the gradient of {key} is not finite."
    head.zero_grad(set_to_none=True)


@check("head", "untrained")
def untrained(case: HeadCase) -> None:
    """A head that answers without training has nothing to train."""
    if not case.spec.untrained:
        raise Skipped(f"'{case.spec.name}' is trained.")
    found = [name for name, _ in case.world.model.head.named_parameters()]
    assert not found, (
        f"Head '{case.spec.name}' is said to answer without training, and has {', '.join(found[:3])} to train: make "
        f"them buffers, or leave out HeadSpec.untrained."
    )


def _go_back(terms: Mapping[str, Tensor]) -> None:
    """Gradients of all terms; none where nothing on the way is trained."""
    total = torch.stack([term.float() for term in terms.values()]).sum()
    if total.requires_grad:
        total.backward()


def _check_terms(name: str, terms: Mapping[str, Tensor]) -> None:
    for key, term in terms.items():
        assert term.dim() == 0, f"Head '{name}': the loss '{key}' is {tuple(term.shape)}, no scalar."
        assert torch.isfinite(term), f"Head '{name}': the loss '{key}' is {term.item()}."


@check("head", "progress")
def progress(case: HeadCase) -> None:
    """Losses depend on their arguments alone, and are finite in the first step of a training and in the last."""
    world, name = case.world, case.spec.name
    batch = world.batch()
    out = world.forward(batch)
    first, last, again = (world.model.head.loss(out.values, batch, at) for at in (FIRST, LAST, FIRST))
    assert first.keys() == last.keys(), (
        f"Head '{name}' has the losses {', '.join(first)} at first and {', '.join(last)} at last: a term whose time "
        f"has not come is zero, so that the same parameters are trained in every step."
    )
    _check_terms(name, first)
    _check_terms(name, last)
    for key, term in first.items():
        assert torch.equal(again[key], term), (
            f"Head '{name}': the loss '{key}' is {term.item():.6g}, and {again[key].item():.6g} when it is asked for "
            f"again: it must depend on output, batch and progress alone. What changes with the training is in progress."
        )


@check("head", "padded clips")
def padded_clips(case: HeadCase) -> None:
    """A clip that only fills a batch up (``valid`` False) changes no loss."""
    world, batch = case.world, case.world.batch()
    one = world.model.head.loss(world.forward(batch).values, batch, FIRST)
    more = padded(batch)
    other = world.model.head.loss(world.forward(more).values, more, FIRST)
    for key, term in one.items():
        assert gap(other[key], term) <= TOLERANCE, (
            f"Head '{case.spec.name}': the loss '{key}' is {term.item():.6g}, and {other[key].item():.6g} when a clip "
            f"that "
            f"is not valid fills the batch up: leave out what batch.valid marks as False."
        )


@check("head", "batch equivariance")
def batch_equivariance(case: HeadCase) -> None:
    """In evaluation, a clip alone gives the outputs that it gives among others, and twice the same."""
    world, batch = case.world, case.world.batch()
    whole = world.forward(batch)
    for number in range(len(batch)):
        alone = world.forward(_only(batch, number))
        for name, tensor in whole.values.items():
            assert tensor.dim(), f"Head '{case.spec.name}': '{name}' is one number; its first axis must be B, or B*T."
            share = len(tensor) // len(batch)
            expected = tensor[number * share : (number + 1) * share]
            assert alone[name].shape == expected.shape, (
                f"Head '{case.spec.name}': '{name}' of a clip alone is {tuple(alone[name].shape)}, not "
                f"{tuple(expected.shape)}: its first axis must be B, or B*T."
            )
            assert not expected.is_floating_point() or gap(alone[name], expected) <= TOLERANCE, (
                f"Head '{case.spec.name}': a clip alone gives another '{name}' than among others: clips must not see "
                f"each "
                f"other in evaluation."
            )


def _only(batch: Batch, number: int) -> Batch:
    chosen = slice(number, number + 1)
    return replace(batch.map(lambda tensor: tensor[chosen]), names=batch.names[chosen])


@check("head", "autocast")
def autocast(case: HeadCase) -> None:
    """Under bf16 autocast the losses are finite and can be gone back through."""
    world, batch = case.world, case.world.batch()
    try:
        with torch.autocast("cpu", torch.bfloat16):
            out = world.forward(batch, training=True)
            terms = world.model.losses(out, batch, FIRST)
        _go_back(terms)
    except Exception as error:
        raise AssertionError(
            f"Head '{case.spec.name}' under bf16 autocast fails with {type(error).__name__}: {error}"
        ) from error
    finally:
        world.model.head.zero_grad(set_to_none=True)
    _check_terms(case.spec.name, terms)
