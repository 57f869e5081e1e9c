"""The side network: by hand, without a graph through the backbones, seen by the head."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import avcore_sidenet
import avcore_timm
from avcore import AVCoreError, AVModel, BackboneSpec, hookimpl, parameter_groups
from avcore.backbones import digest
from avcore.specs import STREAMS
from avcore.testing import ToyPlugin, create_model, make_batch, make_model
from avcore_sidenet.modules import Rung, _onto
from avcore_timm import HTSAT_PRESETS
from avcore_timm.settings import HTSATSettings, SwinSettings

SOUND = ("audio.frames=48", "audio.mel_bins=32")
SMALL = ("parts.sidenet.width=8", "parts.sidenet.heads=2")
WIDTH, DEPTH = 64, 6  # of test_vit
OTHERS = {"avcore-timm": avcore_timm, "avcore-sidenet": avcore_sidenet}


def make(*sets: str, **options: Any) -> AVModel:
    return make_model(
        avcore_timm,
        "test_vit",
        listed=("sidenet",),
        others={"avcore-sidenet": avcore_sidenet},
        sets=(*SOUND, *SMALL, *sets),
        **options,
    )


def moved(model: AVModel) -> AVModel:
    """The model with every trained parameter of its parts moved, so that the last map is not zero."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in parameter_groups(model)["parts"]:
            parameter.add_(torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype) / 4)
    return model


@pytest.mark.parametrize("every", [1, 4])
def test_the_ladder_by_hand(every: int) -> None:
    model = moved(make(f"parts.sidenet.every={every}").double())
    part: Any = model.parts["sidenet"]
    data = make_batch(model)
    images = model.front_ends(data)
    x: dict[str, Tensor] = {}
    towers: Any = model.towers
    for stream in STREAMS:
        x[stream] = towers[stream].enter(towers[stream].embed(images[stream].double()))
    side = None
    for index in range(DEPTH):
        x = {stream: towers[stream].trunk.model.blocks[index].inner(tokens) for stream, tokens in x.items()}
        if (DEPTH - 1 - index) % every:
            assert str(index) not in part.layers
            continue
        rung = part.layers[str(index)]
        mixed = []
        for number, stream in enumerate(STREAMS):
            mu = 1 / (1 + torch.exp(-10 * rung.gate[stream]))
            below = 0 if side is None else side[number]
            mixed.append(mu * rung.down[stream](x[stream]) + (1 - mu) * below)
        whole = torch.cat(mixed, 1)
        normed = rung.block.norm1(whole)
        whole = whole + rung.block.self_attn(normed, normed, normed)[0]
        whole = whole + rung.block.linear2(torch.nn.functional.gelu(rung.block.linear1(rung.block.norm2(whole))))
        side = whole[:, : x["visual"].shape[1]], whole[:, x["visual"].shape[1] :]
    features = model.features(data)
    assert side is not None
    for top, stream in zip(side, STREAMS, strict=True):
        plain, found = model.plain(stream, data), features.stream(stream)
        added = part.up[stream](part.norm(top))
        close = {"rtol": 0, "atol": 1e-10}
        torch.testing.assert_close(found.tokens, plain.tokens + added, **close)
        torch.testing.assert_close(found.pooled, plain.pooled + added.mean(1).unflatten(0, (2, 2)), **close)
        grid = model.towers[stream].layout.stages[-1].grid  # type: ignore[union-attr]
        as_map = added[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)  # type: ignore[arg-type]
        torch.testing.assert_close(found.maps[-1], plain.maps[-1] + as_map, **close)
        assert all(torch.equal(one, other) for one, other in zip(found.maps[:-1], plain.maps[:-1], strict=True))
        assert torch.equal(found.raw_tokens, plain.raw_tokens)


def test_training_starts_at_the_frozen_features() -> None:
    model = make()
    data = make_batch(model)
    features = model.features(data)
    for stream in STREAMS:
        found, plain = features.stream(stream), model.plain(stream, data)
        assert torch.equal(found.tokens, plain.tokens)
        assert torch.equal(found.pooled, plain.pooled)
        assert all(torch.equal(one, other) for one, other in zip(found.maps, plain.maps, strict=True))


