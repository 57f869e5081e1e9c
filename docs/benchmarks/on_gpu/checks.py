"""Whether a device computes what it should: half precision, what is recomputed, repetitions, checkpoints, kernels."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore import create_model
from avcore.bench.counting import Counting
from avcore.bench.step import noise, with_random_weights
from avcore.engine.checkpoint import CheckpointStore, Reached, Snapshot, restore_optimizer
from avcore.engine.optim import Rates, build_optimizer
from avcore.engine.randomness import determinism, isolated_randomness
from avcore.engine.step import TrainStep
from avcore.registry import Registry
from avcore.runs.base import build_model
from avcore.states import load_trainable_state, parameter_groups, trainable_state
from avcore.testing import make_batch

from .files import module_of
from .golden import Found, furthest
from .rows import copl_swin, copl_vit

IN_A_DRY_RUN = ("copl", "lavish")
"""Methods that a dry run looks at; the tests look at all of them on a CPU."""


def methods(device: str, *, small: bool) -> Found:
    """Of every method on the demo's backbone: half precision, what is recomputed, and a repetition, beside float32."""
    lean, found = module_of("tests/test_lean.py"), {}
    for method in IN_A_DRY_RUN if small else lean.METHODS:
        run = partial(lean.found.__wrapped__, method, device=device)
        single, half = run("fp32"), run("bf16")
        off = {name: lean.away(half[at], single[at]) for at, name in enumerate(("outputs", "gradients"))}
        ok = max(off.values()) < lean.TOLERANCE
        told: Found = {"half": {**off, "bound": lean.TOLERANCE, "ok": ok}}
        for memory in ("balanced", "low"):
            other = run("fp32", memory)
            told[f"memory={memory}"] = same(other, single, bound=1e-4)
        told["deterministic"] = repeated(lambda run=run: same(run("fp32"), run("fp32"), bound=0.0))
        found[method] = told
    return found


def compiled(device: str) -> Found:
    """LAVISH with ``train.compile=blocks`` in half precision, beside itself without and beside float32."""
    lean = module_of("tests/test_lean.py")
    run = partial(lean.found.__wrapped__, "lavish", device=device)
    made, plain, single = run("bf16", compiled="blocks"), run("bf16"), run("fp32")
    off = {
        f"{name} beside {called}": lean.away(made[at], other[at])
        for at, name in enumerate(("outputs", "gradients"))
        for called, other in (("not compiled", plain), ("float32", single))
    }
    return {**off, "bound": lean.TOLERANCE, "ok": max(off.values()) < lean.TOLERANCE}


def same(these: Sequence[Found], those: Sequence[Found], *, bound: float) -> Found:
    """Whether features, gradients and statistics are equal, and the largest difference."""
    pairs = [(one[name], other[name]) for one, other in zip(these, those, strict=True) for name in other]
    off = max(furthest(one, other) for one, other in pairs)
    return {"equal": all(torch.equal(*pair) for pair in pairs), "off": off, "bound": bound, "ok": off <= bound}


def repeated(compare: Callable[[], Found]) -> Found:
    """What a comparison finds under deterministic algorithms, or the operators for which torch says it has none."""
    try:
        with determinism(True):
            return compare()
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            found = compare()
        finally:
            torch.use_deterministic_algorithms(False)
    lines = (str(one.message).splitlines()[0] for one in said)
    without = {line.partition(". ")[0] for line in lines if "deterministic" in line}
    # Told, not held against avcore.
    return {**found, "without": sorted(without), "ok": True}


def resume(device: str) -> Found:
    """Four steps, and two steps from whose checkpoint on disk another model goes on for two more."""

    def compare() -> Found:
        with tempfile.TemporaryDirectory() as folder:
            store = CheckpointStore(Path(folder))
            straight = trained(device, 4)
            trained(device, 2, into=store)
            halves = trained(device, 4, since=store)
        return same((halves,), (straight,), bound=0.0)

    with isolated_randomness():
        return repeated(compare)


def trained(
    device: str, last: int, *, into: CheckpointStore | None = None, since: CheckpointStore | None = None
) -> dict[str, Tensor]:
    """Train CoPL on the demo's backbone.

    Args:
        device: where.
        last: the step before which it ends.
        into: where a checkpoint is written at the end.
        since: from whose latest checkpoint it goes on; from the beginning when None.

    Returns:
        Its trained tensors, on the CPU.
    """
    sets = ("data.dataset=demo-ave", "data.segments=2", "data.clip_seconds=2.0")
    model = create_model("copl", task="ave", visual="demo_vit", set=sets).train()
    batch = module_of("tests/test_lean.py").lively(make_batch(model, 2))
    model.to(device)
    optim = model.config.optim
    optimizer, first = build_optimizer(parameter_groups(model), optim), 0
    if since is not None:
        checkpoint = since.open("latest")
        load_trainable_state(model, checkpoint.training_state())
        restore_optimizer(optimizer, checkpoint.path)
        first = checkpoint.progress.step
    rates = Rates(optimizer, optim, steps_per_epoch=2, epochs=2)
    step = TrainStep(model, optimizer, rates, clip_norm=optim.clip_norm, device=torch.device(device))
    for index in range(first, last):
        step([batch], step=index, epoch=index // 2)
    state = trainable_state(model)
    if into is not None:
        reached = Reached(epoch=last // 2, step=last)
        into.save(Snapshot(optimizer, state), reached, frozen_digest=model.backbone_digest, versions={})
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def attention(device: str, registry: Registry, *, small: bool) -> Found:
    """Which kernels of attention run, on a ViT and on a Swin-V2, in both precisions."""
    found: Found = {}
    for row in (copl_vit(1), copl_vit(1, "fp32"), copl_swin(1), copl_swin(1, "fp32")):
        model = build_model(with_random_weights(row.config(registry, device, small=small)), registry).train()
        batch = noise(model, 1).to(torch.device(device))
        with Counting() as counting:
            output = model(batch)
            sum(model.losses(output, batch).values(), start=torch.zeros((), device=device)).backward()
        counted = sum(counting.kernels.values(), start=Counter())
        found[row.name] = {name: count for name, count in counted.items() if "attention" in name}
    return found


def passed(found: Any) -> bool:
    """Whether no check in a record says that it is not ok."""
    return not isinstance(found, dict) or (found.get("ok", True) and all(map(passed, found.values())))
