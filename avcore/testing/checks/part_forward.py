"""Checks of what a part does in the forward. Shape letters: B clips, T segments, M = B*T, N tokens, D width."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avcore.backbones import Tower
from avcore.discovery.signatures import PluginFailureError
from avcore.errors import AVCoreError, PluginError
from avcore.injection import Part
from avcore.model import AVModel
from avcore.sites import watched
from avcore.specs import STREAMS, Need
from avcore.states import parameter_groups
from avcore.tasks import Batch, Features
from avcore.testing.cases.parts import (
    NO_GRADIENT,
    ODD,
    ONE_STREAM,
    OTHER_GRID,
    CrashError,
    PartCase,
    Setup,
    objective,
    restored,
    tensors_of,
)
from avcore.testing.checks import Skipped, check
from avcore.testing.checks.compare import gap
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_batch

TOLERANCE = 1e-5
"""Of what should be equal and is summed in another order, relative to the largest value."""
GROWING = (
    " Widths grow from stage to stage here: 'stream.width' is that of the last one, 'stream.stages[0].width' that of "
    "what is embedded, 'block.width' that of a layer."
)


@check("part", "sites")
def sites(case: PartCase) -> None:
    """Every class overrides a site; what it overrides takes what avcore calls it with; no name is nearly a site's."""
    for setup in (*case.classes, OTHER_GRID, *ONE_STREAM):
        try:
            case.taken(setup)
        except CrashError as error:
            if error.breaks_a_rule:
                raise AssertionError(str(error)) from error


@check("part", "assembles where its needs are met")
def assembles(case: PartCase) -> None:
    """Backbones either take the part or are refused by a declared need, or by an error that says what to do."""
    needs = case.spec.requires(case.config)
    for setup in (*case.classes, OTHER_GRID, *ONE_STREAM):
        try:
            case.taken(setup)
        except CrashError as error:
            if not error.breaks_a_rule:  # which another check says
                raise AssertionError(_lie(case, setup, str(error), needs)) from error


def _lie(case: PartCase, setup: Setup, error: str, declared: frozenset[Need]) -> str:
    """What to declare, from what is special about the backbones."""
    layouts: list[Any] = [tower.layout for tower in case.bare(setup).towers.values()]
    lacking = {
        Need.BOTH_STREAMS: len(layouts) < 2,
        Need.EQUAL_WIDTHS: len({tuple(stage.width for stage in layout.stages) for layout in layouts}) > 1,
        Need.EQUAL_GRIDS: len({tuple(stage.grid for stage in layout.stages) for layout in layouts}) > 1,
        Need.CLASS_TOKEN: any(not layout.stages[0].prefix for layout in layouts),
    }
    missing = [f"Need.{need.name}" for need, lacks in lacking.items() if lacks and need not in declared]
    advice = (
        f"If that cannot work, return {' or '.join(missing)} from the spec's 'requires'"
        if missing
        else "Raise AVCoreError where that cannot work, saying what to do"
    )
    grows = any(len({stage.width for stage in layout.stages}) > 1 for layout in layouts)
    return (
        f"'{case.name}' fails on {setup.words}: {error.rstrip('.')}. {advice}, so that avcore refuses it with a reason."
        f"{GROWING if grows else ''}"
    )


@check("part", "meta device")
def meta_device(case: PartCase) -> None:
    """Assembly first runs the model on the meta device, where tensors have shapes and no values."""
    setup, _ = case.first()
    try:
        case.model(setup, on_meta_first=True)
    except AVCoreError as error:
        # Parameters that nothing reaches are the affair of another check.
        if NO_GRADIENT in str(error):
            return
        raise AssertionError(f"'{case.name}' on {setup.words} is refused on the meta device alone: {error}") from error
    except CrashError as error:
        if error.breaks_a_rule:
            return
        raise AssertionError(
            f"'{case.name}' on {setup.words} fails on the meta device with {error}. Make tensors on the device of the "
            f"input, as x.new_zeros(...) does, and do not look at their values."
        ) from error


