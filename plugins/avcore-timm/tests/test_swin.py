"""Swin Transformers of both versions equal timm's; rows stand in every window; tables follow the weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import unwrapped
from safetensors.torch import save_file
from torch import Tensor

from avcore.backbones import Tower, digest
from avcore.errors import AVCoreError
from avcore.testing.golden import as_stored, assert_close, load_case
from avcore_timm.settings import SwinSettings
from avcore_timm.swin import Swin, build_v2

Make = Callable[..., Swin]
EXPLICIT = SwinSettings(weights="random", attention="explicit")
SHIFTED, SINGLE = 1, 5  # blocks: shifted windows of the first stage; one window


def forward(tower: Tower, image: Tensor) -> Tensor:
    """Normed tokens of the plain backbone."""
    x, blocks = tower.enter(tower.embed(image)), tower.layout.blocks
    for index in range(tower.layout.depth):
        if index and blocks[index].stage != blocks[index - 1].stage:
            x = tower.merge(x, blocks[index].stage)
        x = x + tower.block(index).attention(x)[0]
        x = x + tower.block(index).mlp(x)
    return tower.norm(x)


def tokens(tower: Tower, index: int, count: int = 3) -> Tensor:
    """Noise in the shape of what a block takes."""
    block = tower.layout.blocks[index]
    return torch.randn(count, block.tokens, block.width, dtype=torch.float64)


def rows(tower: Tower, index: int, *shape: int) -> Tensor:
    return torch.randn(*shape, tower.layout.blocks[index].width, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------- equality


def test_equals_timm_bit_for_bit_by_its_order_of_operations(family: str, small_swin: Make) -> None:
    swin = small_swin(family, EXPLICIT)
    tower = swin.tower("visual", EXPLICIT, segments=2)
    image = torch.randn(4, 3, 64, 64)
    plain: Any = unwrapped(swin.model)
    reference = plain.forward_features(image)
    found = forward(tower, image)
    assert torch.equal(found, reference.flatten(1, 2))
    assert torch.equal(tower.pool(found), plain.forward_head(reference))


def test_equals_timm_to_1e_5_with_fused_attention(family: str, small_swin: Make) -> None:
    swin = small_swin(family)
    image = torch.randn(4, 3, 64, 64)
    plain: Any = unwrapped(swin.model)
    reference = plain.forward_features(image).flatten(1, 2)
    found = forward(swin.tower("visual", SwinSettings(), segments=2), image)
    torch.testing.assert_close(found, reference, rtol=0, atol=1e-5 * reference.abs().max().item())


def test_other_sizes_of_pictures(family: str, small_swin: Make) -> None:
    swin = small_swin(family, SwinSettings(weights="random", size=128, attention="explicit"))
    tower = swin.tower("visual", EXPLICIT, segments=1)
    image = torch.randn(2, 3, 128, 128)
    assert tower.geometry.size == 128
    assert tower.layout.stages[0].grid == (32, 32)
    plain: Any = unwrapped(swin.model)
    assert torch.equal(forward(tower, image), plain.forward_features(image).flatten(1, 2))


@pytest.mark.parametrize("windowed", [True, False])
@pytest.mark.parametrize("index", [0, SHIFTED, SINGLE])
def test_both_orders_of_operations_agree_with_everything_beside(
    family: str, small_swin: Make, index: int, windowed: bool
) -> None:
    tower = small_swin(family).double().tower("visual", SwinSettings(), segments=1)
    explicit = small_swin(family, EXPLICIT).double().tower("visual", EXPLICIT, segments=1)
    beside: dict[str, Any] = {
        "rows": rows(tower, index, 3, 4),
        "carry": rows(tower, index, 3, 2),
        "kv": (rows(tower, index, 2), rows(tower, index, 2)),
        "row_bias_R": torch.randn(6, dtype=torch.float64),
        "windowed": windowed,
    }
    x = tokens(tower, index)
    for found, expected in zip(
        tower.block(index).attention(x, **beside), explicit.block(index).attention(x, **beside), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.golden
@pytest.mark.parametrize("golden", ["c3_swinv2"])
def test_golden(golden: str, tmp_path: Path) -> None:
    case, about = load_case(golden)
    old = {key.removeprefix("weights/"): value for key, value in case.items() if key.startswith("weights/")}
    config = about["config"]
    keys = ("img_size", "window_size", "embed_dim", "depths", "num_heads")
    arguments = {key: tuple(value) if isinstance(value := config[key], list) else value for key in keys}
    save_file(old, tmp_path / "old.safetensors")
    swin = build_v2(
        SwinSettings(weights=str(tmp_path / "old.safetensors")),
        name="golden",
        preset={"model": "swinv2_large_window12_192", "arguments": arguments},
    )
    tower = swin.tower("visual", SwinSettings(), segments=1).double()
    blocks = tower.layout.blocks
    x = tower.embed(case["in/img"].double())
    made = {"embed": x}
    for index, block in enumerate(blocks):
        if index and block.stage != blocks[index - 1].stage:
            x = tower.merge(x, block.stage)
        name = f"stage{block.stage}_block{sum(other.stage == block.stage for other in blocks[:index])}"
        x = x + made.setdefault(f"{name}_attn_increment", tower.block(index).attention(x)[0])
        x = x + made.setdefault(f"{name}_mlp_increment", tower.block(index).mlp(x))
        made |= {name: x, f"stage{block.stage}_end": x}
    made["norm"] = tower.norm(x)
    made["logits"] = tower.pool(made["norm"]) @ old["head.weight"].double().T + old["head.bias"].double()
    compared = [key.removeprefix("out/") for key in case if key.startswith("out/")]
    assert {"embed", "norm", "logits", *(f"stage{stage}_end" for stage in range(len(config["depths"])))} <= set(
        compared
    )
    for name in compared:
        reference = case[f"out/{name}"]
        own = as_stored(made[name], reference, about["outputs"])
        moves = about["float32_vs_float64"][f"out/{name}"]["rel_to_max"]
        assert_close(own, reference, max(5e-5, 2 * moves), floor=0)


def test_a_golden_case_of_other_sizes_is_compared_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case is written by timm itself: what is tested here is that its sizes are read."""
    config = {"img_size": 64, "window_size": 4, "embed_dim": 8, "depths": [1, 3], "num_heads": [1, 2]}
    preset = {"model": "swinv2_large_window12_192", "arguments": config}
    swin = build_v2(SwinSettings(weights="random"), name="other", preset=preset)
    model: Any = unwrapped(swin.model)
    image = torch.randn(2, 3, 64, 64)
    head = torch.nn.Linear(16, 5)
    embedded = model.patch_embed(image)
    first = model.layers[0](embedded)
    second = model.layers[1](first)
    out = {
        "embed": embedded.flatten(1, 2)[:, ::11],
        "stage0_end": first.flatten(1, 2)[:1, ::3],
        "stage1_end": second.flatten(1, 2),
        "norm": model.norm(second).flatten(1, 2),
        "logits": head(model.norm(second).mean((1, 2))),
    }
    tensors = {f"weights/{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"weights/head.{key}": value for key, value in head.state_dict().items()}
    tensors |= {"in/img": image, **{f"out/{key}": value for key, value in out.items()}}
    about = {
        "config": config,
        "outputs": "embed: every 11th token; stage0_end: every 3rd",
        "float32_vs_float64": {f"out/{key}": {"rel_to_max": 1e-5} for key in out},
    }
    (tmp_path / "c3_other.json").write_text(json.dumps(about))
    save_file({key: value.detach().clone() for key, value in tensors.items()}, tmp_path / "c3_other.safetensors")
    monkeypatch.setenv("AVCORE_GOLDEN", str(tmp_path))
    test_golden("c3_other", tmp_path)


# -------------------------------------------------------------------------------------------------- rows and windows


def test_keys_and_values_of_rows_are_rows(family: str, small_swin: Make) -> None:
    tower = small_swin(family).tower("visual", SwinSettings(), segments=1).double()
    for index in (SHIFTED, SINGLE):
        block, x, given = tower.block(index), tokens(tower, index), rows(tower, index, 4)
        # Version 1 has its norm before the attention, version 2 behind.
        kv = block.keys_values(block.inner.norm1(given) if family == "swin" else given)
        assert kv[0].shape == kv[1].shape == given.shape
        found = block.attention(x, kv=kv)[0]
        torch.testing.assert_close(found, block.attention(x, rows=given)[0], rtol=0, atol=1e-12)
        each = block.attention(x, rows=given.expand(3, -1, -1))[0]
        torch.testing.assert_close(each, found, rtol=0, atol=1e-12)


def test_rows_that_are_hidden_change_nothing_and_the_neutral_bias_is_the_default(family: str, small_swin: Make) -> None:
    tower = small_swin(family).tower("visual", SwinSettings(), segments=1).double()
    for index in (SHIFTED, SINGLE):
        block, x, given = tower.block(index), tokens(tower, index), rows(tower, index, 4)
        assert block.neutral_row_bias == (0.0 if family == "swin" else 8.0)
        hidden = torch.full((4,), -1e9, dtype=torch.float64)
        neutral = torch.full((4,), block.neutral_row_bias, dtype=torch.float64)
        for windowed in (True, False):
            plain = block.attention(x, windowed=windowed)[0]
            seen = block.attention(x, rows=given, windowed=windowed)[0]
            assert not torch.allclose(seen, plain)
            for bias, expected in ((hidden, plain), (neutral, seen)):
                found = block.attention(x, rows=given, row_bias_R=bias, windowed=windowed)[0]
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_without_windows_every_token_sees_all_of_any_sequence(family: str, small_swin: Make) -> None:
    tower = small_swin(family).tower("visual", SwinSettings(), segments=1).double()
    block, x = tower.block(SHIFTED), rows(tower, SHIFTED, 5, 7)
    out, _ = block.attention(x, windowed=False)
    order = torch.randperm(7)
    torch.testing.assert_close(block.attention(x[:, order], windowed=False)[0], out[:, order], rtol=0, atol=1e-12)
    for token in range(7):
        others = torch.cat([x[:, :token], x[:, token + 1 :]], dim=1)
        alone = block.attention(x[:, token : token + 1], rows=others, windowed=False)[0]
        torch.testing.assert_close(alone, out[:, token : token + 1], rtol=0, atol=1e-12)
    with pytest.raises(AVCoreError, match="7 tokens do not lie on this block's grid"):
        block.attention(x)


def test_windows_and_back(family: str, small_swin: Make) -> None:
    tower = small_swin(family).tower("visual", SwinSettings(), segments=1)
    x = tokens(tower, SHIFTED)
    windows = tower.block(SHIFTED).windows(x)
    assert windows.shape == (3 * 16, 16, 16)
    assert torch.equal(tower.block(SHIFTED).unwindows(windows), x)


def test_projection_adds_to_every_frozen_map(family: str, small_swin: Make) -> None:
    swin = small_swin(family).double()
    tower = swin.tower("visual", SwinSettings(), segments=1)
    block, x = tower.block(SHIFTED), tokens(tower, SHIFTED)
    width = x.shape[-1]
    beside = {"rows": rows(tower, SHIFTED, 3), "carry": rows(tower, SHIFTED, 3, 2)}
    layers = {"qkv": block.inner.attn.qkv, "proj": block.inner.attn.proj}
    layers |= {"fc1": block.inner.mlp.fc1, "fc2": block.inner.mlp.fc2}
    extra = {name: torch.randn_like(layer.weight) * 0.3 for name, layer in layers.items()}

    def project(name: str, x: Tensor) -> Tensor:
        return x @ extra[name].T

    made = [*block.attention(x, **beside, project=project), block.mlp(x, project=project)]
    kv = block.keys_values(x, project=project)
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight += extra[name]
    expected = [*block.attention(x, **beside), block.mlp(x)]
    for found, wanted in zip([*made, *kv], [*expected, *block.keys_values(x)], strict=True):
        assert found.shape[-1] == width
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_rows_are_lifted_by_the_merging_layers_between(family: str, small_swin: Make) -> None:
    tower = small_swin(family).tower("visual", SwinSettings(), segments=1).double()
    given = rows(tower, 0, 3, 5)
    # A row stands for all four tokens that become one.
    once = torch.stack([tower.merge(given[:, [r]].expand(-1, 256, -1), 1)[:, 0] for r in range(5)], dim=1)
    twice = torch.stack([tower.merge(once[:, [r]].expand(-1, 64, -1), 2)[:, 0] for r in range(5)], dim=1)
    torch.testing.assert_close(tower.block(2).lift(given), once, rtol=0, atol=1e-12)
    torch.testing.assert_close(tower.block(4).lift(given), twice, rtol=0, atol=1e-12)
    torch.testing.assert_close(tower.block(4).lift(once[0]), twice[0], rtol=0, atol=1e-12)
    assert tower.block(1).lift(given) is given
    with pytest.raises(AVCoreError, match="width 64 cannot be lifted to 16"):
        tower.block(0).lift(twice)


# ---------------------------------------------------------------------------------------------------- tables, frozen


def test_tables_follow_the_weights(family: str, small_swin: Make) -> None:
    swin = small_swin(family)
    before = digest(swin)
    assert all(torch.equal(block.tables.bias, block.make_tables().bias) for block in swin.blocks)
    assert not any(block.tables.bias.requires_grad for block in swin.blocks)
    assert not any("tables" in key for key in swin.state_dict())
    assert digest(swin) == before
    swin.to(torch.bfloat16)
    for block in swin.blocks:
        assert block.tables.bias.dtype == torch.bfloat16
        assert torch.equal(block.tables.bias, block.make_tables().bias)
    # Computed in float32 from the cast weights, and only then cast.
    exact = small_swin(family)
    exact.load_state_dict({key: value.float() for key, value in swin.state_dict().items()})
    for cast, block in zip(swin.blocks, exact.blocks, strict=True):
        assert torch.equal(cast.tables.bias, block.tables.bias.bfloat16())


def test_frozen_means_evaluation_mode_and_no_gradient(family: str, small_swin: Make) -> None:
    tower = small_swin(family, drop_path_rate=0.5).tower("visual", SwinSettings(), segments=1).train()
    image = torch.randn(2, 3, 64, 64)
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert torch.equal(forward(tower, image), forward(tower, image))
