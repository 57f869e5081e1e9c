"""Full fine-tuning, biases and norms: what trains, that it equals the backbone trained by hand, and what is told."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avcore_baselines
import avcore_timm
from avcore import AVCoreError, AVModel, Edit, PromptLayer
from avcore.backbones import beside_rows, digest, gated_linear, queries_keys_apart
from avcore.injection import Prompt
from avcore.report.parameters import count_parameters
from avcore.specs import STREAMS
from avcore.states import load_trainable_state, parameter_groups, trainable_state
from avcore.testing import create_model, make_batch, make_model
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import ToyPlugin

SOUND = ("audio.frames=48", "audio.mel_bins=32")
VIT_BASE = 85_798_656
OTHERS = {"avcore-baselines": avcore_baselines}


def make(*listed: str, backbone: str = "test_vit", sets: tuple[str, ...] = (), **options: Any) -> AVModel:
    sets = (*(SOUND if backbone == "test_vit" else ()), *sets)
    return make_model(avcore_timm, backbone, listed=listed, others=OTHERS, sets=sets, **options)


def trained(model: AVModel) -> dict[str, nn.Parameter]:
    return {name: one for name, one in parameter_groups(model)["parts"] if one.requires_grad}


def step(model: AVModel, lr: float = 0.1) -> None:
    parameters = [one for group in parameter_groups(model).values() for _, one in group if one.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=lr)
    optimiser.zero_grad()
    model.loss(model(make_batch(model)), make_batch(model)).backward()
    optimiser.step()


def test_full_fine_tuning_is_that_of_the_backbone_itself() -> None:
    """The same step on a copy whose frozen weights have gradients switched on."""
    model, by_hand = make("full", streams="visual").double(), make(streams="visual").double()
    by_hand.requires_grad_(True)
    start = digest(model.towers)
    for one in (model, by_hand):
        one.head.load_state_dict({k: v.double() for k, v in make(streams="visual").head.state_dict().items()})
    for _ in range(2):
        step(model)
        batch = make_batch(by_hand)
        optimiser = torch.optim.SGD(by_hand.parameters(), lr=0.1)
        by_hand.loss(by_hand(batch), batch).backward()
        optimiser.step()
        optimiser.zero_grad()
    batch = make_batch(model)
    found, expected = (one.features(batch).stream("visual").tokens for one in (model, by_hand))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (found - model.plain("visual", batch).tokens).abs().max() > 1e-3
    assert digest(model.towers) == start
    weights = dict(by_hand.streams["visual"].tower.weights())
    for name, own in trained(model).items():
        torch.testing.assert_close(own, weights[name.removeprefix("full.visual.backbone.visual.")], rtol=0, atol=1e-12)


def test_all_that_the_streams_read_trains_and_shared_trunks_train_once() -> None:
    model = make("full")
    weights = {key for key, one in model.streams["visual"].tower.weights().items() if isinstance(one, nn.Parameter)}
    assert {name.removeprefix("full.visual.backbone.visual.") for name in trained(model)} == weights
    before = {name: one.detach().clone() for name, one in trained(model).items()}
    step(model)
    for name, one in trained(model).items():
        # A bias of keys moves all logits of a query alike: its gradient is rounding.
        assert not torch.equal(one, before[name]), name
    assert model.steps[0].blocks["visual"] is model.steps[0].blocks["audio"]


@pytest.mark.parametrize("sets", [(), ("audio.patch=one_channel", "audio.position=crop")], ids=str)
def test_positions_of_sound_and_its_kernel_follow_what_they_are_made_of(sets: tuple[str, ...]) -> None:
    model = make("full", sets=("audio.backbone=test_vit", "audio.weights=random", *sets))
    assert not any("stay as they are" in one for one in model.notices)
    batch = make_batch(model)
    for name in ("pos_embed", "patch_embed.proj.weight"):
        before = model.features(batch).stream("audio").tokens
        with torch.no_grad():
            trained(model)[f"full.audio.backbone.audio.{name}"].mul_(1.5)
            assert not torch.equal(model.features(batch).stream("audio").tokens, before)


def test_biases_alone() -> None:
    model = make("bias")
    found = trained(model)
    assert {name.rpartition(".")[2] for name in found} == {"bias"}
    weights = {key for key in model.streams["visual"].tower.weights() if key.endswith("bias")}
    assert len(found) == len(weights)
    step(model)
    batch = make_batch(model)
    assert not torch.equal(model.features(batch).stream("audio").tokens, model.plain("audio", batch).tokens)


@pytest.mark.parametrize("name", ["full", "bias", "norms"])
def test_each_is_saved_loaded_copied_and_starts_at_the_frozen_features(name: str) -> None:
    model, other = make(name), make(name)
    batch = make_batch(model)
    for stream in STREAMS:
        assert torch.equal(model.features(batch).stream(stream).tokens, model.plain(stream, batch).tokens)
    step(model)
    load_trainable_state(other, trainable_state(model))
    expected = model(batch)["logits"]
    assert torch.equal(other(batch)["logits"], expected)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.zero_()
    assert torch.equal(twin(batch)["logits"], expected)


def test_beside_weights_in_half_precision_it_stays_in_float32() -> None:
    model = make("full")
    exact = model(make_batch(model))["logits"].detach()
    model.towers.to(torch.bfloat16)
    out = model(make_batch(model))
    model.loss(out, make_batch(model)).backward()
    for name, parameter in trained(model).items():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert (out["logits"] - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("memory", ["balanced", "low"])
def test_what_is_recomputed_gives_the_same_gradients(memory: str) -> None:
    found = []
    for sets in ((), (f"train.memory={memory}",)):
        model = make("full", "vpt.deep", sets=sets).train()
        model.loss(model(make_batch(model)), make_batch(model)).backward()
        found.append({name: one.grad for name, one in trained(model).items()})
    torch.testing.assert_close(found[1], found[0])


class Rows(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.rows)


@pytest.mark.parametrize("backbone", ["test_vit", "test_swinv2"])
def test_rows_beside_trained_maps_leave_them_their_gradients(backbone: str) -> None:
    """Rows take another way through the map to queries, keys and values, which is written out for frozen weights."""
    model = make("full", backbone=backbone, prompts={"rows": Rows}, streams="visual").double()
    (name, weight) = next((n, w) for n, w in trained(model).items() if n.endswith("blocks.0.attn.qkv.weight"))
    batch = make_batch(model)

    def loss() -> Tensor:
        return model.loss(model(batch), batch)

    loss().backward()
    assert weight.grad is not None, name
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        weight += 1e-6 * direction
        above = loss()
        weight -= 2e-6 * direction
        below = loss()
    assert ((above - below) / 2e-6).item() == pytest.approx((weight.grad * direction).sum().item(), rel=1e-5)


def test_a_block_compiles_into_one_graph() -> None:
    model = make("full")
    x = tokens_for(model, 0)
    expected, found = model.steps[0](dict(x), {})[0], capture(model.steps[0], x).output[0]
    for stream in x:
        torch.testing.assert_close(found[stream], expected[stream])


def test_what_a_tower_keeps_tables_of_is_told_and_left() -> None:
    model = make("full", backbone="test_swinv2")
    (notice,) = [one for one in model.notices if "stay as they are" in one]
    assert "full.visual.backbone.visual.layers.0.blocks.0.attn" in notice
    unread = [name for name, one in parameter_groups(model)["parts"] if not one.requires_grad]
    assert all(".attn.cpb_mlp." in n or n.endswith((".logit_scale", ".q_bias", ".v_bias")) for n in unread), unread
    step(model)


class Misspelt(Prompt):
    def backbone_tensors(self) -> dict[str, tuple[str, ...]]:
        return {"visual": ("*.biass",)}


def test_names_that_no_tensor_has_are_refused() -> None:
    with pytest.raises(AVCoreError, match=r"'odd' wants to train '\*\.biass' of the visual backbone"):
        make(prompts={"odd": Misspelt})


@pytest.mark.parametrize(
    ("name", "count"),
    [("full", VIT_BASE), ("bias", 102_912), ("norms", 38_400)],
)
def test_counts_on_one_vit_base(name: str, count: int) -> None:
    model = create_model(
        {"timm": avcore_timm, "baselines": avcore_baselines, "toys": ToyPlugin()},
        task="toy",
        prompts=name,
        fusions="none",
        visual="vit_base_patch16_224",
        meta=True,
    )
    assert sum(one.numel() for one in trained(model).values()) == count
    counted = count_parameters(model)
    head = counted.parts["head"].parameters
    assert counted.parts[name].trainable == counted.added == count
    if name != "norms":
        # Each number of the backbone once, frozen or trained.
        assert counted.total == VIT_BASE + head
        assert counted.parts["visual"].parameters == VIT_BASE - count


def test_a_trunk_that_one_stream_trains_is_counted_beside_its_copy() -> None:
    model = make("full", sets=("parts.full.streams=visual",))
    counted = count_parameters(model)
    assert counted.parts["visual"].parameters == counted.parts["full"].trainable > 0


@pytest.mark.parametrize("function", [gated_linear, beside_rows, queries_keys_apart], ids=lambda one: one.__name__)
def test_gradients_written_by_hand_reach_a_map_that_trains(function: Any) -> None:
    draws = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws, dtype=torch.float64, requires_grad=True)

    if function is gated_linear:
        given = (draw(2, 3, 4), draw(5, 4), draw(5), draw())
        torch.autograd.gradcheck(function, given)
    elif function is beside_rows:
        x, weight, bias, rows = draw(2, 1, 3, 4), draw(12, 4), draw(12), draw(1, 2, 8)
        torch.autograd.gradcheck(
            lambda x, weight, bias, rows: function(x, weight, bias, [rows]), (x, weight, bias, rows)
        )
    else:
        torch.autograd.gradcheck(function, (draw(2, 3, 4), draw(12, 4), draw(12)))
