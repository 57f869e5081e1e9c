"""STG-CMA where attention keeps to windows: the exchange behind attention runs window by window, in float64."""

from typing import Any

import pytest
import torch
from small import assemble_small
from torch import Tensor
from torch.testing import assert_close

import avcore_ave
import avcore_stgcma
import avcore_timm
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.hookspecs import hookimpl
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore.states import parameter_groups
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_batch
from avcore_stgcma.bottleneck import Bottleneck
from avcore_timm.settings import SwinSettings

GRID, WINDOW, SHIFT = 8, 4, 2
# Block 0 and 1 on 8 x 8 in four windows, those of block 1 shifted by half of one; block 2 on 4 x 4 sees all of it.
ARGUMENTS = {"img_size": 32, "window_size": WINDOW, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4)}


class SmallSwins:
    """Swin Transformers of both versions, and one of the same widths with other windows."""

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        first, second = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
        ones = {
            "swin": {"model": first, "arguments": ARGUMENTS},
            "other_windows": {"model": first, "arguments": {**ARGUMENTS, "window_size": 2}},
        }
        twos = {"swinv2": {"model": second, "arguments": ARGUMENTS}}
        return [
            BackboneSpec(name="small", build="avcore_timm.swin:build", config=SwinSettings, presets=ones),
            BackboneSpec(name="small_v2", build="avcore_timm.swin:build_v2", config=SwinSettings, presets=twos),
        ]


def make(*sets: str, visual: str = "swin", **options: Any) -> AVModel:
    """STG-CMA on AVE with two segments; every trained tensor is moved, gates too."""
    installed = {"avcore-timm": avcore_timm, "avcore-stgcma": avcore_stgcma, "avcore-ave": avcore_ave}
    registry = Registry.from_modules({**installed, "small": SmallSwins()})
    always = ("visual.weights=random", "data.segments=2", "data.clip_seconds=2", "parts.stgcma.exchange.ratio=0.25")
    resolved = resolve_config(
        registry, method="stgcma", task="ave", visual=visual, sets=(*always, *sets), need_data=False, **options
    )
    model, draws = assemble_small(resolved.config, registry).eval().double(), torch.Generator().manual_seed(1)
    for _, parameter in parameter_groups(model)["parts"]:
        parameter.data += torch.randn(parameter.shape, generator=draws, dtype=torch.float64) * 0.3
    return model


def by_hand(
    bottleneck: Bottleneck, other: Bottleneck, gate: Tensor, own_MND: Tensor, other_MND: Tensor, groups: list[list[int]]
) -> Tensor:
    """o + Up(h + g softmax(h h'^T) h'), in each group of tokens by itself."""
    out = torch.empty_like(own_MND)
    for frame in range(len(own_MND)):
        for group in groups:
            h, h_other = (
                torch.nn.functional.gelu(x[frame, group] @ one.down.weight.T + one.down.bias)
                for one, x in ((bottleneck, own_MND), (other, other_MND))
            )
            read = torch.stack([(h_other @ vector).softmax(0) @ h_other for vector in h])
            out[frame, group] = own_MND[frame, group] + (h + gate * read) @ bottleneck.up.weight.T + bottleneck.up.bias
    return out


