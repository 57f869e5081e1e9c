"""Prompts of every method with fusions of every other, on each class of layout: what the matrix allows trains and what
it refuses is refused, for the same reason."""

import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small import assemble_small

import avcore_copl
import avcore_dgsct
import avcore_lavish
import avcore_stfp
import avcore_stgcma
import avcore_timm
from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import RunConfig, resolve_config
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.matrix import SHARED, combinations, fusion_sets, prompt_sets
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.runs.adapter import load_adapter, save_adapter
from avcore.specs import BackboneSpec
from avcore.states import parameter_groups
from avcore.tasks import Batch
from avcore.testing.toys import ToyPlugin, make_batch
from avcore_timm.settings import SwinSettings, ViTSettings

PAIRS = {
    "shared vit": ("narrow_vit", SHARED),
    "shared swinv2": ("narrow_swinv2", SHARED),
    "unequal": ("narrow_swinv2", "test_htsat"),
}
VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 2}
# Windows of 4 x 4 on grids of 8 x 8, the second block's shifted; then stages that see their whole grid.
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 1, 1), "num_heads": (1, 2, 4)}


@hookimpl
def avcore_backbones() -> list[BackboneSpec]:
    """The real block classes at small width."""
    vit = {"model": "vit_tiny_patch16_224", "arguments": VIT}
    swin = {"model": "swinv2_tiny_window8_256", "arguments": SWIN}
    return [
        BackboneSpec(name="narrow", build="avcore_timm.vit:build", config=ViTSettings, presets={"narrow_vit": vit}),
        BackboneSpec(
            name="narrow_swins",
            build="avcore_timm.swin:build_v2",
            config=SwinSettings,
            presets={"narrow_swinv2": swin},
        ),
    ]


METHODS = {
    "avcore-copl": avcore_copl,
    "avcore-dgsct": avcore_dgsct,
    "avcore-lavish": avcore_lavish,
    "avcore-stfp": avcore_stfp,
    "avcore-stgcma": avcore_stgcma,
}
REGISTRY = Registry.from_modules(
    {
        "avcore-timm": avcore_timm,
        "narrow": SimpleNamespace(avcore_backbones=avcore_backbones),
        "toys": ToyPlugin(),
        **METHODS,
    }
)
PROMPTS, FUSIONS = prompt_sets(REGISTRY), fusion_sets(REGISTRY)


@cache
def reasons(pair: str) -> dict[tuple[str, str], str]:
    """The matrix of one pair of backbones."""
    return {(row.prompts, row.fusions): row.reason for row in combinations(REGISTRY, [PAIRS[pair]])}


def configured(prompts: str, fusions: str, pair: str) -> RunConfig:
    visual, audio = PAIRS[pair]
    own = () if audio == SHARED else ("audio.weights=random",)
    resolved = resolve_config(
        REGISTRY,
        task="toy",
        prompts=prompts,
        fusions=fusions,
        visual=visual,
        audio=audio,
        options={"data.dataset": "toy-data"},
        sets=("visual.weights=random", *own),
        need_data=False,
    )
    return resolved.config


def assembled(prompts: str, fusions: str, pair: str) -> AVModel:
    """As runs assemble it where one set stands alone; a mix is looked through where it is trained, which is quicker."""
    config = configured(prompts, fusions, pair)
    return (assemble if "none" in (prompts, fusions) else assemble_small)(config, REGISTRY)


def trained(model: AVModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for group in parameter_groups(model).values() for name, parameter in group}


def everything(model: AVModel, batch: Batch) -> torch.Tensor:
    """The losses, and the mean of all that a head may read: a head that reads less trains less."""
    out = model(batch)
    read = [tensor for offered in out.features.offers.values() for tensor in offered]
    for stream in ("visual", "audio"):
        features = out.features.stream(stream)
        read += [features.pooled, features.tokens, *features.maps]
    return model.loss(out, batch) + torch.stack([tensor.mean() for tensor in read]).sum()


