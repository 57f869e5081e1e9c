"""Frozen modules that parts train: copies in the part, the towers untouched."""

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import nn

import avcore_timm
from avcore.backbones import digest
from avcore.errors import AVCoreError
from avcore.injection import Fusion, Part, Prompt
from avcore.model import AVModel
from avcore.report.parameters import count_parameters
from avcore.specs import STREAMS
from avcore.states import load_trainable_state, parameter_groups, trainable_state
from avcore.testing.toys import make_batch, make_model

SETS = ("audio.frames=48", "audio.mel_bins=32")
SOUND = {"test_vit": SETS}
WIDTH = 64  # of timm's test_vit


class TrainsNorm(Prompt):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return dict.fromkeys(STREAMS, ("norm",))


class TrainsVisualNorm(Prompt):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"visual": ("norm",)}


class TrainsNormOfBoth(Fusion):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return dict.fromkeys(STREAMS, ("norm",))


class TrainsNormsOfBoth(Fusion):
    """Those within blocks too."""

    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return dict.fromkeys(STREAMS, ("*norm*",))


class TrainsVisualNorms(Prompt):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"visual": ("*norm*",)}


def make(*sets: str, streams: str | None = None, **parts: type[Part]) -> AVModel:
    prompts = {name: part for name, part in parts.items() if issubclass(part, Prompt)}
    fusions = {name: part for name, part in parts.items() if issubclass(part, Fusion)}
    return make_model(avcore_timm, "test_vit", prompts=prompts, fusions=fusions, sets=(*SETS, *sets), streams=streams)


def trained(model: AVModel) -> list[str]:
    return [name for name, _ in parameter_groups(model)["parts"]]


def test_streams_that_share_a_trunk_share_one_copy() -> None:
    model = make(base=TrainsNorm)
    assert trained(model) == [f"base.visual.backbone.visual.norm.{kind}" for kind in ("weight", "bias")]
    own = model.parts["base.visual"].backbone["visual"]["norm"]
    assert own is model.parts["base.audio"].backbone["audio"]["norm"]
    assert own.weight.dtype == torch.float32
    assert own.weight.requires_grad
    counted = count_parameters(model)
    assert counted.parts["base"].trainable == counted.added == 2 * WIDTH


def test_streams_with_trunks_of_their_own_have_a_copy_each() -> None:
    model = make("audio.backbone=test_vit", "audio.weights=random", base=TrainsNorm)
    assert count_parameters(model).added == 4 * WIDTH
    assert trained(model)[2] == "base.audio.backbone.audio.norm.weight"


def test_two_parts_that_ask_for_one_module_share_its_copy() -> None:
    model = make(base=TrainsNorm, again=TrainsNormOfBoth)
    assert len(trained(model)) == 2
    assert len({id(part.backbone[stream]["norm"]) for part in model.parts.values() for stream in part.backbone}) == 1


def test_the_forward_uses_the_copy_and_plain_the_frozen_module() -> None:
    model, bare = make(base=TrainsNorm), make()
    data = make_batch(model)
    before = model.features(data)
    for stream in STREAMS:
        assert torch.equal(before.stream(stream).tokens, bare.features(data).stream(stream).tokens)
    with torch.no_grad():
        model.parts["base.visual"].backbone["visual"]["norm"].bias += 1.0
    after = model.features(data)
    for stream in STREAMS:
        torch.testing.assert_close(after.stream(stream).tokens, before.stream(stream).tokens + 1.0)
        torch.testing.assert_close(after.stream(stream).pooled, before.stream(stream).pooled + 1.0)
        assert torch.equal(after.stream(stream).raw_tokens, before.stream(stream).raw_tokens)
        assert torch.equal(model.plain(stream, data).tokens, before.stream(stream).tokens)