@check("part", "shapes")
def shapes(case: PartCase) -> None:
    """One clip and five go through, an odd M = B*T, on every class of backbones, and features keep shapes and type."""
    for setup, model in case.models():
        for clips in (1, 5):
            features = _check_shapes(case, setup, model, clips)
            for name, tensor in tensors_of(features).items():
                assert tensor.dtype == torch.float32, (
                    f"'{case.name}' on {setup.words}: {name} is {tensor.dtype}, although the model is in torch.float32."
                )


@check("part", "one segment")
def one_segment(case: PartCase) -> None:
    """Clips of a single segment go through, or the part refuses them by name."""
    single = [replace(setup, words=f"{setup.words}, T = 1", segments=1) for setup in case.classes]
    setup, model = _whole(case, single)[0]
    _check_shapes(case, setup, model, 5)


@check("part", "odd sizes")
def odd_sizes(case: PartCase) -> None:
    """Grids and windows of odd sides go through, and other grids for sound than for pictures where needs allow it."""
    for setup, model in _whole(case, ODD):
        _check_shapes(case, setup, model, 5)


def _whole(case: PartCase, setups: Sequence[Setup]) -> list[tuple[Setup, AVModel]]:
    """The models of those setups that take the part, of which none may crash."""
    for setup in setups:
        try:
            case.taken(setup)
        except CrashError as error:
            if any(_stands(case, one) for one in case.classes):
                raise AssertionError(f"'{case.name}' fails on {setup.words} with {error}.") from error
    return case.models(setups)


def _stands(case: PartCase, setup: Setup) -> bool:
    try:
        return case.taken(setup)
    except CrashError:
        return False


def _check_shapes(case: PartCase, setup: Setup, model: AVModel, clips: int) -> Features:
    where = f"'{case.name}' on {setup.words}, {clips} clips of {setup.segments} segments"
    features = _features(where, model, make_batch(model, clips))
    for stream, tower in model.towers.items():
        assert isinstance(tower, Tower)
        found, last, frames = features.stream(stream), tower.layout.stages[-1], clips * setup.segments
        expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
            "pooled": (found.pooled, (clips, setup.segments, tower.layout.width)),
            "tokens": (found.tokens, (frames, last.tokens, last.width)),
            "raw_tokens": (found.raw_tokens, (frames, last.tokens, last.width)),
        }
        for number, (tensor, stage) in enumerate(zip(found.maps, tower.layout.tapped, strict=True)):
            expected[f"maps[{number}]"] = (tensor, (frames, stage.width, *stage.grid))
        for name, (tensor, shape) in expected.items():
            assert tuple(tensor.shape) == shape, f"{where}: {stream} {name} is {tuple(tensor.shape)}, not {shape}."
            assert torch.isfinite(tensor).all(), f"{where}: {stream} {name} is not finite."
    return features


def _features(where: str, model: AVModel, batch: Batch) -> Features:
    try:
        with torch.no_grad():
            return model.features(batch)
    except Exception as error:
        raise AssertionError(f"{where}: the forward fails with {type(error).__name__}: {error}") from error


@check("part", "batch equivariance")
def batch_equivariance(case: PartCase) -> None:
    """In evaluation, clips in another order give outputs in that order, and a clip alone what it gives among others."""
    order = torch.tensor([2, 0, 1])
    for setup, model in case.models():
        batch, where = make_batch(model, 3), f"'{case.name}' on {setup.words}"
        whole = _by_clip(_features(where, model, batch))
        moved = _by_clip(_features(where, model, _chosen(batch, order)))
        alone = _by_clip(_features(where, model, _chosen(batch, order[:1])))
        for name, tensor in whole.items():
            for other, expected, what in (
                (moved[name], tensor[order], "clips in another order give other outputs"),
                (alone[name], tensor[order[:1]], "a clip alone gives other outputs than among others"),
            ):
                apart = gap(other, expected)
                assert apart <= TOLERANCE, (
                    f"{where}: {what} ({name} differs by {apart:.2g} of its largest value). In evaluation a clip must "
                    f"not "
                    f"see the others: look for a mean, a norm or an index over the batch axis M = B*T."
                )


