"""AST is timm's distilled Vision Transformer on overlapping patches; published and Hugging Face's names load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import unwrapped
from torch import Tensor

import avcore_timm
from avcore.data.frontends import FilterBank
from avcore.errors import AVCoreError
from avcore.shapes import WithoutValues
from avcore.specs import FilterBankGeometry
from avcore.testing.toys import make_batch, make_model
from avcore_timm import AST_PRESETS
from avcore_timm.ast import AST, ASTTower, ast_keys, build
from avcore_timm.settings import ASTSettings

RANDOM = ASTSettings(weights="random")
SMALL = AST_PRESETS["test_ast"]
GRID = (4, 10)
"""Frequency x time of the small model's patches."""


def make(settings: ASTSettings = RANDOM) -> AST:
    torch.manual_seed(0)
    made = build(settings, name="small", preset=SMALL)
    if settings.weights == "random":
        for parameter in made.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return made


def tower_of(backbone: AST, **settings: Any) -> ASTTower:
    made = backbone.tower("audio", ASTSettings(weights="random", **settings), segments=2)
    assert isinstance(made, ASTTower)
    return made


def run(tower: ASTTower, image: Tensor) -> Tensor:
    x = tower.enter(tower.embed(image))
    for index in range(tower.layout.depth):
        x = x + tower.block(index).attention(x)[0]
        x = x + tower.block(index).mlp(x)
    return tower.norm(x)


def test_equals_timm_bit_for_bit() -> None:
    backbone = make()
    image = torch.randn(3, 106, 46)
    tower = tower_of(backbone)
    tokens = run(tower, image)
    plain: Any = unwrapped(backbone.model)
    expected = plain.forward_features(image[:, None].transpose(2, 3))
    assert torch.equal(tokens, expected)
    assert torch.equal(tower.pool(tokens), (expected[:, 0] + expected[:, 1]) / 2)


def test_the_published_size() -> None:
    with WithoutValues():
        backbone = build(ASTSettings(), name="ast", preset=AST_PRESETS["ast"])
        tower = backbone.tower("audio", ASTSettings(), segments=1)
        assert tower.embed(torch.zeros(1, 1024, 128)).shape == (1, 1214, 768)
    (stage,) = tower.layout.stages
    assert (stage.width, stage.depth, stage.heads, stage.grid, stage.prefix) == (768, 12, 12, (12, 101), 2)
    assert tower.geometry == FilterBankGeometry(frames=1024, mean=-4.2677393, std=4.5689974, pad_first=True)
    assert (tower.geometry.frames, tower.geometry.mel_bins, tower.geometry.rate) == (1024, 128, 16000)
    classifier = 768 * 2 + 527 * (768 + 1)
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count == 86_187_264
    assert count + classifier == 86_594_063


def test_a_shorter_picture_takes_the_middle_of_the_positions_and_a_longer_one_stretches_them() -> None:
    backbone = make()
    table = backbone.model.pos_embed
    shorter = tower_of(backbone, frames=60)
    assert shorter.layout.stages[0].grid == (4, 5)
    assert torch.equal(shorter.positions_1ND[:, :2], table[:, :2])
    middle = table[0, 2:].unflatten(0, GRID)[:, 3:8]
    assert torch.equal(shorter.positions_1ND[0, 2:].unflatten(0, (4, 5)), middle)
    longer = tower_of(backbone, frames=206)
    stretched = torch.nn.functional.interpolate(
        table[:, 2:].transpose(1, 2).unflatten(2, GRID), size=(4, 20), mode="bilinear"
    )
    assert torch.equal(longer.positions_1ND[:, 2:], stretched.flatten(2).transpose(1, 2))
    assert longer.embed(torch.zeros(1, 206, 46)).shape == (1, 82, 24)
    with pytest.raises(AVCoreError, match=r"15 frames holds no patch of 16: raise audio\.frames"):
        tower_of(backbone, frames=15)


def published(backbone: AST) -> dict[str, Tensor]:
    named = {f"module.v.{key}": tensor for key, tensor in tower_of(backbone).weights().items()}
    others = ("v.head.weight", "v.head_dist.bias", "mlp_head.0.weight", "mlp_head.1.bias")
    return named | {f"module.{key}": torch.zeros(3) for key in others}


NAMES_4 = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
NAMES_5 = NAMES_4 | {
    "attn.q": "attention.q_proj",
    "attn.k": "attention.k_proj",
    "attn.v": "attention.v_proj",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def hugging_face(backbone: AST, layers: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    own = tower_of(backbone).weights()
    named = {theirs: own[key] for key, theirs in OUTSIDE.items()}
    for index in range(2):
        for part, theirs in names.items():
            for kind in ("weight", "bias"):
                if part in ("attn.q", "attn.k", "attn.v"):
                    tensor = own[f"blocks.{index}.attn.qkv.{kind}"].chunk(3)["qkv".index(part[-1])].clone()
                else:
                    tensor = own[f"blocks.{index}.{part}.{kind}"]
                named[f"{layers}.{index}.{theirs}.{kind}"] = tensor
    return named


def hugging_face_4(backbone: AST) -> dict[str, Tensor]:
    named = hugging_face(backbone, "encoder.layer", NAMES_4)
    others = {"classifier.layernorm.weight": torch.zeros(3), "classifier.dense.bias": torch.zeros(3)}
    return others | {f"audio_spectrogram_transformer.{key}": tensor for key, tensor in named.items()}


def hugging_face_5(backbone: AST) -> dict[str, Tensor]:
    return hugging_face(backbone, "layers", NAMES_5)


@pytest.mark.parametrize("names", [published, hugging_face_4, hugging_face_5])
def test_weights_under_other_names_load(tmp_path: Path, names: Any) -> None:
    first = make()
    file = tmp_path / "weights.pth"
    torch.save(names(first), file)
    loaded = make(ASTSettings(weights=str(file)))
    assert loaded.notices == ()
    own: Mapping[str, Tensor] = tower_of(loaded).weights()
    assert all(torch.equal(own[key], tensor) for key, tensor in tower_of(first).weights().items())


def test_names_of_the_tower_stay_and_those_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    weights = tower_of(make()).weights()
    assert ast_keys(weights).keys() == weights.keys()
    tensors = hugging_face_4(make())
    del tensors["audio_spectrogram_transformer.encoder.layer.1.attention.attention.key.bias"]
    file = tmp_path / "weights.pth"
    torch.save(tensors, file)
    with pytest.raises(AVCoreError) as raised:
        make(ASTSettings(weights=str(file)))
    assert "missing blocks.1.attn.qkv.bias" in str(raised.value)
    assert "unexpected blocks.1.attn.q.bias" in str(raised.value)


def test_weights_must_be_named_and_pictures_are_refused() -> None:
    with pytest.raises(AVCoreError, match=r"'ast' has no weights: pass a file with --set audio\.weights=PATH"):
        build(ASTSettings(), name="ast", preset=SMALL)
    with pytest.raises(AVCoreError, match="'test_ast' serves the audio stream only"):
        make_model(avcore_timm, "test_ast", sets=("visual.weights=random",))


def test_it_listens_beside_a_vit() -> None:
    model = make_model(avcore_timm, "test_vit", sets=("audio.backbone=test_ast", "audio.weights=random"))
    assert isinstance(model.streams["audio"].front_end, FilterBank)
    features = model.features(make_batch(model))
    assert features.audio is not None
    assert features.audio.pooled.shape == (2, 2, 24)
    assert tuple(features.audio.maps[-1].shape[1:]) == (24, *GRID)
