"""Every installed method trains on backbones whose width grows from stage to stage, on rendered and on real media."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import avcore
from avcore.backbones import digest
from avcore.config.leaves import flatten
from avcore.engine.checkpoint import CheckpointStore
from avcore.errors import AVCoreError
from avcore.registry import load_registry
from avcore.specs import Need
from avcore.states import parameter_groups
from avcore.testing.golden import real_data
from avcore_timm.presets import TEST_SWINV2

TRUNK = "test_swinv2"
# Twice that of the small HTS-AT.
WIDTH = 32
# Side of the pictures, px: stages on grids of 16, 8, 4 and 2, of which the first two have several windows.
SIZE = 64
OWN = ("audio.weights=random",)
COMMON = (
    "visual.weights=random",
    f"visual.size={SIZE}",
    "train.batch_size=1",
    "optim.accumulate=1",
    "train.eval_batch_size=1",
    "train.evaluate=[test]",
    "data.workers=0",
    "data.segments=4",
)
# The demo couples six pairs of blocks, and the small HTS-AT has five.
FEWER_PAIRS = {"copl": ("parts.copl.coupling.last=4",)}
CLIPS = {"train": 2, "val": 1, "test": 1}
# Those that bring a head are not for every task: `test_demos.py`.
METHODS = [spec.name for spec in load_registry().methods if "head.name" not in flatten(spec.defaults)]

Setting = tuple[str, dict[str, Any], tuple[str, ...]]


@pytest.fixture(autouse=True)
def calm(small_demo: pytest.MonkeyPatch) -> None:
    """The installed plugins instead of the toy world, and a small Swin with widths of its own."""
    small_demo.setitem(TEST_SWINV2, "arguments", {**TEST_SWINV2["arguments"], "embed_dim": WIDTH})


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of AVE in the official layout, the media linked."""
    source, root = real_data("mini", "AVE"), tmp_path_factory.mktemp("data") / "AVE"
    root.mkdir()
    (root / "AVE").symlink_to(source / "AVE")
    rows = []
    for split, count in CLIPS.items():
        kept = (source / f"{split}Set.txt").read_text().splitlines()[:count]
        (root / f"{split}Set.txt").write_text("\n".join(kept))
        rows += kept
    (root / "Annotations.txt").write_text("\n".join(rows))
    return root


def needs_of(method: str) -> frozenset[Need]:
    """What the parts of a method ask of the streams with their default settings."""
    registry = load_registry()
    spec = registry.methods[method]
    parts = [*(registry.prompts[name] for name in spec.prompts), *(registry.fusions[name] for name in spec.fusions)]
    return frozenset().union(*(part.requires(part.config()) for part in parts))


@cache
def frozen_digest(audio: str, precision: str) -> str:
    """Of the backbones as no method has touched them."""
    sets = ["visual.weights=random", f"visual.size={SIZE}", *(() if audio == "shared" else OWN)]
    bare = avcore.create_model("none", task="ave", visual=TRUNK, audio=audio, set=sets)
    if precision == "bf16":
        bare.towers.to(torch.bfloat16)
    return digest(bare.towers)


def check_two_steps(out: Path, method: str, task: str, options: Mapping[str, Any], *sets: str) -> None:
    """Train on two clips, one in a batch; then look at what a third batch would do.

    ``avcore.run`` itself refuses losses and gradients that are not finite.
    """
    run = avcore.run(
        method, task=task, visual=TRUNK, epochs=1, baseline=False, set=(*COMMON, *sets), out=out, quiet=True, **options
    )
    assert CheckpointStore(out / "checkpoints").open("latest").progress.step == 2
    assert run.results.status == "finished"
    model = run.model
    assert digest(model.towers) == frozen_digest(options["audio"], run.config.train.precision)
    (batch, _) = run.data.loader("train", train=True)
    model.train()
    losses = model.losses(model(batch), batch)
    assert losses
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in [pair for group in parameter_groups(model).values() for pair in group]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(parameter.grad is None for parameter in model.towers.parameters())


@pytest.fixture(params=["demo", "ave"])
def setting(request: pytest.FixtureRequest) -> Setting:
    """The task, its data and its settings: the demo in fp32 with a decoder that listens, AVE in bf16."""
    if request.param == "demo":
        return "avs", {}, ("train.precision=fp32", "data.clip_seconds=4.0", "head.tpavi_stages=[3]")
    return "ave", {"data": request.getfixturevalue("events")}, ("train.precision=bf16",)


@pytest.mark.parametrize("method", METHODS)
def test_a_shared_swin_trains(method: str, setting: Setting, tmp_path: Path) -> None:
    task, data, sets = setting
    check_two_steps(tmp_path / "run", method, task, {**data, "audio": "shared"}, *sets)


@pytest.mark.parametrize("method", METHODS)
def test_a_swin_beside_an_htsat_trains_or_is_refused_for_its_width(
    method: str, setting: Setting, tmp_path: Path
) -> None:
    task, data, sets = setting
    options, needs = {**data, "audio": "test_htsat"}, needs_of(method)
    sets = (*OWN, *FEWER_PAIRS.get(method, ()), *sets)
    if Need.EQUAL_WIDTHS in needs:
        with pytest.raises(AVCoreError, match="needs equal widths"):
            check_two_steps(tmp_path / "run", method, task, options, *sets)
        return
    check_two_steps(tmp_path / "run", method, task, options, *sets)
