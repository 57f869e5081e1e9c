"""Checks of a family of backbones, by one of its members. Shape letters: M batch, N tokens, D width, R rows."""

import copy
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from avcore.backbones import Backbone, Tower, digest
from avcore.backbones.copies import standing_in
from avcore.model import AVModel
from avcore.specs import resolve
from avcore.streams import Stream
from avcore.tasks import Batch
from avcore.testing.cases import BackboneCase
from avcore.testing.checks import Skipped, check, refusal
from avcore.testing.checks.compare import gap
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_batch

TOLERANCE = 1e-4
"""Of what should be equal and is summed in another order, relative to the largest value."""


@check("backbone", "layout")
def layout(case: BackboneCase) -> None:
    """Tokens have the shapes that the layout declares: embedded, at every block, at the taps and pooled."""
    model = case.model()
    images = model.front_ends(make_batch(model, 5))
    for stream, tower in case.towers(model):
        declared = tower.layout
        with torch.no_grad():
            x = tower.enter(tower.embed(images[stream]))
            frames = len(images[stream])
            for number, block in enumerate(declared.blocks):
                if number and block.stage != declared.blocks[number - 1].stage:
                    x = tower.merge(x, block.stage)
                _same_shape(case, stream, f"the tokens at block {number}", x, (frames, block.tokens, block.width))
                assert block.width % block.heads == 0, (
                    f"{case.where(stream)}: block {number} has {block.heads} heads, which do not divide its width "
                    f"{block.width}."
                )
                if number in declared.taps:
                    stage = declared.stages[block.stage]
                    picture = tower.map(x, stage)
                    _same_shape(case, stream, f"the map at block {number}", picture, (frames, stage.width, *stage.grid))
                x = _through(tower, number, x)
            normed = tower.norm(x)
            _same_shape(case, stream, "what 'norm' makes", normed, tuple(x.shape))
            _same_shape(case, stream, "what 'pool' makes", tower.pool(normed), (frames, declared.width))
        depth, taps = declared.depth, declared.taps
        assert taps and list(taps) == sorted(set(taps)) and taps[-1] < depth, (  # noqa: PT018 - one message for all
            f"{case.where(stream)}: taps are {taps}; they must be different blocks from 0 to {depth - 1}, in order."
        )


