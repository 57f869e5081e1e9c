"""Vision Transformers equal timm's bit for bit, and rows are the naive concatenation."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import unwrapped
from safetensors.torch import save_file

from avcore import compat
from avcore.backbones import digest
from avcore.errors import AVCoreError
from avcore.shapes import WithoutValues
from avcore_timm import VIT_PRESETS
from avcore_timm.settings import ViTSettings
from avcore_timm.vit import ViT, build

compat.install()
import timm  # noqa: E402 - only after the import hook

SMALL = {
    "vit": {
        "model": "vit_tiny_patch16_224",
        "arguments": {"img_size": 64, "embed_dim": 48, "depth": 5, "num_heads": 3},
    },
    "clip": {
        "model": "vit_base_patch16_clip_quickgelu_224",
        "arguments": {"img_size": 64, "embed_dim": 48, "depth": 4, "num_heads": 4},
    },
    "registers": {
        "model": "vit_small_patch14_reg4_dinov2",
        "arguments": {"img_size": 56, "embed_dim": 48, "depth": 4, "num_heads": 3},
    },
    "gated": {
        "model": "vit_giant_patch14_dinov2",
        "arguments": {"img_size": 56, "embed_dim": 48, "depth": 2, "num_heads": 3},
    },
    "attention-pooled": {
        "model": "vit_base_patch16_siglip_224",
        "arguments": {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3},
    },
    "distilled": {
        "model": "deit_tiny_distilled_patch16_224",
        "arguments": {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3},
    },
    "deit3": {
        "model": "deit3_small_patch16_224",
        "arguments": {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3},
    },
    "mean": {
        "model": "vit_base_patch16_reg4_gap_256",
        "arguments": {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3},
    },
}


@pytest.fixture(params=SMALL)
def backbone(request: pytest.FixtureRequest) -> ViT:
    torch.manual_seed(0)
    made = build(ViTSettings(weights="random"), name=request.param, preset=SMALL[request.param])
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return made


def test_equals_timm_bit_for_bit(backbone: ViT) -> None:
    size = backbone.model.patch_embed.img_size[0]
    tower = backbone.tower("visual", ViTSettings(), segments=2)
    image = torch.randn(4, 3, size, size)
    x = tower.enter(tower.embed(image))
    for index in range(tower.layout.depth):
        x = x + tower.block(index).attention(x)[0]
        x = x + tower.block(index).mlp(x)
    plain: Any = unwrapped(backbone.model)
    assert torch.equal(tower.norm(x), plain.forward_features(image))
    assert torch.equal(tower.pool(tower.norm(x)), plain.forward_head(plain.forward_features(image)))


def test_rows_equal_the_naive_concatenation(backbone: ViT) -> None:
    tower = backbone.tower("visual", ViTSettings(), segments=2).double()
    x = torch.randn(4, tower.layout.stages[0].tokens, 48, dtype=torch.float64)
    rows = torch.randn(4, 7, 48, dtype=torch.float64)
    inner = backbone.model.blocks[1].inner
    naive = inner.ls1(inner.attn(inner.norm1(torch.cat([x, rows], dim=1))))
    out, carried = tower.block(1).attention(x, rows=rows)
    assert carried is None
    torch.testing.assert_close(out, naive[:, : x.shape[1]], rtol=0, atol=1e-12)
    shared, _ = tower.block(1).attention(x, rows=rows[0])
    torch.testing.assert_close(shared[0], out[0], rtol=0, atol=1e-12)


def test_carried_rows_are_queries_too(backbone: ViT) -> None:
    tower = backbone.tower("visual", ViTSettings(), segments=2).double()
    x = torch.randn(4, tower.layout.stages[0].tokens, 48, dtype=torch.float64)
    carry = torch.randn(4, 3, 48, dtype=torch.float64)
    inner = backbone.model.blocks[0].inner
    naive = inner.ls1(inner.attn(inner.norm1(torch.cat([x, carry], dim=1))))
    out, carried = tower.block(0).attention(x, carry=carry)
    torch.testing.assert_close(torch.cat([out, carried], dim=1), naive, rtol=0, atol=1e-12)


def test_keys_and_values_of_normed_rows_are_rows(backbone: ViT) -> None:
    tower = backbone.tower("visual", ViTSettings(), segments=2).double()
    block, inner = tower.block(1), backbone.model.blocks[1].inner
    x = torch.randn(4, tower.layout.stages[0].tokens, 48, dtype=torch.float64)
    rows = torch.randn(7, 48, dtype=torch.float64)
    kv = block.keys_values(inner.norm1(rows))
    assert kv[0].shape == kv[1].shape == rows.shape
    torch.testing.assert_close(block.attention(x, kv=kv)[0], block.attention(x, rows=rows)[0], rtol=0, atol=1e-12)


def test_key_value_prefixes_and_row_bias(backbone: ViT) -> None:
    tower = backbone.tower("visual", ViTSettings(), segments=2).double()
    block = tower.block(0)
    x = torch.randn(4, tower.layout.stages[0].tokens, 48, dtype=torch.float64)
    kv = (torch.randn(2, 48, dtype=torch.float64), torch.randn(2, 48, dtype=torch.float64))
    plain = block.attention(x)[0]
    assert not torch.allclose(block.attention(x, kv=kv)[0], plain)
    hidden = torch.full((2,), -1e9, dtype=torch.float64)
    torch.testing.assert_close(block.attention(x, kv=kv, row_bias_R=hidden)[0], plain, rtol=0, atol=1e-12)


def test_projection_adds_to_every_frozen_map(backbone: ViT) -> None:
    tower = backbone.tower("visual", ViTSettings(), segments=2).double()
    x = torch.randn(2, tower.layout.stages[0].tokens, 48, dtype=torch.float64)
    rows = torch.randn(3, 48, dtype=torch.float64)
    inner = backbone.model.blocks[0].inner
    layers = {"qkv": inner.attn.qkv, "proj": inner.attn.proj, "fc1": inner.mlp.fc1, "fc2": inner.mlp.fc2}
    shift = {name: torch.randn(layer.out_features, dtype=torch.float64) for name, layer in layers.items()}

    def project(name: str, x: torch.Tensor) -> torch.Tensor:
        return shift[name].expand(*x.shape[:-1], -1)

    attention = tower.block(0).attention(x, rows=rows, project=project)[0]
    mlp = tower.block(0).mlp(x, project=project)
    with torch.no_grad():
        for name, layer in layers.items():
            bias = shift[name] if layer.bias is None else layer.bias + shift[name]
            layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    torch.testing.assert_close(attention, tower.block(0).attention(x, rows=rows)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(mlp, tower.block(0).mlp(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("patch", "channels"), [("rgb_repeat", 3), ("one_channel", 1)])
def test_sound_goes_through_the_same_patch_kernel(patch: str, channels: int) -> None:
    vit = build(ViTSettings(weights="random"), name="small", preset=SMALL["vit"])
    tower = vit.tower("audio", ViTSettings(patch=patch, frames=50, mel_bins=33), segments=1)
    assert tower.layout.stages[0].grid == (3, 2)
    image = torch.randn(1, 50, 33)
    token = tower.embed(image)[0, 1] - tower.positions_1ND[0, 1]
    kernel, bias = vit.model.patch_embed.proj.weight, vit.model.patch_embed.proj.bias
    # Three equal channels through an RGB kernel are one channel through its sum.
    expected = (kernel.sum(1) * image[0, :16, :16]).sum((1, 2)) + bias
    torch.testing.assert_close(token, expected, rtol=1e-4, atol=1e-5)
    assert tower.embed(image).shape == (1, 7, 48)
    assert channels == (3 if tower.kernel is None else tower.kernel.shape[1])


def test_positions_of_sound_interpolate_or_crop() -> None:
    vit = build(ViTSettings(weights="random"), name="small", preset=SMALL["vit"])
    table = vit.model.pos_embed
    interpolated = vit.tower("audio", ViTSettings(frames=50, mel_bins=33), segments=1)
    expected = torch.nn.functional.interpolate(table.transpose(1, 2), size=7, mode="linear").transpose(1, 2)
    assert torch.equal(interpolated.positions_1ND, expected)
    cropped = vit.tower("audio", ViTSettings(frames=50, mel_bins=33, position="crop"), segments=1)
    grid = table[0, 1:].unflatten(0, (4, 4))
    # Rows of the picture's grid are frequency, columns time: token (t, f) takes grid (1 + f, 1 + t).
    assert torch.equal(cropped.positions_1ND[0, 1:].unflatten(0, (3, 2)), grid[1:3, 1:4].transpose(0, 1))
    assert torch.equal(cropped.positions_1ND[0, 0], table[0, 0])


def test_positions_of_sound_frequency_first_are_the_crop_laid_across_the_tokens() -> None:
    vit = build(ViTSettings(weights="random"), name="small", preset=SMALL["vit"])
    settings = {"frames": 50, "mel_bins": 33}
    cropped = vit.tower("audio", ViTSettings(**settings, position="crop"), segments=1).positions_1ND
    across = vit.tower("audio", ViTSettings(**settings, position="crop_frequency_first"), segments=1).positions_1ND
    assert torch.equal(across[:, :1], cropped[:, :1])
    by_time = cropped[0, 1:].unflatten(0, (3, 2))
    assert torch.equal(across[0, 1:], by_time.transpose(0, 1).flatten(0, 1))
    assert not torch.equal(across, cropped)


def test_a_picture_grid_that_is_too_small_is_stretched() -> None:
    vit = build(ViTSettings(weights="random"), name="small", preset=SMALL["vit"])
    tower = vit.tower("audio", ViTSettings(position="crop"), segments=1)
    assert tower.layout.stages[0].grid == (6, 8)
    table = vit.model.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    stretched = torch.nn.functional.interpolate(table, size=(8, 6), mode="bilinear")
    found = tower.positions_1ND[0, 1:].unflatten(0, (6, 8))
    torch.testing.assert_close(found, stretched[0].permute(2, 1, 0), rtol=1e-5, atol=1e-6)


def test_maps_are_tapped_at_quarters_of_the_depth_each_block_once() -> None:
    def taps(depth: int) -> tuple[int, ...]:
        arguments = {**SMALL["vit"]["arguments"], "depth": depth}
        made = build(ViTSettings(weights="random"), name="small", preset={**SMALL["vit"], "arguments": arguments})
        return made.tower("visual", ViTSettings(), segments=1).layout.taps

    assert taps(12) == (2, 5, 8, 11)
    assert taps(3) == (0, 1, 2)
    assert taps(1) == (0,)


def test_frozen_means_evaluation_mode_and_no_gradient(backbone: ViT) -> None:
    tower = backbone.tower("visual", ViTSettings(), segments=1).train()
    assert not tower.training
    assert not backbone.model.blocks[0].training
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_digest_sees_every_weight(backbone: ViT) -> None:
    before = digest(backbone)
    assert digest(backbone) == before
    backbone.model.blocks[-1].inner.mlp.fc2.bias.data[0] += 1e-3
    assert digest(backbone) != before


def test_presets_say_what_timm_builds() -> None:
    for name, preset in VIT_PRESETS.items():
        with WithoutValues():
            model = build(ViTSettings(), name=name, preset=preset).model
        assert model.embed_dim == preset["width"], name
        assert len(model.blocks) == preset["depth"], name
        assert model.blocks[0].inner.attn.num_heads == preset["heads"], name
        assert model.patch_embed.patch_size == (preset["patch"], preset["patch"]), name
        assert model.patch_embed.img_size == (preset["size"], preset["size"]), name


def test_weights_file_loads_strictly_and_resizes_positions(tmp_path: Path) -> None:
    arguments = SMALL["vit"]["arguments"]
    trained = timm.create_model("vit_tiny_patch16_224", num_classes=9, **arguments)
    path = tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), path)
    made = build(ViTSettings(weights=str(path)), name="small", preset=SMALL["vit"])
    assert torch.equal(made.model.blocks[2].inner.attn.qkv.weight, trained.blocks[2].attn.qkv.weight)
    assert made.notices == ()
    larger = {**SMALL["vit"], "arguments": {**arguments, "img_size": 96}}
    stretched = build(ViTSettings(weights=str(path)), name="large", preset=larger)
    assert stretched.model.pos_embed.shape[1] == 37
    (notice,) = stretched.notices
    assert "positions of 4 x 4 patches, stretched to 6 x 6 here; as they are with size=64." in notice
    whole = build(ViTSettings(weights=str(path), size=64), name="large", preset=larger)
    assert torch.equal(whole.model.pos_embed, trained.pos_embed)
    assert whole.notices == ()


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (
            225,
            "225 positions, 0 before 15 x 15 patches, and this model takes 1 before 4 x 4 patches: name the model",
        ),
        (198, "198 positions, 2 before 14 x 14 patches, and"),
        (213, "213 positions, those of no square grid, and this model takes 1"),
    ],
)
def test_positions_that_fit_no_grid_are_refused(tmp_path: Path, count: int, says: str) -> None:
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL["vit"]["arguments"]).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(state | {"pos_embed": torch.zeros(1, count, state["pos_embed"].shape[2])}, path)
    with pytest.raises(AVCoreError, match=re.escape(says)):
        build(ViTSettings(weights=str(path)), name="small", preset=SMALL["vit"])


def test_positions_of_a_dinov2_with_registers_load_as_published(tmp_path: Path) -> None:
    """Its class token has a position, which timm adds to the token: one more than timm's model has."""
    name, preset = "vit_small_patch14_reg4_dinov2", {"arguments": {"img_size": 56, "depth": 1}}
    with torch.device("cpu"):
        state = timm.create_model(name, num_classes=0, **preset["arguments"]).state_dict()
    patches = state.pop("pos_embed")
    positions = torch.cat([torch.zeros_like(patches[:, :1]), patches], 1)
    published = {key: value for key, value in state.items() if key != "reg_token"}
    published |= {"pos_embed": positions, "register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 384)}
    torch.save(published, tmp_path / "dinov2.pth")
    made = build(ViTSettings(weights=str(tmp_path / "dinov2.pth")), name=name, preset=preset)
    assert torch.equal(made.model.pos_embed, patches)
    assert made.notices == ()


def test_a_size_that_leaves_pixels_over_is_refused() -> None:
    with (
        pytest.raises(AVCoreError, match=r"size=225 is no multiple of the 16 px .* write 224 or 240\."),
        WithoutValues(),
    ):
        build(ViTSettings(size=225), name="small", preset=SMALL["vit"])


def test_a_lightning_checkpoint_loads(tmp_path: Path) -> None:
    arguments = SMALL["vit"]["arguments"]
    trained = timm.create_model("vit_tiny_patch16_224", num_classes=9, **arguments).state_dict()
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"model.{key}": value for key, value in trained.items()}, "epoch": 3}, path)
    made = build(ViTSettings(weights=str(path)), name="small", preset=SMALL["vit"])
    assert torch.equal(made.model.norm.weight, trained["norm.weight"])
    torch.save(
        {"state_dict": {f"net.{key}": value for key, value in trained.items()} | {"loss.a": torch.ones(1)}}, path
    )
    with pytest.raises(AVCoreError, match=r"the names stand behind 'net\.' in it, beside others"):
        build(ViTSettings(weights=str(path)), name="small", preset=SMALL["vit"])


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    trained = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL["vit"]["arguments"]).state_dict()
    trained["blocks.0.norm1.wieght"] = trained.pop("blocks.0.norm1.weight")
    path = tmp_path / "weights.safetensors"
    save_file(trained, path)
    with pytest.raises(AVCoreError, match=r"missing blocks\.0\.norm1\.weight; unexpected blocks\.0\.norm1\.wieght"):
        build(ViTSettings(weights=str(path)), name="small", preset=SMALL["vit"])
    with pytest.raises(AVCoreError, match="does not exist"):
        build(ViTSettings(weights=str(tmp_path / "none.safetensors")), name="small", preset=SMALL["vit"])
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(AVCoreError, match="is no checkpoint"):
        build(ViTSettings(weights=str(tmp_path / "text.pth")), name="small", preset=SMALL["vit"])


