"""Checkpoints of the reference code: every official name has its place, in each of its modes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from avcore.cli.convert import convert as command
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.runs.adapter import load_adapter
from avcore.states import trainable_state
from avcore_stgcma.convert import convert

Make = Callable[..., AVModel]

WIDTH, HIDDEN, DEPTH, T = 48, 3, 3, 2


def official(mode: str) -> dict[str, Tensor]:
    """A state dict of the reference: mode ``fusion``, ``multimodal``, ``videoonly`` or ``audioonly``."""
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (WIDTH,),
        "positional_embedding": (17, WIDTH),
        "positional_embedding_audio": (49, WIDTH),
        "temporal_embedding": (1, T, WIDTH),
        "temporal_embedding_audio": (1, T, WIDTH),
        "conv1.weight": (WIDTH, 3, 16, 16),
        "conv1_audio.weight": (WIDTH, 1, 16, 16),
    }
    norms = ["ln_pre", "ln_post"]
    layers: dict[str, tuple[int, ...]] = {}
    for index in range(DEPTH):
        block = f"transformer.resblocks.{index}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        shapes |= {f"{block}.gate_v": (1,), f"{block}.gate_a": (1,)}
        shapes |= {f"{block}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{block}.attn.in_proj_bias": (3 * WIDTH,)}
        layers |= {f"{block}.attn.out_proj": (WIDTH, WIDTH)}
        layers |= {f"{block}.mlp.c_fc": (4 * WIDTH, WIDTH), f"{block}.mlp.c_proj": (WIDTH, 4 * WIDTH)}
        ends = {"videoonly": ("",), "audioonly": ("_Audio",)}.get(mode, ("", "_Audio"))
        for bottleneck in (f"{block}.{kind}_Adapter{end}" for kind in ("T", "S", "MLP") for end in ends):
            layers |= {f"{bottleneck}.D_fc1": (HIDDEN, WIDTH), f"{bottleneck}.D_fc2": (WIDTH, HIDDEN)}
    if mode.endswith("only"):
        norms.append("mlp_head.0")
        layers["mlp_head.1"] = (29, WIDTH)
    else:
        layers |= {"mlp_head.0": (512, 2 * WIDTH), "mlp_head.2": (29, 512)}
    for name in norms:
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    torch.manual_seed(0)
    return {key: torch.randn(shape) for key, shape in shapes.items()}


WITHOUT_EXCHANGE = {"prompts": "stgcma+stgcma.bottlenecks", "fusions": "none"}
MODES = {
    "fusion": {},
    "multimodal": WITHOUT_EXCHANGE,
    "videoonly": {**WITHOUT_EXCHANGE, "streams": "visual"},
    "audioonly": {**WITHOUT_EXCHANGE, "streams": "audio"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_mode_of_the_reference_fills_the_whole_model(make: Make, mode: str, prefix: str) -> None:
    model = make(**MODES[mode])
    found = convert({f"{prefix}{key}": tensor for key, tensor in official(mode).items()}, model)
    expected = dict(trainable_state(model))
    trunk = next(iter(model.towers))
    frozen = model.towers[trunk].weights()  # type: ignore[operator]
    expected |= {f"{trunk}.{key}": tensor for key, tensor in frozen.items() if not key.startswith("norm.")}
    if "audio" in model.towers:
        expected |= {f"audio.{key}": tensor for key, tensor in model.towers["audio"].named_buffers(recurse=False)}
    assert found.keys() == expected.keys()
    assert all(found[key].shape == expected[key].shape for key in expected)


def test_names_that_are_easily_confused_go_where_they_belong(make: Make) -> None:
    model, state = make(), official("fusion")
    found = convert(state, model)
    block = "transformer.resblocks.2"
    for key, ours in {
        f"{block}.gate_v": "stgcma.exchange.layers.2.gate_visual",
        f"{block}.MLP_Adapter_Audio.D_fc2.weight": "stgcma.exchange.layers.2.mlp_audio.up.weight",
        f"{block}.S_Adapter.D_fc1.bias": "stgcma.exchange.layers.2.spatial_visual.down.bias",
        f"{block}.T_Adapter_Audio.D_fc1.weight": "stgcma.temporal.audio.layers.2.bottleneck.down.weight",
        f"{block}.attn.in_proj_bias": "visual.blocks.2.attn.qkv.bias",
        "ln_post.bias": "stgcma.base.visual.backbone.visual.norm.bias",
        "mlp_head.2.bias": "head.output.bias",
        "conv1_audio.weight": "audio.kernel",
    }.items():
        assert torch.equal(found[ours], state[key]), key
    assert torch.equal(found["segment_embedding.audio.embedding"], state["temporal_embedding_audio"][0])
    assert torch.equal(found["audio.positions_1ND"][0], state["positional_embedding_audio"])


def test_names_that_are_not_known_are_returned_as_such(make: Make) -> None:
    strange = {"my_tokens": torch.zeros(1), "transformer.resblocks.1.t_bottleneck_in.weight": torch.zeros(1)}
    found = convert({**official("fusion"), **strange}, make())
    assert {key for key in found if key.startswith("unknown.")} == {f"unknown.{key}" for key in strange}


def trained_from_clip() -> dict[str, Tensor]:
    """A checkpoint as the reference makes it: kernel and positions of sound follow from those of pictures."""
    state = official("fusion")
    state["conv1_audio.weight"] = state["conv1.weight"].sum(1, keepdim=True)
    grid = state["positional_embedding"][1:].T.reshape(1, WIDTH, 4, 4)
    # 8 x 6 positions (frequency x time), laid out frequency first.
    stretched = torch.nn.functional.interpolate(grid, size=(8, 6), mode="bilinear")[0]
    state["positional_embedding_audio"] = torch.cat([state["positional_embedding"][:1], stretched.flatten(1).T])
    return {f"module.{key}": tensor for key, tensor in state.items()}


@pytest.fixture
def run_convert(registry_with: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``avcore convert --from stgcma`` on the narrow CLIP, as far as its settings go."""
    registry = registry_with()
    monkeypatch.setattr("avcore.runs.convert.load_registry", lambda: registry)

    def run(file: Path, out: Path, *sets: str) -> Result:
        settings = [f"--set={each}" for each in ("data.segments=2", "data.clip_seconds=2", *sets)]
        arguments = ["--from=stgcma", str(file), "--task=ave", f"--out={out}", "--visual=clip", *settings]
        return CliRunner().invoke(command, arguments)

    return run