def _same_shape(case: BackboneCase, stream: str, what: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    found = tuple(tensor.shape)
    assert found == expected, f"{case.where(stream)}: {what} are {found}, but the layout says {expected}."


def _through(tower: Tower, index: int, x_MND: Tensor) -> Tensor:
    out: Tensor = tower.block(index)(x_MND)
    return out


@check("backbone", "layout without weights")
def layout_without_weights(case: BackboneCase) -> None:
    """On the meta device the backbone is made without weights, and has the same layout."""
    try:
        shapes = case.shapes()
    except Skipped:
        raise
    except Exception as error:
        raise AssertionError(
            f"'{case.member}' cannot be made on the meta device: {type(error).__name__}: {error}. There, load no "
            f"weights "
            f"and look at no values."
        ) from error
    for (stream, one), (_, other) in zip(case.towers(shapes), case.towers(case.model()), strict=True):
        assert one.layout == other.layout, (
            f"{case.where(stream)}: on the meta device the layout is {one.layout}, with weights {other.layout}."
        )


@check("backbone", "one clip, one segment")
def one_clip(case: BackboneCase) -> None:
    """One clip of one segment goes through, and gives what it gives beside others."""
    model = case.model(segments=1)
    batch = make_batch(model, 3)
    with torch.no_grad():
        both = model.features(batch)
        batch.frames = None if batch.frames is None else batch.frames[:1]
        batch.waveform = None if batch.waveform is None else batch.waveform[:1]
        alone = model.features(batch)
    for stream in case.streams:
        found, expected = alone.stream(stream).tokens, both.stream(stream).tokens[:1]
        assert gap(found, expected) <= TOLERANCE, (
            f"{case.where(stream)}: a clip alone gives other tokens than beside another: clips must not see each other."
        )


@check("backbone", "frozen")
def frozen(case: BackboneCase) -> None:
    """No weight needs a gradient, and after ``.train()`` everything stays in evaluation and gives the same."""
    model = case.fresh()
    batch = make_batch(model)
    with torch.no_grad():
        before = model.features(batch)
    model.train()
    for stream, tower in case.towers(model):
        needing = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
        assert not needing, f"{case.where(stream)}: {needing[0]} needs a gradient: call freeze() at the end."
        training = [name or "itself" for name, module in tower.named_modules() if module.training]
        assert not training, (
            f"{case.where(stream)}: after .train(), {training[0]} is in training mode: derive from avcore's "
            f"Backbone and "
            f"Tower, and do not override train()."
        )
    with torch.no_grad():
        after = model.features(batch)
    for stream in case.streams:
        same = torch.equal(before.stream(stream).tokens, after.stream(stream).tokens)
        assert same, f"{case.where(stream)}: after .train() it gives other tokens."


@check("backbone", "digest")
def frozen_digest(case: BackboneCase) -> None:
    """Weights and buffers are the same after a forward and a backward, and so is their digest."""
    model = case.fresh()
    buffers = {name: tensor.clone() for name, tensor in model.towers.named_buffers()}
    model.train()
    batch = make_batch(model)
    out = model(batch)
    model.loss(out, batch).backward()
    assert digest(model.towers) == model.backbone_digest, f"'{case.member}': a forward changes its weights."
    for name, tensor in model.towers.named_buffers():
        assert torch.equal(buffers[name], tensor), f"'{case.member}': a forward changes the buffer {name}."


@check("backbone", "plain forward")
def plain_forward(case: BackboneCase) -> None:
    """Without parts, the model's forward equals the plain walk through the blocks bit for bit, twice."""
    model = case.model()
    batch = make_batch(model)
    with torch.no_grad():
        features = model.features(batch)
        for stream in case.streams:
            for _ in range(2):
                plain = model.plain(stream, batch)
                for name in ("tokens", "pooled"):
                    assert torch.equal(getattr(plain, name), getattr(features.stream(stream), name)), (
                        f"{case.where(stream)}: the model's {name} differ from those of the blocks called one after "
                        f"the "
                        f"other: a block must keep no state and draw no random number."
                    )


@check("backbone", "trained copies")
def trained_copies(case: BackboneCase) -> None:
    """Whatever the tower offers to be trained is used from its place: a copy that stands there gets a gradient."""
    model = case.model()
    images = model.front_ends(make_batch(model, 2))
    for stream, tower in case.towers(model):
        offered = tower.trainable
        copies = {module: copy.deepcopy(module).requires_grad_(True) for module in offered.values()}
        towers = (tower, standing_in(tower, copies, {}))
        made = [Stream(stream, one, nn.Identity(), tower.layout.segments)(images[stream]).pooled for one in towers]
        assert gap(*made) <= TOLERANCE, f"{case.where(stream)}: with copies of what 'trainable' offers it gives others."
        first, total = [next(copies[module].parameters()) for module in offered.values()], made[1].sum()
        found = torch.autograd.grad(total, first, allow_unused=True) if total.requires_grad else [None] * len(first)
        unused = [name for name, gradient in zip(offered, found, strict=True) if gradient is None]
        assert not unused, (
            f"{case.where(stream)}: 'trainable' offers '{unused[0]}', but a copy in its place is not used: offer what "
            f"is a registered submodule of the tower, and call it from there."
        )


@check("backbone", "types")
def types(case: BackboneCase) -> None:
    """Weights in bfloat16 and in float64 work, and ``Block.dtype`` says which they are."""
    for kind in (torch.bfloat16, torch.float64):
        model = case.fresh()
        if kind == torch.float64:
            model.double()
        else:
            model.towers.to(kind)
        for stream, tower in case.towers(model):
            found = tower.block(0).dtype
            assert found == kind, f"{case.where(stream)}: weights in {kind}, but Block.dtype says {found}."
        try:
            with torch.no_grad():
                features = model.features(make_batch(model))
        except Exception as error:
            raise AssertionError(f"'{case.member}' in {kind} fails with {type(error).__name__}: {error}.") from error
        for stream in case.streams:
            assert torch.isfinite(features.stream(stream).tokens).all(), f"{case.where(stream)} in {kind}: not finite."


@check("backbone", "compile")
def compiles(case: BackboneCase) -> None:
    """A step of the forward is traced by torch.compile into one graph, and gives what it gives uncompiled."""
    model = case.model()
    step, x = model.steps[0], tokens_for(model, 0)
    try:
        found = capture(step, x).output[0]
    except Exception as error:
        raise AssertionError(
            f"'{case.member}': torch.compile(fullgraph=True) of its first block fails with {type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}."
        ) from error
    with torch.no_grad():
        for stream, tensor in step(x, {})[0].items():
            assert gap(found[stream], tensor) <= TOLERANCE, f"{case.where(stream)}: compiled, its tokens differ."


@check("backbone", "weights on request")
def weights_on_request(case: BackboneCase) -> None:
    """Random weights are used on request alone, and said; what is missing offline is refused, saying what to do."""
    made: list[Backbone] = []
    try:
        with offline():
            refused = refusal(lambda: made.append(case.built(case.member)))
    except Exception as error:
        raise AssertionError(
            f"'{case.member}' with default settings fails offline with {type(error).__name__}: {error}. Raise "
            f"AVCoreError that says which file to pass with --set visual.weights=PATH."
        ) from error
    assert refused is None or "weights" in refused, (
        f"'{case.member}' offline is refused without a word on weights: {refused}"
    )
    random = [notice for one in made for notice in one.notices if "random" in notice]
    assert not random or _has_no_choice(case), (
        f"'{case.member}' with default settings runs on random weights: use them on request only, weights=random."
    )
    notices = case.model().notices if case.streams else case.built(case.member, **case.random).notices
    assert any("random" in notice for notice in notices), (
        f"'{case.member}' on random weights says nothing of it: put it into Backbone.notices."
    )


def _has_no_choice(case: BackboneCase) -> bool:
    """Random weights are what the settings ask for by default."""
    return getattr(case.spec.config(), "weights", "") == "random"


@contextmanager
def offline() -> Iterator[None]:
    """Nothing within reaches the network."""

    def refuse(*given: Any, **more: Any) -> Any:
        raise OSError("the conformance kit lets nothing out")

    with (
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(socket, "getaddrinfo", refuse),
        mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}),
    ):
        yield