@pytest.mark.parametrize(
    ("name", "pool", "prefix"),
    [("clip", "class", 1), ("distilled", "class", 2), ("attention-pooled", "attention", 0), ("mean", "mean", 4)],
)
def test_the_layout_says_how_a_model_pools_and_what_precedes_its_patches(name: str, pool: str, prefix: int) -> None:
    with WithoutValues():
        tower = build(ViTSettings(), name=name, preset=SMALL[name]).tower("visual", ViTSettings(), segments=1)
    assert (tower.layout.pool, tower.layout.stages[0].prefix) == (pool, prefix)


def test_sound_has_the_prefix_tokens_of_the_picture(backbone: ViT) -> None:
    model = backbone.model
    side = model.patch_embed.patch_size[0]
    tower = backbone.tower("audio", ViTSettings(frames=3 * side, mel_bins=2 * side), segments=1)
    x = tower.embed(torch.randn(2, 3 * side, 2 * side))
    assert x.shape == (2, tower.layout.stages[0].tokens, 48)
    names = ("cls_token", "dist_token", "reg_token")
    tokens = [token[0] for name in names if (token := getattr(model, name, None)) is not None]
    assert sum(map(len, tokens)) == tower.layout.stages[0].prefix
    if tokens:
        heads = torch.cat(tokens)
        if not model.no_embed_class:
            heads = heads + tower.positions_1ND[0, : len(heads)]
        assert torch.equal(x[0, : len(heads)], heads)
    assert tower.pool(tower.norm(x)).shape == (2, 48)


