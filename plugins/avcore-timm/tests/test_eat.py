"""EAT: blocks with norms behind the sums, its positions, published names of weights; CoLA's sizes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import avcore_timm
from avcore.errors import AVCoreError
from avcore.shapes import WithoutValues
from avcore.specs import FilterBankGeometry
from avcore.testing.toys import make_batch, make_model
from avcore_timm import EAT_PRESETS
from avcore_timm.eat import EAT, EATTower, build, eat_keys
from avcore_timm.settings import EATSettings

RANDOM = EATSettings(weights="random")
SMALL = EAT_PRESETS["test_eat"]


def make(settings: EATSettings = RANDOM) -> EAT:
    torch.manual_seed(0)
    made = build(settings, name="small", preset=SMALL)
    if settings.weights == "random":
        for parameter in made.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return made


def tower_of(backbone: EAT, **settings: Any) -> EATTower:
    made = backbone.tower("audio", EATSettings(weights="random", **settings), segments=2)
    assert isinstance(made, EATTower)
    return made


def run(tower: EATTower, image: Tensor) -> Tensor:
    x = tower.enter(tower.embed(image))
    for index in range(tower.layout.depth):
        x = tower.block(index)(x)
    return tower.norm(x)


def by_hand(state: dict[str, Tensor], image: Tensor, heads: int) -> Tensor:
    """The published model, written out from its weights."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    kernel = state["patch_embed.proj.weight"]
    patches = F.conv2d(image[:, None], kernel, state["patch_embed.proj.bias"], 16).flatten(2).mT
    x = torch.cat(
        [state["cls_token"].expand(len(image), -1, -1), patches + state["pos_embed"][:, : patches.shape[1]]], 1
    )
    x = norm("norm_pre", x)
    for index in range(SMALL["depth"]):
        at = f"blocks.{index}"
        q, k, v = linear(f"{at}.attn.qkv", x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        x = norm(f"{at}.norm1", x + linear(f"{at}.attn.proj", (weights @ v).transpose(1, 2).flatten(2)))
        x = norm(f"{at}.norm2", x + linear(f"{at}.mlp.fc2", F.gelu(linear(f"{at}.mlp.fc1", x))))
    return x


@pytest.mark.parametrize("frames", [96, 48])
def test_blocks_have_their_norms_behind_the_sums(frames: int) -> None:
    backbone = make()
    tower = tower_of(backbone, frames=frames)
    image = torch.randn(3, frames, 32)
    tokens = run(tower, image)
    expected = by_hand(dict(tower.weights()), image, SMALL["heads"])
    assert tokens.shape == (3, 1 + frames // 16 * 2, 24)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(tower.pool(tokens), tokens[:, 0])


@pytest.mark.parametrize("frames", [15, 112])
def test_pictures_without_positions_are_refused(frames: int) -> None:
    with pytest.raises(AVCoreError, match=rf"of {frames} frames does not fit 'small'.*16 to 96.*audio\.frames"):
        tower_of(make(), frames=frames)


@pytest.mark.parametrize(
    ("name", "count"), [("sslam", 85_647_360), ("eat_base", 85_647_360), ("eat_large", 303_099_904)]
)
def test_the_published_size(name: str, count: int) -> None:
    with WithoutValues():
        backbone = build(EATSettings(), name=name, preset=EAT_PRESETS[name])
        tower = backbone.tower("audio", EATSettings(), segments=1)
    (stage,) = tower.layout.stages
    assert (stage.grid, stage.prefix, tower.layout.pool) == ((64, 8), 1, "class")
    assert tower.geometry == FilterBankGeometry(frames=1024, mean=-4.268, std=4.569, pad_first=True)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count


FAIRSEQ = {
    "patch_embed.proj.": "modality_encoders.IMAGE.local_encoder.proj.",
    "cls_token": "modality_encoders.IMAGE.extra_tokens",
    "pos_embed": "modality_encoders.IMAGE.fixed_positional_encoder.positions",
    "norm_pre.": "modality_encoders.IMAGE.context_encoder.norm.",
}
HUGGING_FACE = {
    "patch_embed.proj.": "local_encoder.proj.",
    "cls_token": "extra_tokens",
    "pos_embed": "fixed_positional_encoder.positions",
    "norm_pre.": "pre_norm.",
}
OTHERS = {
    "": ("_ema.blocks.0.norm1.weight", "modality_encoders.IMAGE.decoder.proj.weight", "recon_proj.bias"),
    "model.": ("fc_norm.weight", "head.weight"),
}


@pytest.mark.parametrize(("before", "names"), [("", FAIRSEQ), ("model.", FAIRSEQ), ("model.", HUGGING_FACE)], ids=str)
def test_published_names_load(before: str, names: dict[str, str], tmp_path: Path) -> None:
    own = dict(tower_of(make()).weights())
    theirs = {}
    for key, tensor in own.items():
        for ours, published in names.items():
            key = key.replace(ours, published)
        theirs[before + key] = tensor.detach().clone()
    for key in OTHERS[before]:
        theirs[(before if key.startswith(("fc", "head")) else "") + key] = torch.zeros(3)
    torch.save({"model": theirs}, tmp_path / "weights.pt")
    loaded = tower_of(make(EATSettings(weights=str(tmp_path / "weights.pt")))).weights()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(loaded[key], own[key]) for key in own)


def test_a_file_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    own = dict(tower_of(make()).weights())
    torch.save({**own, "blocks.0.attn.alibi_scale": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(AVCoreError, match=r"does not fit 'small'.*unexpected blocks\.0\.attn\.alibi_scale"):
        make(EATSettings(weights=str(tmp_path / "weights.pt")))
    assert eat_keys(own).keys() == own.keys()


def test_it_hears_beside_pictures() -> None:
    sets = ("audio.backbone=test_eat", "audio.weights=random")
    model = make_model(avcore_timm, "test_vit", sets=sets)
    features = model.features(make_batch(model))
    assert features.stream("audio").pooled.shape == (2, 2, 24)
    assert features.stream("audio").pooled.isfinite().all()