def _chosen(batch: Batch, order: Tensor) -> Batch:
    return replace(batch.map(lambda tensor: tensor[order]), names=[batch.names[index] for index in order.tolist()])


def _by_clip(features: Features) -> dict[str, Tensor]:
    clips = features.clips
    return {name: tensor.reshape(clips, -1) for name, tensor in tensors_of(features).items()}


@check("part", "eval determinism")
def eval_determinism(case: PartCase) -> None:
    """In evaluation, two forwards of the same clips are equal bit for bit, and draw no random number."""
    for setup, model in case.models():
        batch, where = make_batch(model), f"'{case.name}' on {setup.words}"
        torch.manual_seed(0)
        before = _random_states()
        first = tensors_of(_features(where, model, batch))
        assert before == _random_states(), (
            f"{where}: a forward in evaluation draws random numbers from a global generator: draw only where "
            f"self.training holds."
        )
        second = tensors_of(_features(where, model, batch))
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), f"{where}: two forwards in evaluation differ in {name}."


def _random_states() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), state[1].tobytes(), state[2]


@check("part", "changes nothing in place")
def changes_nothing_in_place(case: PartCase) -> None:
    """What a site is given it leaves as it is, in training and in evaluation: it returns what it asks for."""
    for setup, model in case.models():
        with restored(model), watched(case.instances(model)):
            for training in (False, True):
                try:
                    objective(model.train(training), make_batch(model, 3))
                except PluginError as error:
                    # What fails altogether is seen by other checks.
                    if not isinstance(error, PluginFailureError):
                        raise AssertionError(f"'{case.name}' on {setup.words}: {error}") from error


@check("part", "identity at start")
def identity_at_start(case: PartCase) -> None:
    """Where `PartSpec.identity_at_start` is set, an untrained part leaves all features as the backbones make them."""
    if not case.spec.identity_at_start:
        raise Skipped(f"'{case.name}' does not declare identity_at_start.")
    for setup, model in case.models():
        batch, where = make_batch(model), f"'{case.name}' on {setup.words}"
        found, expected = tensors_of(_features(where, model, batch)), tensors_of(case.bare(setup).features(batch))
        for name, tensor in expected.items():
            apart = gap(found[name], tensor)
            assert apart <= 1e-6, (
                f"{where}: declares identity_at_start, but {name} differs from the backbone's by {apart:.2g} of its "
                f"largest value: start what it adds at zero, or leave the declaration out."
            )


@check("part", "double precision")
def double_precision(case: PartCase) -> None:
    """A model in float64 works, and features and offers stay in float64."""
    setup, model = case.first()
    where = f"'{case.name}' on {setup.words}, in float64"
    with restored(model):
        features = _features(where, model.double(), make_batch(model))
    for name, tensor in _leaving(features).items():
        assert tensor.dtype == torch.float64 or not tensor.is_floating_point(), (
            f"{where}: {name} is {tensor.dtype}: make new tensors in the type of the input, as x.new_zeros(...) does."
        )


@check("part", "bf16")
def bf16(case: PartCase) -> None:
    """With frozen weights in bf16, and so all that a part sees, forward and backward work and everything is finite."""
    for setup, model in case.models():
        where = f"'{case.name}' on {setup.words}, in bf16"
        with restored(model):
            model.towers.to(torch.bfloat16)
            model.train()
            try:
                loss = objective(model, make_batch(model, 3))
                loss.backward()
            except Exception as error:
                raise AssertionError(f"{where}: training fails with {type(error).__name__}: {error}") from error
            assert torch.isfinite(loss), f"{where}: the loss is {loss.item()}."
            for name, parameter in parameter_groups(model)["parts"]:
                finite = parameter.grad is None or torch.isfinite(parameter.grad).all()
                assert finite, f"{where}: the gradient of {name} is not finite."


def _leaving(features: Features) -> dict[str, Tensor]:
    offers = {f"offer {name}": x for name, offered in features.offers.items() for x in offered}
    return {**tensors_of(features), **offers}


