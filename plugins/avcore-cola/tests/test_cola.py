"""CoLA: its equation, where each stream reads the other, LoRA without it, counts to the digit."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import avcore_ave
import avcore_avs
import avcore_baselines
import avcore_cola
import avcore_timm
from avcore import AVCoreError, AVModel
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.states import parameter_groups
from avcore.testing import ToyBackbones, make_batch, make_model
from avcore.testing.graphs import tokens_for

OWN, CROSS = "cola.own", "cola.cross"
PLUGINS = {"avcore-baselines": avcore_baselines, "avcore-cola": avcore_cola}


def make(*listed: str, toy: str = "toy_plain", sets: tuple[str, ...] = ()) -> AVModel:
    """A model of these parts in float64, of which nothing is zero any longer."""
    sets = (*(f"parts.{name}.rank=2" for name in (OWN, CROSS) if name in listed), *sets)
    model = make_model(ToyBackbones(), toy, listed=listed, others=PLUGINS, sets=sets, on_meta_first=False).double()
    for number, (_, parameter) in enumerate(parameter_groups(model)["parts"]):
        draws = torch.Generator().manual_seed(number)
        parameter.data += torch.randn(parameter.shape, generator=draws, dtype=torch.float64) * 0.1
    return model


def increment(layer: Any, stream: str, target: str, x: Tensor, c: Tensor) -> Tensor:
    """s B Phi(c) A x, written out."""
    path = getattr(layer, stream)[target]
    core = path.core
    hidden = F.layer_norm(F.gelu(c @ core.first.weight.T + core.first.bias), core.norm.normalized_shape)
    hidden = hidden * core.norm.weight + core.norm.bias
    phi = (hidden @ core.second.weight.T + core.second.bias).view(-1, 2, 2)
    phi = F.layer_norm(phi, (2, 2)) * core.out.weight + core.out.bias
    made: Tensor = path.scale * torch.einsum("or,Mrs,si,M...i->M...o", path.B, phi, path.A, x)
    return made


def test_a_block_is_the_equation_with_the_other_streams_class_token_at_the_same_map() -> None:
    model = make(CROSS)
    step, x = model.steps[1], tokens_for(model, 1)
    layer: Any = model.parts[CROSS].layers["1"]
    blocks: dict[str, Any] = {stream: block.inner for stream, block in step.blocks.items()}
    other = {"visual": "audio", "audio": "visual"}
    first = {stream: tokens[:, 0] for stream, tokens in x.items()}
    mixed = {}
    for stream, inner in blocks.items():
        u = inner.norm1(x[stream])
        made = [increment(layer, stream, target, u, first[other[stream]]) for target in "qkv"]
        q, k, v = (inner.qkv(u) + torch.cat(made, -1)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (inner.heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed[stream] = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    between = {
        stream: x[stream]
        + inner.proj(mixed[stream])
        + increment(layer, stream, "proj", mixed[stream], mixed[other[stream]][:, 0])
        for stream, inner in blocks.items()
    }
    found = step(dict(x), {})[0]
    for stream, inner in blocks.items():
        c, u = between[other[stream]][:, 0], inner.norm2(between[stream])
        hidden = F.gelu(inner.fc1(u) + increment(layer, stream, "fc1", u, c))
        expected = between[stream] + inner.fc2(hidden) + increment(layer, stream, "fc2", hidden, c)
        torch.testing.assert_close(found[stream], expected, rtol=0, atol=1e-10)
        assert (expected - step.blocks[stream](x[stream])).abs().max() > 1e-3


def test_without_a_class_token_the_mean_is_read_and_all_windows_have_one_core() -> None:
    model = make(CROSS, toy="toy_windowed")
    layer: Any = model.parts[CROSS].layers["0"]
    tokens = torch.randn(2, 12, 16).double()
    at = type("At", (), {"visual": type("S", (), {"tokens": tokens}), "audio": type("S", (), {"tokens": tokens + 1})})
    width = layer.visual["proj"].A.shape[1]
    x = torch.randn(2, 4, 3, width).double()
    visual, _ = layer.projection("proj", x, x + 1, at)
    expected = increment(layer, "visual", "proj", x, (x + 1).mean((1, 2)))
    torch.testing.assert_close(visual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("toy", ["toy_plain", "toy_windowed"])
def test_without_its_cross_path_it_is_lora(toy: str) -> None:
    both, lora, alone = make(OWN, CROSS, toy=toy), make("lora", toy=toy, sets=ALL), make(OWN, toy=toy)
    for stream in ("visual", "audio"):
        for index, layer in both.parts[f"{OWN}.{stream}"].layers.items():
            for model, name in ((lora, "lora"), (alone, OWN)):
                model.parts[f"{name}.{stream}"].layers[index].load_state_dict(layer.state_dict())
    batch = make_batch(both)
    changed = both.features(batch)
    for name, parameter in parameter_groups(both)["parts"]:
        if name.endswith(".scale"):
            parameter.data.zero_()
    silent, expected, own = (model.features(batch) for model in (both, lora, alone))
    for stream in ("visual", "audio"):
        tokens = silent.stream(stream).tokens
        torch.testing.assert_close(tokens, expected.stream(stream).tokens, rtol=0, atol=1e-12)
        torch.testing.assert_close(tokens, own.stream(stream).tokens, rtol=0, atol=1e-12)
        assert (changed.stream(stream).tokens - tokens).abs().max() > 1e-4


ALL = ("parts.lora.targets=[q,k,v,proj,fc1,fc2]", "parts.lora.rank=2", "parts.lora.alpha=8")


def test_each_stream_changes_with_the_other_one() -> None:
    model = make(CROSS)
    batch = make_batch(model)
    assert batch.waveform is not None
    before = model.features(batch).stream("visual").tokens
    batch.waveform.copy_(batch.waveform.flip(0))
    assert not torch.equal(model.features(batch).stream("visual").tokens, before)


def test_how_it_begins() -> None:
    model = make_model(ToyBackbones(), "toy_plain", listed=(OWN, CROSS), others=PLUGINS)
    path: Any = model.parts[CROSS].layers["0"].visual["q"]  # type: ignore[union-attr, index]
    assert path.scale.item() == pytest.approx(0.1)
    assert not path.B.any()
    bound = 1 / math.sqrt(path.A.shape[1])
    assert 0.8 * bound < path.A.abs().max() <= bound


# ------------------------------------------------------------------------------------------------------------- counts


VIT, LARGE, SWIN = "vit_base_patch16_224", "vit_large_patch16_224", "swinv2_large_window12_192"


def count(task: str, visual: str, *sets: str, fusions: str = CROSS) -> dict[str, int]:
    """Trained parameters by component; sound goes through SSLAM."""
    registry = Registry.from_modules(
        {"avcore-timm": avcore_timm, "avcore-ave": avcore_ave, "avcore-avs": avcore_avs, **PLUGINS}
    )
    config = resolve_config(
        registry,
        prompts=OWN,
        fusions=fusions,
        task=task,
        visual=visual,
        audio="sslam",
        sets=(*sets, *(["head.name=ave.linear"] if task == "ave" else [])),
        need_data=False,
    ).config
    return {
        name: part.trainable for name, part in count_parameters(assemble(config, registry, meta=True)).parts.items()
    }


def test_counts_to_the_digit_on_vit_base() -> None:
    found = count("ave", VIT)
    assert found[OWN] == 5_308_416
    assert found[OWN] + found[CROSS] == 17_826_192
    assert found[OWN] + found[CROSS] + found["head"] == 18_628_013
    assert count("ave", VIT, f"parts.{OWN}.rank=54", fusions="none")[OWN] == 17_915_904


def test_counts_to_the_digit_on_deeper_pictures() -> None:
    found = count("ave", LARGE)
    assert found[OWN] + found[CROSS] == 25_497_360


def test_counts_to_the_digit_on_swin() -> None:
    model_sets = (f"parts.{CROSS}.rho=2", f"parts.{CROSS}.audio_hidden=96")
    found = count("avs", SWIN, *model_sets)
    assert found[OWN] + found[CROSS] == 36_246_600 + 12_351_816


@pytest.mark.parametrize("setting", ["rank=0", "rho=0", "audio_hidden=0"])
def test_settings_out_of_range_are_named(setting: str) -> None:
    with pytest.raises(AVCoreError, match=rf"parts\.cola\.cross\.{setting.partition('=')[0]} must be 1 or more"):
        make(CROSS, sets=(f"parts.cola.cross.{setting}",))