def test_a_stream_that_is_not_asked_for_keeps_its_frozen_module() -> None:
    model = make(base=TrainsVisualNorm)
    data = make_batch(model)
    before = model.features(data)
    with torch.no_grad():
        model.parts["base.visual"].backbone["visual"]["norm"].bias += 1.0
    assert "audio" not in model.parts["base.audio"].backbone
    assert torch.equal(model.features(data).stream("audio").tokens, before.stream("audio").tokens)
    assert not torch.equal(model.features(data).stream("visual").tokens, before.stream("visual").tokens)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_that_does_not_run_is_skipped(stream: str) -> None:
    model = make(streams=stream, base=TrainsNorm)
    assert trained(model)[0] == f"base.{stream}.backbone.{stream}.norm.weight"
    assert count_parameters(model).added == 2 * WIDTH


def test_it_trains_and_the_towers_stay() -> None:
    model = make(base=TrainsNorm).train()
    frozen = copy.deepcopy(model.towers.state_dict())
    before = digest(model.towers)
    optimiser = torch.optim.SGD([p for group in parameter_groups(model).values() for _, p in group], lr=1.0)
    own = model.parts["base.visual"].backbone["visual"]["norm"]
    start = own.weight.detach().clone()
    model.loss(model(make_batch(model)), make_batch(model)).backward()
    optimiser.step()
    assert not torch.equal(own.weight, start)
    assert digest(model.towers) == before == model.backbone_digest
    assert all(torch.equal(value, frozen[key]) for key, value in model.towers.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.towers.parameters())


def test_it_is_saved_and_loaded_as_the_part_s() -> None:
    model, other = make(base=TrainsNorm), make(base=TrainsNorm)
    state = {key: torch.randn_like(value) for key, value in trainable_state(model).items()}
    assert set(trained(model)) < set(state)
    load_trainable_state(model, state)
    load_trainable_state(other, trainable_state(model))
    data = make_batch(model)
    assert torch.equal(model(data)["logits"], other(data)["logits"])


def test_it_stays_in_float32_beside_frozen_weights_in_bfloat16() -> None:
    model = make(base=TrainsNorm)
    model.towers.to(torch.bfloat16)
    own = model.parts["base.visual"].backbone["visual"]["norm"]
    assert own.weight.dtype == torch.float32
    out = model(make_batch(model))
    assert out.features.stream("visual").tokens.dtype == out.features.stream("visual").raw_tokens.dtype
    model.loss(out, make_batch(model)).backward()
    assert own.weight.grad is not None


def test_it_follows_the_model_to_float64() -> None:
    model = make(base=TrainsNorm).double()
    assert model.features(make_batch(model)).stream("audio").tokens.dtype == torch.float64


# ------------------------------------------------------------------------------------------------------ within blocks


@pytest.mark.parametrize("backbone", ["test_vit", "test_swinv2"])
def test_norms_within_blocks_are_trained_by_their_copies(backbone: str) -> None:
    model = make_model(avcore_timm, backbone, fusions={"base": TrainsNormsOfBoth}, sets=SOUND.get(backbone, ()))
    names = trained(model)
    within = [name for name in names if "blocks" in name]
    # Two norms in each block, of a weight and a bias each, once for both streams.
    assert len(within) == 4 * model.clips["visual"].layout.depth
    assert names[0].startswith("base.backbone.visual.")
    assert "base.backbone.visual.norm.weight" in names
    data = make_batch(model)
    before = model.features(data)
    for stream in STREAMS:
        assert torch.equal(before.stream(stream).tokens, model.plain(stream, data).tokens)
    frozen = digest(model.towers)
    optimiser = torch.optim.SGD([p for group in parameter_groups(model).values() for _, p in group], lr=0.1)
    start = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    model.loss(model(data), data).backward()
    optimiser.step()
    state = trainable_state(model)
    assert all(not torch.equal(state[name], start[name]) for name in within)
    for stream in STREAMS:
        assert not torch.equal(model.features(data).stream(stream).tokens, before.stream(stream).tokens)
        assert torch.equal(model.plain(stream, data).tokens, before.stream(stream).tokens)
    assert digest(model.towers) == frozen == model.backbone_digest
    other = make_model(avcore_timm, backbone, fusions={"base": TrainsNormsOfBoth}, sets=SOUND.get(backbone, ()))
    load_trainable_state(other, state)
    assert torch.equal(other(data)["logits"], model(data)["logits"])


