"""The whole model against the reference's outputs and gradients, through its own checkpoint names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from avcore.model import AVModel
from avcore.states import load_trainable_state, parameter_groups, trainable_state
from avcore.tasks import Batch
from avcore.testing.golden import as_stored, assert_close, load_case
from avcore_stgcma.convert import convert
from avcore_timm.settings import ViTSettings
from avcore_timm.vit import SoundTower, build

CLIP = "vit_base_patch16_clip_quickgelu_224"


def model_of(config: dict[str, Any], make: Callable[..., AVModel]) -> AVModel:
    clip = {
        "img_size": config["input_resolution"],
        "patch_size": config["patch"],
        "embed_dim": config["width"],
        "depth": config["layers"],
        "num_heads": config["heads"],
    }
    frames, mel_bins = config["audio_image"]
    return make(
        f"audio.frames={frames}",
        f"audio.mel_bins={mel_bins}",
        f"data.segments={config['T']}",
        f"data.clip_seconds={config['T']}",
        f"parts.stgcma.temporal.ratio={config['adapter_ratio']}",
        f"parts.stgcma.exchange.ratio={config['adapter_ratio']}",
        f"head.hidden={config['head_hidden']}",
        f"task_options.classes={[f'class {index}' for index in range(config['classes'] - 1)]}",
        clip=clip,
    ).double()


def load(model: AVModel, state: dict[str, Tensor]) -> None:
    """Every tensor of a checkpoint, trained or frozen, each in its place."""
    made = {key: tensor.double() for key, tensor in convert(state, model).items()}
    load_trainable_state(model, {key: made.pop(key) for key in trainable_state(model)})
    frozen: dict[str, Tensor] = model.towers["visual"].weights()  # type: ignore[operator]
    places = {f"visual.{name}": tensor for name, tensor in frozen.items()}
    places |= {f"audio.{name}": tensor for name, tensor in model.towers["audio"].named_buffers(recurse=False)}
    del places["visual.norm.weight"], places["visual.norm.bias"]
    assert made.keys() == places.keys()
    for key, tensor in made.items():
        assert tensor.shape == places[key].shape, key
        places[key].data.copy_(tensor)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["c6_stgcma_clip_ave"])
def test_the_whole_model_equals_the_reference(
    name: str, make: Callable[..., AVModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, case = load_case(name)
    config = case["config"]
    model = model_of(config, make)
    weights = {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}
    load(model, weights)
    counts = case["parameter_counts"]
    trained = {name: parameter.numel() for group in parameter_groups(model).values() for name, parameter in group}
    assert sum(trained.values()) == sum(counts.values())
    assert sum(size for name, size in trained.items() if "gate" in name) == counts["gates"]
    assert (
        model.get_submodule("part_modules.stgcma/exchange.layers.0.mlp_audio.down").out_features
        == config["adapter_hidden"]
    )

    seen: dict[str, Tensor] = {}

    def watched(index: int) -> Callable[..., None]:
        def look(step: Any, given: Any, made: Any) -> None:
            if index == 0:
                seen.update({f"{stream}_embed": tokens for stream, tokens in given[0].items()})
            seen.update({f"{stream}_block{index}": tokens for stream, tokens in made[0].items()})

        return look

    for index, step in enumerate(model.steps):
        step.register_forward_hook(watched(index))
    images = {
        "visual": tensors["in/video"].double().transpose(1, 2).flatten(0, 1),
        "audio": tensors["in/audio"].double().flatten(0, 1),
    }
    monkeypatch.setattr(model, "front_ends", lambda batch: images)
    nothing = Batch(
        frames=None,
        waveform=None,
        targets={},
        names=[],
        samples=torch.arange(config["B"]),
        valid=torch.ones(config["B"], dtype=torch.bool),
    )
    output = model(nothing)

    features = output.features
    seen["head_input"] = torch.cat([features.audio.pooled, features.visual.pooled], -1).flatten(0, 1)
    seen["logits"] = output["logits"].flatten(0, 1)
    outputs = [key.removeprefix("out/") for key in tensors if key.startswith("out/") and "/init_" not in key]
    assert {"logits", "head_input", "visual_block0", "audio_block0"} <= set(outputs)
    for key in outputs:
        reference = tensors[f"out/{key}"]
        tolerance = max(5e-5, 2 * case["float32_vs_float64"][f"out/{key}"]["rel_to_max"])
        assert_close(as_stored(seen[key], reference, case["outputs"]), reference, tolerance, floor=0)

    (seen["logits"] * tensors["in/cotangent_logits"]).sum().backward()
    own = dict(pair for group in parameter_groups(model).values() for pair in group)
    gradients = {key.removeprefix("grad/"): value for key, value in tensors.items() if key.startswith("grad/")}
    assert gradients
    for key, reference in convert(gradients, model).items():
        found = own[key].grad
        assert found is not None, key
        assert_close(found, reference, 1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["c6_stgcma_clip_ave"])
def test_positions_and_kernel_of_sound_are_made_from_clip_as_in_the_reference(name: str) -> None:
    tensors, case = load_case(name)
    config = case["config"]
    table, kernel = tensors["in/clip_position_table"], tensors["weights/conv1.weight"]
    side = config["clip_grid_of_in_clip_position_table"]
    arguments = {
        "img_size": side * config["patch"],
        "patch_size": config["patch"],
        "embed_dim": table.shape[1],
        "depth": 1,
        "num_heads": 1,
    }
    vit = build(ViTSettings(weights="random"), name="clip", preset={"model": CLIP, "arguments": arguments})
    vit.model.pos_embed.data.copy_(table[None])
    vit.model.patch_embed.proj.weight.data.copy_(kernel)
    frames, mel_bins = config["audio_image"]
    settings = ViTSettings(frames=frames, mel_bins=mel_bins, patch="one_channel", position="crop_frequency_first")
    tower = vit.tower("audio", settings, segments=1)
    assert isinstance(tower, SoundTower)
    stored = config["audio_grid_as_stored"]
    assert tower.layout.stages[0].grid == (stored["t"], stored["f"])
    assert_close(tower.positions_1ND[0], tensors["out/init_positional_embedding_audio"], 1e-5)
    assert tower.kernel is not None
    summed = tensors["out/init_conv1_audio_sum_over_rgb"]
    assert_close(tower.kernel[: len(summed)], summed, 1e-5)