def two_steps(model: AVModel, batch: Batch) -> None:
    """Two optimiser steps, everything finite, every trained tensor with a gradient."""
    model.train()
    optimizer = torch.optim.Adam(trained(model).values(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss = everything(model, batch)
        assert loss.isfinite()
        loss.backward()
        for name, parameter in trained(model).items():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        optimizer.step()
    model.eval()


def swapped(batch: Batch) -> Batch:
    """The two clips of a batch the other way round."""
    assert batch.frames is not None
    assert batch.waveform is not None
    return Batch(
        frames=batch.frames.flip(0),
        waveform=batch.waveform.flip(0),
        targets={},
        names=batch.names,
        samples=batch.samples.flip(0),
        valid=batch.valid,
    )


def perturbed(model: AVModel) -> AVModel:
    """A copy with other trained tensors."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in trained(other).values():
            parameter.add_(1.0)
    return other


@pytest.mark.parametrize(
    ("prompts", "fusions", "pair"),
    [
        pytest.param(prompts, fusion, pair, id=f"{prompts} with {fusion}, {pair}")
        for pair in PAIRS
        for fusion in FUSIONS
        for prompts in PROMPTS
    ],
)
def test_what_the_matrix_allows_trains_and_what_it_refuses_is_refused(
    prompts: str, fusions: str, pair: str, tmp_path: Path
) -> None:
    if reason := reasons(pair)[prompts, fusions]:
        config = configured(prompts, fusions, pair)
        with pytest.raises(AVCoreError) as refused:
            assemble(config, REGISTRY)
        assert str(refused.value) == reason
        return
    model = assembled(prompts, fusions, pair)
    batch, before = make_batch(model), digest(model.towers)
    two_steps(model, batch)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        name for name, parameter in model.named_parameters() if not name.startswith("clips.streams.")
    }
    assert digest(model.towers) == before == model.backbone_digest
    with torch.no_grad():
        expected = model(batch)["logits"]
        assert expected.isfinite().all()
        torch.testing.assert_close(model(swapped(batch))["logits"].flip(0), expected, rtol=1e-4, atol=1e-5)
        save_adapter(model, tmp_path / "adapter")
        other = perturbed(model)
        if trained(model):
            assert not torch.equal(other(batch)["logits"], expected)
        load_adapter(tmp_path / "adapter", other)
        assert torch.equal(other(batch)["logits"], expected)


def test_several_sets_of_prompts_and_two_fusions_run_at_once() -> None:
    config = configured("copl+stfp+stgcma", "dgsct+stgcma+lavish+copl", "unequal")
    model = assemble(config, REGISTRY)
    two_steps(model, make_batch(model))
    counted = count_parameters(model).parts
    alone = {
        **count_parameters(assemble(configured("copl", "dgsct", "unequal"), REGISTRY, meta=True)).parts,
        **count_parameters(assemble(configured("stfp", "lavish", "unequal"), REGISTRY, meta=True)).parts,
    }
    for part in ("copl.rows", "dgsct", "lavish", "align", "stfp.temporal"):
        assert counted[part].trainable == alone[part].trainable > 0, part


def test_maps_are_made_only_where_they_are_read() -> None:
    model = assemble(configured("none", "stfp", "unequal"), REGISTRY, meta=True)
    read = set(model.parts["stfp.joint"].layers)
    assert set(model.parts["align"].layers) == read
    assert len(read) < sum(entry.paired for entry in model.plan)
    assert count_parameters(model).parts["align"].trainable > 0


def test_the_order_of_parts_changes_no_parameter_and_no_output_beyond_rounding() -> None:
    first, second = (
        assemble(configured("copl+stfp", fusion, "shared vit"), REGISTRY).eval()
        for fusion in ("lavish+dgsct", "dgsct+lavish")
    )
    assert {name: tuple(one.shape) for name, one in trained(first).items()} == {
        name: tuple(one.shape) for name, one in trained(second).items()
    }
    batch = make_batch(first)
    with torch.no_grad():
        torch.testing.assert_close(first(batch)["logits"], second(batch)["logits"], rtol=1e-4, atol=1e-5)