def test_every_norm_counts() -> None:
    model, depth = make(base=TrainsNormsOfBoth), 6
    assert depth == model.clips["visual"].layout.depth
    assert count_parameters(model).added == (2 * depth + 1) * 2 * WIDTH


def test_norms_within_the_blocks_of_one_stream_leave_the_other_as_it_was() -> None:
    model = make(base=TrainsVisualNorms)
    data = make_batch(model)
    before = model.features(data)
    assert model.steps[0].blocks["audio"] is model.clips["audio"].tower.block(0)
    with torch.no_grad():
        model.parts["base.visual"].backbone["visual"]["blocks"]["0"]["norm1"].bias += 1.0
    after = model.features(data)
    assert torch.equal(after.stream("audio").tokens, before.stream("audio").tokens)
    assert not torch.equal(after.stream("visual").tokens, before.stream("visual").tokens)


def test_streams_that_train_the_same_norms_run_within_one_call_of_their_block() -> None:
    model = make(base=TrainsNormsOfBoth)
    for index, step in enumerate(model.steps):
        assert step.blocks["visual"] is step.blocks["audio"] is not model.clips["visual"].tower.block(index)


@pytest.mark.parametrize("backbone", ["test_vit", "test_swinv2"])
def test_norms_within_blocks_stay_in_float32_when_the_frozen_weights_are_cast(backbone: str) -> None:
    model = make_model(avcore_timm, backbone, fusions={"base": TrainsNormsOfBoth}, sets=SOUND.get(backbone, ()))
    exact = model(make_batch(model))["logits"].detach()
    model.towers.to(torch.bfloat16)
    out = model(make_batch(model))
    model.loss(out, make_batch(model)).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert (out["logits"] - exact).norm() < 0.05 * exact.norm()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(make_batch(twin))["logits"], out["logits"])


class Misspelt(Prompt):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"visual": ("nrom",)}


class WrongStream(Prompt):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"video": ("norm",)}


class NoSuch(Prompt):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"visual": ("*bias*",)}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Misspelt, "Part 'mine' wants to train 'nrom' of the visual backbone. Did you mean 'norm'.*offers: norm"),
        (NoSuch, r"'\*bias\*' of the visual backbone.* offers: norm, blocks.0.norm1, .*, \.\.\. \(13\)"),
        (WrongStream, "Part 'mine' wants to train parts of the stream 'video'; streams: visual, audio"),
    ],
)
def test_what_is_not_offered_is_refused_with_the_choices(part: type[Prompt], message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        make(mine=part)


def test_a_copy_that_nothing_reaches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that is no registered submodule of the tower.
    from avcore_timm.vit import ViTTower

    spare = nn.LayerNorm(WIDTH)
    monkeypatch.setattr(ViTTower, "trainable", property(lambda tower: {"norm": tower.trunk.model.norm, "spare": spare}))

    class Spare(Prompt):
        def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
            return {"visual": ("spare",)}

    with pytest.raises(AVCoreError, match=r"no gradient: mine\.visual\.backbone\.visual\.spare\.weight"):
        make(mine=Spare)


def test_the_norm_before_the_blocks_can_be_trained_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from avcore_timm.vit import ViTTower

    monkeypatch.setattr(ViTTower, "trainable", property(lambda tower: {"enter": tower.trunk.model.norm}))
    monkeypatch.setattr(ViTTower, "enter", lambda tower, x: tower.trunk.model.norm(x))

    class TrainsEntry(Prompt):
        def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
            return {"visual": ("enter",)}

    model = make(mine=TrainsEntry)
    data = make_batch(model)
    before = model.features(data)
    assert torch.equal(before.stream("visual").tokens, model.plain("visual", data).tokens)
    with torch.no_grad():
        model.parts["mine.visual"].backbone["visual"]["enter"].bias += 1.0
    assert not torch.equal(model.features(data).stream("visual").tokens, before.stream("visual").tokens)
