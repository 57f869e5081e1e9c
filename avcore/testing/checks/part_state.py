"""Checks of what a part saves, and of how it stands beside others."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.runs.adapter import load_adapter, save_adapter
from avcore.specs import FusionSpec
from avcore.states import load_trainable_state, trainable_state
from avcore.testing.cases.parts import UNEQUAL, CrashError, PartCase, Setup, objective, restored, tensors_of, train
from avcore.testing.checks import Skipped, check, refusal
from avcore.testing.toys import make_batch


@check("part", "initial values")
def initial_values(case: PartCase) -> None:
    """Two models of one seed start with the same values."""
    setup, model = case.first()
    one, other = trainable_state(model), trainable_state(case.model(setup, again=1))
    for name in one.keys() & other.keys():
        same = one[name].shape == other[name].shape and torch.equal(one[name], other[name])
        assert same, (
            f"'{case.name}' on {setup.words}: {name} starts with other values in a second model of the same seed: draw "
            f"initial values from torch's global generator, which avcore seeds for each part."
        )


@check("part", "state keys")
def state_keys(case: PartCase) -> None:
    """What is saved has the same names in every model, and holds all that training changes."""
    setup, model = case.first()
    where = f"'{case.name}' on {setup.words}"
    one, other = (list(trainable_state(made)) for made in (model, case.model(setup, again=1)))
    assert one == other, (
        f"{where}: a second model saves other names ({sorted({*one} ^ {*other})[:3]}): names of modules and parameters "
        f"must not count up or depend on chance."
    )
    for part in case.instances(model):
        for name, parameter in part.module.named_parameters():
            assert parameter.requires_grad, (
                f"{where}: the parameter {part.key}.{name} needs no gradient, so it is not saved: make it a buffer."
            )


@check("part", "save and load")
def save_and_load(case: PartCase) -> None:
    """A trained part is saved, loaded into a new model that gives equal outputs, and saved again to equal bytes."""
    setup, model = case.first()
    where, fresh = f"'{case.name}' on {setup.words}", case.model(setup, again=1)
    with restored(model), restored(fresh), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # What is not installed as a plugin has no version to compare.
        warnings.simplefilter("ignore")
        train(model)
        first, second = Path(folder, "first"), Path(folder, "second")
        save_adapter(model, first)
        load_adapter(first, fresh)
        save_adapter(fresh, second)
        for file in ("adapter.safetensors", "adapter.json"):
            assert (first / file).read_bytes() == (second / file).read_bytes(), (
                f"{where}: saved, loaded and saved again, {file} has other bytes."
            )
        batch = make_batch(model, 2, seed=5)
        with torch.no_grad():
            expected, found = tensors_of(model.features(batch)), tensors_of(fresh.features(batch))
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), (
                f"{where}: after loading, {name} is not what it was when saved: something that training changes is "
                f"neither a parameter nor a persistent buffer."
            )
        _refuses_other_keys(where, fresh)


def _refuses_other_keys(where: str, model: AVModel) -> None:
    state = trainable_state(model)
    extra = {**state, "extra": torch.zeros(1)}
    for what, wrong in (("a missing", dict(list(state.items())[1:])), ("an extra", extra)):
        refused = refusal(partial(load_trainable_state, model, wrong))
        assert refused is not None, f"{where}: a state with {what} name is loaded without a word."


@check("part", "mixing")
def mixing(case: PartCase) -> None:
    """Beside reference parts that use rows, frozen maps, transforms and additions, before and after them, it trains."""
    models = case.models()
    for number, (setup, _) in enumerate(models):
        for mixed in ("before", "after") if number == 0 else ("after",):
            _trains(case, setup, mixed, f"with the reference parts listed {mixed} it")


@check("part", "reads as own")
def reads_as_own(case: PartCase) -> None:
    """A fusion that reads the other stream as its own trains on streams that differ, in the words that it declares."""
    declared = case.spec.as_own if isinstance(case.spec, FusionSpec) else ()
    if not declared:
        raise Skipped(f"'{case.name}' reads no other stream as its own.")
    how = f"as_own={declared}"
    with _explained(f"'{case.name}' on {UNEQUAL.words}, {how}"):
        # On the meta device first, where maps that it does not read through are found.
        case.model(UNEQUAL, on_meta_first=True)
    _trains(case, UNEQUAL, "", how)


def _trains(case: PartCase, setup: Setup, mixed: str, how: str) -> None:
    where = f"'{case.name}' on {setup.words}, {how}"
    with _explained(where):
        model = case.model(setup, mixed=mixed)
        with restored(model):
            train(model)
            loss = objective(model, make_batch(model, 2, seed=9))
    assert torch.isfinite(loss), f"{where}: after two steps the loss is {loss.item()}."


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except (CrashError, AVCoreError) as error:
        raise AssertionError(
            f"{where}, does not assemble: {error} Parts see the real tokens alone, and must not count on being alone."
        ) from error
    except Exception as error:
        raise AssertionError(
            f"{where}: training fails with {type(error).__name__}: {error}. Parts must not count on being alone."
        ) from error