def test_a_dinov2_takes_pictures_of_518_px_and_sound() -> None:
    with WithoutValues():
        made = build(ViTSettings(), name="vit_small_patch14_dinov2", preset=None)
        picture, sound = (made.tower(stream, ViTSettings(), segments=2) for stream in ("visual", "audio"))
        assert picture.geometry.size == 518
        assert picture.layout.stages[0].grid == (37, 37)
        assert sound.layout.stages[0].grid == (7, 9)
        assert sound.embed(torch.zeros(2, 102, 128)).shape == (2, 64, 384)


def test_random_weights_are_announced() -> None:
    assert build(ViTSettings(weights="random"), name="small", preset=SMALL["vit"]).notices == (
        "'small' runs on random weights.",
    )


def test_missing_pretrained_weights_say_which_setting_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(AVCoreError, match=r"--set visual\.weights=PATH"):
        build(ViTSettings(), name="vit_tiny_patch16_224", preset=None)


def test_unknown_models_are_refused_by_name() -> None:
    with pytest.raises(AVCoreError, match="Did you mean 'vit_tiny_patch16_224'"):
        build(ViTSettings(weights="random"), name="vit_tiny_patch16_244", preset=None)
    with pytest.raises(AVCoreError, match="does not know"):
        build(ViTSettings(weights="random"), name="vit_relpos_small_patch16_224", preset=None)
    with pytest.raises(AVCoreError, match="embeds pictures by a HybridEmbed"):
        build(ViTSettings(weights="random"), name="vit_tiny_r_s16_p8_224", preset=None)
    with WithoutValues(), pytest.raises(AVCoreError, match=r"does not know \(ParallelScalingBlock\)"):
        build(ViTSettings(), name="vit_base_patch16_xp_224", preset=None)