@check("part", "compile")
def compiles(case: PartCase) -> None:
    """A step with the part is traced by torch.compile into one graph, and gives what it gives uncompiled."""
    setup, model = case.first()
    places = [
        index
        for index, step in enumerate(model.steps)
        if any(place.name == case.name for mounted in step.at_site.values() for place in mounted)
    ]
    if not places:
        raise Skipped(f"'{case.name}' has no layer at any block: what acts once a forward is not compiled.")
    step, x = model.steps[places[-1]], tokens_for(model, places[-1])
    where = f"'{case.name}' on {setup.words}"
    try:
        found = capture(step, x).output
    except Exception as error:
        raise AssertionError(
            f"{where}: torch.compile(fullgraph=True) of a step fails with {type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}. Look for branches on values of tensors, .item() and printing."
        ) from error
    with torch.no_grad():
        tokens, carried, _ = step(x, {})
    for name, tensor in tokens.items():
        apart = gap(found[0][name], tensor)
        assert apart <= TOLERANCE, f"{where}: compiled, the {name} tokens differ by {apart:.2g} of their largest value."
    for owner, tensor in carried.items():
        assert gap(found[1][owner], tensor) <= TOLERANCE, f"{where}: compiled, the carried rows differ."


@check("part", "keeps no tensors")
def keeps_no_tensors(case: PartCase) -> None:
    """Between calls the part and its layers hold parameters and buffers alone, and evaluation changes none of them."""
    for setup, model in case.models():
        where = f"'{case.name}' on {setup.words}"
        modules = [(part.key, part.module) for part in case.instances(model)]
        before = {f"{key}.{name}": x.clone() for key, one in modules for name, x in one.named_buffers()}
        _features(where, model, make_batch(model))
        for key, part in modules:
            for name, module in part.named_modules():
                for attribute, value in vars(module).items():
                    assert attribute in TORCH_OWN or not _holds_tensor(value), (
                        f"{where}: after a forward, '{attribute}' of {key}{'.' if name else ''}{name} holds a tensor. "
                        f"Offer what must travel (Edit.offer), and register constants as buffers."
                    )
        for name, tensor in ((f"{key}.{name}", x) for key, one in modules for name, x in one.named_buffers()):
            same = name in before and torch.equal(before[name], tensor)
            assert same, f"{where}: a forward in evaluation changes the buffer {name}."


TORCH_OWN = frozenset({"_parameters", "_buffers", "_modules"})


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_tensor(item) for item in value.values())
    if isinstance(value, list | tuple | set):
        return any(_holds_tensor(item) for item in value)
    return isinstance(value, Tensor)


@check("part", "finishes what it declares")
def finishes(case: PartCase) -> None:
    """`finish` replaces the fields of the features that the spec names in ``finishes``, and no other."""
    setup, model = case.first()
    where, declared = f"'{case.name}' on {setup.words}", case.spec.finishes
    finishing = [part for part in case.instances(model) if type(part.module).finish is not Part.finish]
    if not finishing:
        assert not declared, f"'{case.name}' declares finishes={sorted(declared)}, but its class has no 'finish'."
        raise Skipped(f"'{case.name}' has no 'finish'.")
    seen: list[tuple[Features, Features]] = []
    for part in finishing:
        with _watched(part.module, seen):
            _features(where, model, make_batch(model))
    for before, after in seen:
        for stream in STREAMS:
            one, other = getattr(before, stream), getattr(after, stream)
            for name in ("pooled", "tokens", "raw_tokens", "maps") if one is not None else ():
                replaced = getattr(one, name) is not getattr(other, name)
                assert not replaced or name in declared, (
                    f"{where}: 'finish' replaces '{name}' of the {stream} features; name it in the spec's finishes, so "
                    f"that two parts that replace it are refused."
                )


@contextmanager
def _watched(module: nn.Module, seen: list[tuple[Features, Features]]) -> Iterator[None]:
    original: Any = module.finish

    def finish(features: Features) -> Features:
        after: Features = original(features)
        seen.append((features, after))
        return after

    module.finish = finish  # type: ignore[assignment]
    try:
        yield
    finally:
        del module.finish