def test_the_backbones_keep_nothing_for_a_backward_pass() -> None:
    model = moved(make()).train()
    inside, kept = [False], {True: 0, False: 0}
    for step in model.steps:
        for block in step.blocks.values():
            for name in ("attention", "mlp"):
                _watch(block, name, inside)

    def pack(tensor: Tensor) -> Tensor:
        kept[inside[0]] += 1
        return tensor

    data, before = make_batch(model), digest(model.towers)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(data)
    assert kept[True] == 0 < kept[False]
    for stream in STREAMS:
        assert not out.features.stream(stream).raw_tokens.requires_grad
        assert out.features.stream(stream).tokens.requires_grad
    model.loss(out, data).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in model.towers.parameters())
    assert digest(model.towers) == before


def _watch(block: Any, name: str, inside: list[bool]) -> None:
    original = getattr(block, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        inside[0] = True
        try:
            return original(*args, **kwargs)
        finally:
            inside[0] = False

    setattr(block, name, call)


def test_sound_reaches_the_picture_and_the_head() -> None:
    model = moved(make())
    data = make_batch(model)
    mixed = replace(data, waveform=make_batch(model, seed=2).waveform)
    one, other = model(data), model(mixed)
    assert not torch.equal(one.features.visual.tokens, other.features.visual.tokens)
    bare = make_model(avcore_timm, "test_vit", sets=SOUND)
    bare.head.load_state_dict(model.head.state_dict())
    assert (model(data)["logits"] - bare(data)["logits"]).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------ growing widths


def test_side_tokens_become_means_of_merged_patches() -> None:
    side = torch.arange(13.0)[None, :, None]  # one token that is no patch, 3 x 4 patches 1 to 12
    assert _onto(side, (3, 4), (2, 2)).flatten().tolist() == [0.0, 3.5, 5.5, 9.5, 11.5]
    assert _onto(side, (3, 4), (3, 4)) is side


class SmallSwin:
    """A Swin-V2 of 6 blocks in four stages, widths 16 to 128, and an HTS-AT of 5, widths 12 to 96."""

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        sizes = {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 3, 1), "num_heads": (2, 2, 2, 2)}
        swin = {"small_swin": {"model": "swinv2_tiny_window8_256", "arguments": sizes}}
        htsat = {"small_htsat": {**HTSAT_PRESETS["test_htsat"], "width": 12}}
        builds = {"small_swins": "avcore_timm.swin:build_v2", "small_htsats": "avcore_timm.htsat:build"}
        return [
            BackboneSpec(name="small_swins", build=builds["small_swins"], config=SwinSettings, presets=swin),
            BackboneSpec(name="small_htsats", build=builds["small_htsats"], config=HTSATSettings, presets=htsat),
        ]


def test_stages_of_two_different_backbones() -> None:
    model = moved(
        make_model(
            SmallSwin(),
            "small_swin",
            listed=("sidenet",),
            others=OTHERS,
            sets=("audio.backbone=small_htsat", "audio.weights=random", *SMALL),
        )
    ).train()
    rungs = [rung for rung in model.parts["sidenet"].layers.values() if isinstance(rung, Rung)]
    assert [rung.down["visual"].in_features for rung in rungs] == [16, 32, 64, 64, 128]
    assert [rung.down["audio"].in_features for rung in rungs] == [12, 24, 48, 48, 96]
    data = make_batch(model)
    out = model(data)
    model.loss(out, data).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
    assert not out.features.stream("visual").raw_tokens.requires_grad


# -------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(("sets", "rungs", "k"), [((), 12, 96), (("parts.sidenet.every=3",), 4, 96)])
def test_counts_on_vit_base(sets: tuple[str, ...], rungs: int, k: int) -> None:
    model = create_model(
        {"timm": avcore_timm, "side": avcore_sidenet, "toys": ToyPlugin()},
        task="toy",
        prompts="none",
        fusions="sidenet",
        visual="vit_base_patch16_224",
        set=sets,
        meta=True,
    )
    found = sum(parameter.numel() for _, parameter in parameter_groups(model)["parts"])
    # Maps down and gates of both streams; norms, attention and MLP of the side block.
    rung = 2 * (768 * k + k) + 2 + 4 * k + 4 * (k * k + k) + 8 * k * k + 5 * k
    assert found == rungs * rung + 2 * k + 2 * (k * 768 + 768) == {12: 3_263_064, 4: 1_187_144}[rungs]


@pytest.mark.parametrize("setting", ["width=0", "heads=3", "mlp_ratio=0", "every=0"])
def test_settings_out_of_range_are_named(setting: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.sidenet.*{setting.partition('=')[0]}"):
        make(f"parts.sidenet.{setting}")
