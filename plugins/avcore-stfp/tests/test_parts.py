"""Each pass against attention written out with timm's own blocks, in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from avcore.injection import BlockView
from avcore.model import AVModel
from avcore.states import load_trainable_state, trainable_state
from avcore.testing.graphs import tokens_for

Make = Callable[..., AVModel]
CLIPS, T = 2, 3
BLOCK = 1


def timm_block(model: AVModel, index: int = BLOCK, *, stream: str = "visual") -> Any:
    trunk: Any = model.towers[stream].trunk
    return trunk.model.blocks[index].inner


def layer(model: AVModel, key: str, index: int = BLOCK) -> Any:
    return model.parts[key].layers[str(index)]


def step(model: AVModel, x: dict[str, Tensor], index: int = BLOCK) -> dict[str, Tensor]:
    out: dict[str, Tensor] = model.steps[index](x, {})[0]
    return out


def mlp(inner: Any, x: Tensor) -> Tensor:
    out: Tensor = inner.mlp(inner.norm2(x))
    return out


def whole(inner: Any, *pieces: Tensor) -> list[Tensor]:
    """timm's attention on the pieces joined to one sequence, taken apart again."""
    joined = torch.cat([piece.expand(len(pieces[-1]), -1, -1) for piece in pieces], dim=1)
    return list(inner.attn(inner.norm1(joined)).split([piece.shape[-2] for piece in pieces], dim=1))