@check("backbone", "unknown names")
def unknown_names(case: BackboneCase) -> None:
    """A member that does not exist is refused by name."""
    patterns = [pattern.replace("*", "no_such_member").replace("?", "x") for pattern in case.spec.patterns]
    for name in (*patterns, f"{case.spec.name}_no_such_member"):
        try:
            with offline():
                refused = refusal(partial(case.built, name))
        except Exception as error:
            raise AssertionError(
                f"'{case.spec.name}' fails on the unknown name '{name}' with {type(error).__name__}: {error}. Raise "
                f"AVCoreError that names it."
            ) from error
        assert refused is not None, f"'{case.spec.name}' makes a backbone of the unknown name '{name}'."
        assert name in refused, f"'{case.spec.name}' refuses '{name}' without naming it: {refused}"


@check("backbone", "short clips")
def short_clips(case: BackboneCase) -> None:
    """Sound shorter than a window goes through the front end, or is refused by a message; nothing becomes infinite."""
    if "audio" not in case.streams:
        raise Skipped(f"'{case.spec.name}' takes no sound.")
    model = case.model()
    assert model.sound is not None
    for seconds in (0.5, 0.1):
        batch = make_batch(model)
        assert batch.waveform is not None
        batch.waveform = batch.waveform[..., : round(seconds * model.sound.rate)]
        heard: list[Tensor] = []
        try:
            refusal(partial(_hear, model, batch, heard))
        except Exception as error:
            raise AssertionError(
                f"'{case.member}' fails on {seconds} s of sound with {type(error).__name__}: {error}."
            ) from error
        for tokens in heard:
            assert torch.isfinite(tokens).all(), f"'{case.member}' makes of {seconds} s of sound what is not finite."


def _hear(model: AVModel, batch: Batch, heard: list[Tensor]) -> None:
    with torch.no_grad():
        heard.append(model.features(batch).stream("audio").tokens)


@check("backbone", "converter")
def converter(case: BackboneCase) -> None:
    """The converter of published weights leaves names that it does not know as they are."""
    if not case.spec.converter:
        raise Skipped(f"'{case.spec.name}' has no converter.")
    try:
        function = resolve(case.spec.converter)
        found = function({"no.such.key": torch.zeros(2)})
    except Exception as error:
        raise AssertionError(
            f"The converter of '{case.spec.name}' fails on a name that it does not know: {error}. It leaves such "
            f"names as "
            f"they are; loading refuses them."
        ) from error
    assert "no.such.key" in found, f"The converter of '{case.spec.name}' drops a name that it does not know."