def test_a_checkpoint_becomes_an_adapter_that_loads(
    run_convert: Callable[..., Result], make: Make, tmp_path: Path
) -> None:
    state, file, out = trained_from_clip(), tmp_path / "best_audio_model.pth", tmp_path / "adapter"
    torch.save(state, file)
    result = run_convert(file, out, "audio.position=crop_frequency_first")
    assert result.exit_code == 0, result.output
    model = make(f"visual.weights={out / 'backbone.safetensors'}", "audio.position=crop_frequency_first")
    load_adapter(out, model)
    assert torch.equal(
        trainable_state(model)["stgcma.exchange.layers.1.mlp_visual.up.weight"],
        state["module.transformer.resblocks.1.MLP_Adapter.D_fc2.weight"],
    )
    torch.testing.assert_close(
        model.get_buffer("towers.audio.positions_1ND")[0], state["module.positional_embedding_audio"]
    )


def test_a_checkpoint_of_one_branch_becomes_an_adapter(run_convert: Callable[..., Result], tmp_path: Path) -> None:
    torch.save(official("videoonly"), tmp_path / "best.pth")
    parts = ("streams=visual", "prompts=stgcma+stgcma.bottlenecks", "fusions=none")
    result = run_convert(tmp_path / "best.pth", tmp_path / "adapter", *parts)
    assert result.exit_code == 0, result.output


def test_positions_that_lie_otherwise_are_refused_and_named(run_convert: Callable[..., Result], tmp_path: Path) -> None:
    torch.save(trained_from_clip(), tmp_path / "best.pth")
    result = run_convert(tmp_path / "best.pth", tmp_path / "adapter")
    assert isinstance(result.exception, AVCoreError)
    assert "different frozen weights: audio.positions_1ND" in result.output
    assert not (tmp_path / "adapter").exists()


def test_unknown_and_missing_keys_are_listed_and_refused(run_convert: Callable[..., Result], tmp_path: Path) -> None:
    state = trained_from_clip()
    state["module.my_tokens"] = state.pop("module.transformer.resblocks.0.gate_v")
    torch.save(state, tmp_path / "best.pth")
    result = run_convert(tmp_path / "best.pth", tmp_path / "adapter", "audio.position=crop_frequency_first")
    assert isinstance(result.exception, AVCoreError)
    assert "unknown: my_tokens" in result.output
    assert "missing: stgcma.exchange.layers.0.gate_visual" in result.output
    assert not (tmp_path / "adapter").exists()