def prefixed(inner: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention written out, with keys and values joined in front of those that the frozen maps make of ``x``."""
    q, k, v = inner.attn.qkv(inner.norm1(x)).chunk(3, dim=-1)
    k = torch.cat([keys.expand(len(x), -1, -1), k], dim=1)
    v = torch.cat([values.expand(len(x), -1, -1), v], dim=1)
    width = q.shape[-1] // inner.attn.num_heads
    heads = []
    for head in range(inner.attn.num_heads):
        own = slice(head * width, (head + 1) * width)
        scores = q[..., own] @ k[..., own].mT / math.sqrt(width)
        heads.append(torch.softmax(scores, dim=-1) @ v[..., own])
    out: Tensor = inner.attn.proj(torch.cat(heads, dim=-1))
    return out


def over_time(x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    """``attend`` on the T tokens of each position of each clip."""
    out = torch.empty_like(x)
    for clip in range(CLIPS):
        frames = slice(clip * T, (clip + 1) * T)
        for position in range(x.shape[1]):
            out[frames, position] = attend(x[frames, position][None])[0]
    return out


def projected(inner: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of vectors behind the norm."""
    _, k, v = inner.attn.qkv(u).chunk(3, dim=-1)
    return k, v


def alone(narrow: Make, prompt: str, *sets: str) -> tuple[AVModel, dict[str, Tensor], Any]:
    """A model with that prompt only, tokens, and timm's block."""
    model = narrow(*sets, prompts=prompt, fusions="none")
    return model, tokens_for(model, BLOCK, CLIPS), timm_block(model)


def fused(narrow: Make, *sets: str) -> tuple[AVModel, dict[str, Tensor], Any]:
    """A model with the fusion only; its tokens after the frozen attention; timm's block."""
    model = narrow(*sets, prompts="none")
    return model, tokens_for(model, BLOCK, CLIPS), timm_block(model)


def test_the_written_out_attention_is_timms(narrow: Make) -> None:
    _, x, inner = alone(narrow, "stfp.spatial")
    none = torch.empty(0, 48, dtype=torch.float64)
    assert_close(prefixed(inner, x["audio"], none, none), inner.attn(inner.norm1(x["audio"])), rtol=0, atol=1e-12)


def test_a_block_of_the_whole_method_is_the_naive_one(narrow: Make) -> None:
    """§6.4: temporal, spatial, joint, MLP; each from the tokens that the one before it left."""
    model = narrow()
    x = tokens_for(model, BLOCK, CLIPS)
    inner, joint = timm_block(model), layer(model, "stfp.joint")
    now = {}
    for stream in x:
        temporal, spatial = layer(model, f"stfp.temporal.{stream}"), layer(model, f"stfp.spatial.{stream}")

        def pass_over_time(u: Tensor, temporal: Any = temporal) -> Tensor:
            return prefixed(inner, u, temporal.keys, temporal.values)

        y = x[stream] + temporal.gate * over_time(x[stream], pass_over_time)
        now[stream] = y + whole(inner, spatial.rows, y)[1]
    visual, _, audio = whole(inner, now["visual"], joint.prompts, now["audio"])
    now = {
        "visual": now["visual"] + joint.gate_visual * visual,
        "audio": now["audio"] + joint.gate_audio * audio,
    }
    found = step(model, x)
    for stream in x:
        assert_close(found[stream], now[stream] + mlp(inner, now[stream]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("stream", ["visual", "audio"])
@pytest.mark.parametrize("form", ["projected", "unprojected", "tokens"])
def test_temporal_prompts_before_and_after_the_projection(narrow: Make, form: str, stream: str) -> None:
    model, x, inner = alone(
        narrow, "stfp.temporal", f"parts.stfp.temporal.form={form}", "parts.stfp.temporal.gate=none"
    )
    own = layer(model, f"stfp.temporal.{stream}")
    if form == "tokens":
        assert own.keys.shape == (4, 48)
        keys, values = projected(inner, inner.norm1(own.keys))
    elif form == "unprojected":
        keys, values = projected(inner, own.keys)[0], projected(inner, own.values)[1]
    else:
        keys, values = own.keys, own.values
    y = x[stream] + over_time(x[stream], lambda u: prefixed(inner, u, keys, values))
    y = y + inner.attn(inner.norm1(y))
    assert_close(step(model, x)[stream], y + mlp(inner, y), rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["projected", "tokens"])
def test_space_time_attention_is_attention_over_all_frames_of_a_clip(narrow: Make, form: str) -> None:
    model = narrow(
        "parts.stfp.temporal.own_pass=false",
        "parts.stfp.temporal.gate=none",
        f"parts.stfp.temporal.form={form}",
        prompts="stfp.temporal+stfp.spatial",
        fusions="none",
    )
    x, inner = tokens_for(model, BLOCK, CLIPS), timm_block(model)
    for stream, tokens in x.items():
        own, spatial = layer(model, f"stfp.temporal.{stream}"), layer(model, f"stfp.spatial.{stream}")
        clips = tokens.unflatten(0, (CLIPS, T)).flatten(1, 2)
        spatial_keys, spatial_values = projected(inner, inner.norm1(spatial.rows))
        keys, values = projected(inner, inner.norm1(own.keys)) if form == "tokens" else (own.keys, own.values)
        out = prefixed(inner, clips, torch.cat([keys, spatial_keys]), torch.cat([values, spatial_values]))
        y = tokens + out.unflatten(1, (T, -1)).flatten(0, 1)
        assert_close(step(model, x)[stream], y + mlp(inner, y), rtol=0, atol=1e-9)


def test_a_gate_for_each_head_scales_the_trained_values(narrow: Make) -> None:
    model, x, inner = alone(narrow, "stfp.temporal", "parts.stfp.temporal.gate=heads")
    own = layer(model, "stfp.temporal.visual")
    assert own.gate is None
    assert own.head_gates.shape == (4,)
    values = torch.cat([gate * half for gate, half in zip(own.head_gates, own.values.chunk(4, -1), strict=True)], -1)
    y = x["visual"] + over_time(x["visual"], lambda u: prefixed(inner, u, own.keys, values))
    y = y + inner.attn(inner.norm1(y))
    assert_close(step(model, x)["visual"], y + mlp(inner, y), rtol=0, atol=1e-9)


@pytest.mark.parametrize("normed", [True, False])
def test_spatial_rows_before_and_behind_the_norm(narrow: Make, normed: bool) -> None:
    model, x, inner = alone(narrow, "stfp.spatial", f"parts.stfp.spatial.normed={normed}")
    for stream, tokens in x.items():
        rows = layer(model, f"stfp.spatial.{stream}").rows
        assert rows.shape == (10, 48)
        u = torch.cat([(inner.norm1(rows) if normed else rows).expand(len(tokens), -1, -1), inner.norm1(tokens)], dim=1)
        y = tokens + inner.attn(u)[:, 10:]
        assert_close(step(model, x)[stream], y + mlp(inner, y), rtol=0, atol=1e-9)


def test_the_bias_of_spatial_rows_weighs_them_against_the_tokens(narrow: Make) -> None:
    model, x, _ = alone(narrow, "stfp.spatial", "parts.stfp.spatial.row_bias=-30")
    plain, _, inner = alone(narrow, "stfp.spatial")
    for stream, tokens in x.items():
        y = tokens + inner.attn(inner.norm1(tokens))
        without = y + mlp(inner, y)
        assert_close(step(model, x)[stream], without, rtol=0, atol=1e-9)
        assert (step(plain, x)[stream] - without).abs().max() > 1e-3


def after_fusion(inner: Any, x: dict[str, Tensor], exchange: Callable[..., tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The block with an ungated exchange between attention and MLP."""
    y = {stream: tokens + inner.attn(inner.norm1(tokens)) for stream, tokens in x.items()}
    added = dict(zip(("visual", "audio"), exchange(y["visual"], y["audio"]), strict=True))
    z = {stream: y[stream] + added[stream] for stream in y}
    return {stream: tokens + mlp(inner, tokens) for stream, tokens in z.items()}


@pytest.mark.parametrize("vectors", [0, 2])
def test_the_joint_pass_is_attention_over_the_concatenation(narrow: Make, vectors: int) -> None:
    model, x, inner = fused(narrow, f"parts.stfp.joint.vectors={vectors}", "parts.stfp.joint.gate=none")
    prompts = layer(model, "stfp.joint").prompts
    bridge = [] if prompts is None else [prompts.expand(CLIPS * T, -1, -1)]

    def exchange(visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        pieces = whole(inner, visual, *bridge, audio)
        return pieces[0], pieces[-1]

    expected = after_fusion(inner, x, exchange)
    found = step(model, x)
    for stream in x:
        assert_close(found[stream], expected[stream], rtol=0, atol=1e-9)


def test_streams_with_trunks_of_their_own_go_through_their_own_attention(narrow: Make) -> None:
    model, x, _ = fused(narrow, "audio.backbone=narrow", "audio.weights=random", "parts.stfp.joint.gate=none")
    prompts = layer(model, "stfp.joint").prompts.expand(CLIPS * T, -1, -1)
    inner = {stream: timm_block(model, stream=stream) for stream in x}
    y = {stream: tokens + inner[stream].attn(inner[stream].norm1(tokens)) for stream, tokens in x.items()}
    found = step(model, x)
    for stream, piece in (("visual", 0), ("audio", -1)):
        z = y[stream] + whole(inner[stream], y["visual"], prompts, y["audio"])[piece]
        assert_close(found[stream], z + mlp(inner[stream], z), rtol=0, atol=1e-9)


def test_the_merged_pass_is_one_attention_over_the_concatenation(narrow: Make) -> None:
    model, x, inner = fused(narrow, "parts.stfp.joint.form=merged", "parts.stfp.joint.gate=none")
    visual, _, audio = whole(inner, x["visual"], layer(model, "stfp.joint").prompts, x["audio"])
    found = step(model, x)
    for stream, out in (("visual", visual), ("audio", audio)):
        y = x[stream] + out
        assert_close(found[stream], y + mlp(inner, y), rtol=0, atol=1e-9)


def test_the_merged_pass_keeps_each_streams_own_spatial_rows(narrow: Make) -> None:
    model = narrow("parts.stfp.joint.form=merged", "parts.stfp.joint.gate=none", prompts="stfp.spatial")
    x, inner = tokens_for(model, BLOCK, CLIPS), timm_block(model)
    own, prompts = layer(model, "stfp.spatial.audio").rows, layer(model, "stfp.joint").prompts
    rows = [rows.expand(CLIPS * T, -1, -1) for rows in (own, prompts)]
    y = x["audio"] + whole(inner, *rows, x["visual"], x["audio"])[-1]
    assert_close(step(model, x)["audio"], y + mlp(inner, y), rtol=0, atol=1e-9)


def test_a_token_attends_to_the_other_stream_first(narrow: Make) -> None:
    model, x, inner = fused(narrow, "parts.stfp.joint.form=tokens", "parts.stfp.joint.gate=none")
    own = layer(model, "stfp.joint")
    assert own.prompt_visual.shape == (1, 48)

    def side(prompt: Tensor, tokens: Tensor, other: Tensor) -> Tensor:
        prompt = prompt.expand(len(tokens), -1, -1)
        return whole(inner, prompt + whole(inner, prompt, other)[0], tokens)[1]

    expected = after_fusion(inner, x, lambda v, a: (side(own.prompt_visual, v, a), side(own.prompt_audio, a, v)))
    found = step(model, x)
    for stream in x:
        assert_close(found[stream], expected[stream], rtol=0, atol=1e-9)


def test_latents_summarise_the_other_stream_as_in_lavish(narrow: Make) -> None:
    model, x, inner = fused(narrow, "parts.stfp.joint.form=latents", "parts.stfp.joint.gate=none")
    latents = layer(model, "stfp.joint").latents

    def side(tokens: Tensor, other: Tensor) -> Tensor:
        out = torch.empty_like(tokens)
        for frame in range(len(tokens)):
            summary = latents + torch.softmax(latents @ other[frame].T, dim=-1) @ other[frame]
            out[frame] = torch.softmax(tokens[frame] @ summary.T, dim=-1) @ summary
        return out

    expected = after_fusion(inner, x, lambda v, a: (side(v, a), side(a, v)))
    found = step(model, x)
    for stream in x:
        assert_close(found[stream], expected[stream], rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["joint", "tokens", "latents"])
def test_gates_at_zero_leave_the_frozen_forward_untouched(narrow: Make, form: str) -> None:
    """What is left is the frozen block with the spatial rows, bit for bit."""
    model = narrow(f"parts.stfp.joint.form={form}")
    x = tokens_for(model, BLOCK, CLIPS)
    bare = narrow(prompts="stfp.spatial", fusions="none")
    with torch.no_grad():
        for stream in x:
            layer(bare, f"stfp.spatial.{stream}").rows.copy_(layer(model, f"stfp.spatial.{stream}").rows)
            assert not torch.equal(step(model, x)[stream], step(bare, x)[stream])
        for stream in x:
            layer(model, f"stfp.temporal.{stream}").gate.zero_()
            getattr(layer(model, "stfp.joint"), f"gate_{stream}").zero_()
        found, expected = step(model, x), step(bare, x)
    for stream in x:
        assert torch.equal(found[stream], expected[stream])


EXCHANGED = {"visual": "audio", "audio": "visual"}


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("parts.stfp.joint.form=tokens",),
        ("parts.stfp.joint.form=latents",),
        ("parts.stfp.joint.form=merged", "parts.stfp.joint.gate=none"),
        ("parts.stfp.temporal.own_pass=false", "parts.stfp.temporal.gate=none"),
    ],
    ids=["default", "tokens", "latents", "merged", "space-time"],
)
def test_exchanging_streams_and_parameters_exchanges_the_outputs(narrow: Make, sets: tuple[str, ...]) -> None:
    model, mirrored = narrow(*sets), narrow(*sets)
    x = tokens_for(model, BLOCK, CLIPS)
    state = {}
    for name, tensor in trainable_state(model).items():
        words = name.replace("_visual", ".visual.").replace("_audio", ".audio.").split(".")
        other = ".".join(EXCHANGED.get(word, word) for word in words)
        state[other.replace(".visual.", "_visual").replace(".audio.", "_audio") if "joint" in name else other] = tensor
    own = trainable_state(mirrored)
    # The final norm, the head and the class token of sound are not part of a block.
    load_trainable_state(mirrored, own | {name: tensor for name, tensor in state.items() if ".layers." in name})
    found = step(mirrored, {"visual": x["audio"], "audio": x["visual"]})
    expected = step(model, x)
    for stream, other in EXCHANGED.items():
        assert_close(found[other], expected[stream], rtol=0, atol=1e-9)


def test_class_tokens_take_part_in_the_temporal_pass(narrow: Make) -> None:
    model = narrow(prompts="stfp.temporal", fusions="none")
    x = tokens_for(model, BLOCK, CLIPS)["visual"]
    block, part = model.steps[BLOCK].blocks["visual"], model.parts["stfp.temporal.visual"]
    at = BlockView(B=CLIPS, T=T, part=part, block=block, project=None, tokens=x)
    own = layer(model, "stfp.temporal.visual")
    changed = x.clone()
    changed[1, 0, :24] += 1.0
    difference = own.before_attention(changed, at).add - own.before_attention(x, at).add
    moved = difference.abs().amax(-1) > 1e-9
    expected = torch.zeros_like(moved)
    expected[:T, 0] = True
    assert torch.equal(moved, expected)


def test_prompts_are_separate_in_every_block_and_stream(narrow: Make) -> None:
    model = narrow(initial=True)
    named = [(name, tensor) for name, tensor in trainable_state(model).items() if ".layers." in name]
    drawn = [tensor for name, tensor in named if tensor.dim() == 2]
    assert len({tensor.data_ptr() for _, tensor in named}) == len(named) == 4 * (2 * (3 + 1) + 3)
    assert len(drawn) == 4 * (2 * 3 + 1)
    for index, tensor in enumerate(drawn):
        assert not any(torch.equal(tensor[:2], other[:2]) for other in drawn[:index])


def test_initial_values(narrow: Make) -> None:
    model = narrow("parts.stfp.temporal.value_std=0", "parts.stfp.spatial.std=0.5", initial=True)
    state = trainable_state(model)
    wide = torch.cat([tensor.flatten() for name, tensor in state.items() if name.endswith("rows")])
    keys = torch.cat([tensor.flatten() for name, tensor in state.items() if name.endswith("keys")])
    assert 0.45 < wide.std() < 0.55
    assert 0.017 < keys.std() < 0.023
    for name, tensor in state.items():
        if name.endswith(("values", "gate", "gate_visual", "gate_audio", "class_token")):
            assert not tensor.any(), name