def groups_of(grid: int, window: int, shift: int) -> list[list[int]]:
    """The tokens of each window, which lies ``shift`` rows down and columns to the right and ends at the other edge."""
    found: dict[tuple[int, int], list[int]] = {}
    for token in range(grid * grid):
        y, x = (token // grid - shift) % grid, (token % grid - shift) % grid
        found.setdefault((y // window, x // window), []).append(token)
    return list(found.values())


@pytest.mark.parametrize(
    ("index", "groups"),
    [
        (0, groups_of(GRID, WINDOW, 0)),
        (1, groups_of(GRID, WINDOW, SHIFT)),
        (2, [list(range(16))]),
    ],
    ids=["windows", "shifted windows", "one window"],
)
@pytest.mark.parametrize("visual", ["swin", "swinv2"])
def test_streams_exchange_within_windows_behind_attention_and_over_all_tokens_behind_the_mlp(
    visual: str, index: int, groups: list[list[int]]
) -> None:
    model = make(visual=visual, prompts="none")
    layer: Any = model.parts["stgcma.exchange"].layers[str(index)]
    block: Any = model.towers["visual"].block(index)  # type: ignore[operator]
    x = tokens_for(model, index, clips=1)
    every = [list(range(x["visual"].shape[1]))]
    place = {"visual": (layer.gate_visual, "audio"), "audio": (layer.gate_audio, "visual")}

    def exchanged(kind: str, out: dict[str, Tensor], within: list[list[int]]) -> dict[str, Tensor]:
        bottlenecks = {stream: getattr(layer, f"{kind}_{stream}") for stream in out}
        return {
            stream: by_hand(bottlenecks[stream], bottlenecks[other], gate, out[stream], out[other], within)
            for stream, (gate, other) in place.items()
        }

    attended = exchanged("spatial", {stream: block.attention(tokens)[0] for stream, tokens in x.items()}, groups)
    y = {stream: x[stream] + attended[stream] for stream in x}
    mixed = exchanged("mlp", {stream: block.mlp(tokens) for stream, tokens in y.items()}, every)
    found = model.steps[index](dict(x), {})[0]
    for stream in x:
        assert_close(found[stream], y[stream] + mixed[stream], rtol=0, atol=1e-9)


AUTHORS = {
    "the parts on CLIP": ((), None),
    "the variant on Swin": (
        (
            "parts.stgcma.temporal.every=2",
            "parts.stgcma.temporal.position_bias=true",
            "parts.stgcma.temporal.ratio=[0.5,0.25]",
        ),
        "stgcma.temporal",
    ),
}


@pytest.mark.parametrize("visual", ["swin", "swinv2"])
@pytest.mark.parametrize("variant", AUTHORS)
def test_the_whole_method_trains(visual: str, variant: str) -> None:
    sets, prompts = AUTHORS[variant]
    model = make(*sets, visual=visual, prompts=prompts).train()
    batch, before = make_batch(model), digest(model.towers)
    batch.targets["labels"] = torch.randint(0, 29, (2, 2))
    model.loss(model(batch), batch).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert digest(model.towers) == before


def test_a_pair_of_blocks_compiles_to_one_graph() -> None:
    model = make()
    x = tokens_for(model, 1)
    expected, found = model.steps[1](dict(x), {})[0], capture(model.steps[1], x).output[0]
    for stream in x:
        assert_close(found[stream], expected[stream], rtol=0, atol=1e-12)


def test_windows_that_do_not_correspond_need_no_parameters() -> None:
    model = make("audio.weights=random", audio="other_windows")
    batch = make_batch(model)
    batch.targets["labels"] = torch.randint(0, 29, (2, 2))
    model.loss(model(batch), batch).backward()
    assert all(parameter.grad is not None for _, parameter in parameter_groups(model)["parts"])
    assert [name for name, _ in parameter_groups(model)["parts"] if name.startswith("align")] == []


def test_a_stream_with_windows_reads_the_other_on_its_own_grid() -> None:
    """Sound on 8 x 8 in windows of 2 beside pictures in windows of 4: each side by hand, on its own windows."""
    sets = ("audio.weights=random", "parts.stgcma.exchange.ratio=0.25")
    model = make(*sets, audio="other_windows", prompts="none", fusions="stgcma")
    layer: Any = model.parts["stgcma.exchange"].layers["0"]
    blocks = {stream: model.towers[stream].block(0) for stream in ("visual", "audio")}  # type: ignore[operator]
    x = tokens_for(model, 0, clips=1)
    out = {stream: blocks[stream].attention(x[stream])[0] for stream in x}
    step = model.steps[0]
    view = step._view(step.at_site["attention_output"][0], x, {})
    sides = {
        "visual": (layer.spatial_visual, layer.spatial_audio, layer.gate_visual, WINDOW),
        "audio": (layer.spatial_audio, layer.spatial_visual, layer.gate_audio, 2),
    }
    made = layer.attention_output(out["visual"], out["audio"], x["visual"], x["audio"], view)
    for (stream, (bottleneck, other, gate, window)), found in zip(sides.items(), made, strict=True):
        beside = out["audio" if stream == "visual" else "visual"]
        expected = by_hand(bottleneck, other, gate, out[stream], beside, groups_of(GRID, window, 0))
        assert_close(found, expected, rtol=0, atol=1e-9)
