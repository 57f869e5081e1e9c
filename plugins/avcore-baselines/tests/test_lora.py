"""LoRA against merged weights, on timm's Vision Transformer in float64."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import avcore_baselines
import avcore_timm
from avcore import (
    AVCoreError,
    AVModel,
    Edit,
    Prompt,
    PromptLayer,
    load_trainable_state,
    parameter_groups,
    trainable_state,
)
from avcore.backbones import without_blocks
from avcore.testing import ToyPlugin, create_model, make_batch, make_model
from avcore_baselines.lowrank import LoRALayer, merge

ALL = "parts.lora.targets=[q,k,v,proj,fc1,fc2]"
SOUND = ("audio.frames=48", "audio.mel_bins=32")
WIDTH, DEPTH = 64, 6  # of test_vit


def make(*settings: str, **options: Any) -> AVModel:
    sets = (*SOUND, *(f"parts.lora.{setting}" for setting in settings))
    others = {"avcore-baselines": avcore_baselines}
    return make_model(avcore_timm, "test_vit", listed=("lora",), others=others, sets=sets, **options)


def moved(model: AVModel) -> AVModel:
    """The model in float64, every trained parameter random."""
    model.double()
    draws = torch.Generator().manual_seed(0)
    state = trainable_state(model)
    load_trainable_state(
        model, {key: torch.randn(value.shape, generator=draws, dtype=value.dtype) / 4 for key, value in state.items()}
    )
    return model


def layers_of(model: AVModel, stream: str) -> list[LoRALayer]:
    return list(model.parts[f"lora.{stream}"].layers.values())  # type: ignore[arg-type]


def merged(model: AVModel, stream: str) -> Any:
    """A copy of the stream's timm model with the increments in its weights."""
    tower: Any = model.towers[stream]
    trunk: Any = copy.deepcopy(tower.trunk.model)
    made = merge(tower.weights(), layers_of(model, stream))
    with torch.no_grad():
        for key, own in without_blocks(trunk).items():
            own.copy_(made[key])
    return trunk


def embedded(model: AVModel, stream: str) -> Tensor:
    tower: Any = model.towers[stream]
    found: Tensor = tower.enter(tower.embed(model.front_ends(make_batch(model))[stream].double()))
    return found


@pytest.mark.parametrize(
    ("targets", "stream"),
    [
        ("q", "visual"),
        ("k", "visual"),
        ("v", "visual"),
        ("proj", "visual"),
        ("fc1", "visual"),
        ("fc2", "visual"),
        ("q,v", "audio"),
        ("q,k,v,proj,fc1,fc2", "audio"),
    ],
)
def test_increments_are_merged_weights(targets: str, stream: str) -> None:
    model = moved(make("rank=3", f"targets=[{targets}]"))
    x_MND = embedded(model, stream)
    trunk, plain = merged(model, stream), model.towers[stream].trunk.model  # type: ignore[union-attr]
    tokens = model.features(make_batch(model)).stream(stream).tokens
    expected = trunk.norm(trunk.blocks(x_MND))
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-10)
    assert (expected - plain.norm(plain.blocks(x_MND))).abs().max() > 1e-3  # type: ignore[operator, union-attr]


def test_what_was_merged_can_be_taken_off_again() -> None:
    model = moved(make("targets=[q,v,fc1]")).float()
    tower: Any = model.towers["visual"]
    weights, layers = tower.weights(), layers_of(model, "visual")
    there = merge(weights, layers)
    changed = {key for key in weights if not torch.equal(there[key], weights[key])}
    assert changed == {f"blocks.{i}.{name}.weight" for i in range(DEPTH) for name in ("attn.qkv", "mlp.fc1")}
    back = merge(there, layers, sign=-1)
    for key, frozen in weights.items():
        torch.testing.assert_close(back[key], frozen, rtol=0, atol=1e-6)


def test_weights_of_another_backbone_are_not_merged() -> None:
    model = make()
    with pytest.raises(AVCoreError, match=r"1 maps 'qkv' for increments of 6 blocks"):
        merge({"blocks.0.attn.qkv.weight": torch.zeros(3 * WIDTH, WIDTH)}, layers_of(model, "visual"))


class Rows(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.randn(2, block.width))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(carry=self.rows)


class CarriedOnce(Prompt):
    """Another part: two rows among the tokens of the first block, which leave again behind it."""

    def layer(self, block: Any) -> PromptLayer | None:
        return Rows(None, block) if block.index == 0 else None


def test_increments_act_on_the_rows_of_other_parts_too() -> None:
    model = moved(make("targets=[q,k,v,proj]", prompts={"carried": CarriedOnce}))
    x_MND = embedded(model, "visual")
    trunk = merged(model, "visual")
    rows: Any = model.parts["carried.visual"].layers["0"].rows  # type: ignore[union-attr]
    whole = trunk.blocks[0](torch.cat([x_MND, rows.expand(len(x_MND), -1, -1)], dim=1))
    expected = trunk.norm(trunk.blocks[1:](whole[:, : x_MND.shape[1]]))
    tokens = model.features(make_batch(model)).stream("visual").tokens
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-10)


def test_training_starts_at_the_frozen_features() -> None:
    model = make()
    data = make_batch(model)
    for stream in ("visual", "audio"):
        assert torch.equal(model.features(data).stream(stream).tokens, model.plain(stream, data).tokens)


def test_dropout_is_for_training_only() -> None:
    model = moved(make("dropout=0.5")).float()
    x = torch.randn(4, 5, WIDTH)
    layer: Any = model.parts["lora.visual"].layers["0"]
    assert torch.equal(layer.projection("qkv", x), layer.projection("qkv", x))
    layer.train()
    assert not torch.equal(layer.projection("qkv", x), layer.projection("qkv", x))


@pytest.mark.parametrize(
    ("sets", "count"),
    [
        ((), 2 * 12 * 2 * (2 * 768 * 4)),  # streams, blocks, maps, A and B
        (("parts.lora.rank=8", "parts.lora.targets=[q,k,v,proj]"), 2 * 12 * 4 * (2 * 768 * 8)),
        (("parts.lora.rank=16", ALL), 5_308_416),
        (("parts.lora.rank=54", ALL), 17_915_904),  # what CoLA's cross-modal increments are compared with
    ],
)
def test_counts_on_vit_base(sets: tuple[str, ...], count: int) -> None:
    model = create_model(
        {"timm": avcore_timm, "baselines": avcore_baselines, "toys": ToyPlugin()},
        task="toy",
        prompts="lora",
        fusions="none",
        visual="vit_base_patch16_224",
        set=sets,
        meta=True,
    )
    assert sum(parameter.numel() for _, parameter in parameter_groups(model)["parts"]) == count


@pytest.mark.parametrize("setting", ["rank=0", "targets=[]", "targets=[q,q]", "targets=[fc3]", "dropout=1.0"])
def test_settings_out_of_range_are_named(setting: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.lora\.{setting.partition('=')[0]}"):
        make(setting)
