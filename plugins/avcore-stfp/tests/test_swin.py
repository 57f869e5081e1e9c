"""AV-STFP where attention keeps to windows: Swin Transformers of both versions, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from avcore.backbones import digest
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.states import parameter_groups
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_batch

Make = Callable[..., AVModel]
CLIPS, T = 2, 3
WINDOWED, WHOLE = 1, 2
SQUARE = ("audio.frames=null", "audio.mel_bins=null")


def swin(narrow: Make, *sets: str, visual: str = "narrow_swinv2", **options: Any) -> AVModel:
    return narrow(*SQUARE, *sets, visual=visual, **options)


def frozen(model: AVModel, index: int) -> Any:
    return model.towers["visual"].block(index)  # type: ignore[operator]


def cosine_attention(inner: Any, x: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
    """Version 2 without position bias: softmax of scaled cosines, keys and values joined in front, the norm behind."""
    attn = inner.attn
    q, k, v = F.linear(x, attn.qkv.weight, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])).chunk(3, dim=-1)
    if keys is not None and values is not None:
        k, v = (torch.cat([own.expand(len(x), -1, -1), u], dim=1) for own, u in ((keys, k), (values, v)))
    width, heads = q.shape[-1] // attn.num_heads, []
    for head in range(attn.num_heads):
        own = slice(head * width, (head + 1) * width)
        cosines = F.normalize(q[..., own], dim=-1) @ F.normalize(k[..., own], dim=-1).mT
        scale = min(attn.logit_scale[head].exp().item(), 100)
        heads.append(torch.softmax(cosines * scale, dim=-1) @ v[..., own])
    out: Tensor = inner.norm1(attn.proj(torch.cat(heads, dim=-1)))
    return out


def projected(inner: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of vectors; in version 2 no norm comes before the maps."""
    bias = torch.cat([inner.attn.q_bias, inner.attn.k_bias, inner.attn.v_bias])
    _, k, v = F.linear(u, inner.attn.qkv.weight, bias).chunk(3, dim=-1)
    return k, v


@pytest.mark.parametrize("index", [WINDOWED, WHOLE])
@pytest.mark.parametrize("form", ["projected", "unprojected", "tokens"])
def test_the_temporal_pass_is_cosine_attention_over_the_segments_of_each_position(
    narrow: Make, form: str, index: int
) -> None:
    sets = (f"parts.stfp.temporal.form={form}", "parts.stfp.temporal.gate=none")
    model = swin(narrow, *sets, prompts="stfp.temporal", fusions="none")
    block, x = frozen(model, index), tokens_for(model, index, CLIPS)
    for stream, tokens in x.items():
        own: Any = model.parts[f"stfp.temporal.{stream}"].layers[str(index)]
        if form == "tokens":
            keys, values = projected(block.inner, own.keys)
        elif form == "unprojected":
            keys, values = projected(block.inner, own.keys)[0], projected(block.inner, own.values)[1]
        else:
            keys, values = own.keys, own.values
        passed = torch.empty_like(tokens)
        for clip in range(CLIPS):
            for position in range(tokens.shape[1]):
                sequence = tokens[clip * T : (clip + 1) * T, position][None]
                passed[clip * T : (clip + 1) * T, position] = cosine_attention(block.inner, sequence, keys, values)[0]
        y = tokens + passed
        y = y + block.attention(y)[0]
        assert_close(model.steps[index](dict(x), {})[0][stream], y + block.mlp(y), rtol=0, atol=1e-9)


def test_the_joint_pass_is_cosine_attention_over_the_concatenation(narrow: Make) -> None:
    model = swin(narrow, "parts.stfp.joint.gate=none", prompts="none")
    block, x = frozen(model, WHOLE), tokens_for(model, WHOLE, CLIPS)
    layer: Any = model.parts["stfp.joint"].layers[str(WHOLE)]
    y = {stream: tokens + block.attention(tokens)[0] for stream, tokens in x.items()}
    joined = torch.cat([y["visual"], layer.prompts.expand(CLIPS * T, -1, -1), y["audio"]], dim=1)
    passed = cosine_attention(block.inner, joined)
    found = model.steps[WHOLE](dict(x), {})[0]
    for stream, out in (("visual", passed[:, :16]), ("audio", passed[:, -16:])):
        z = y[stream] + out
        assert_close(found[stream], z + block.mlp(z), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("form", "where"), [("joint", ["2"]), ("merged", ["2"]), ("tokens", ["2"]), ("latents", ["0", "1", "2"])]
)
def test_streams_attend_to_each_other_where_blocks_see_their_whole_grid(
    narrow: Make, form: str, where: list[str]
) -> None:
    model = swin(narrow, f"parts.stfp.joint.form={form}", "parts.stfp.joint.gate=none")
    assert list(model.parts["stfp.joint"].layers) == where
    assert list(model.parts["stfp.spatial.visual"].layers) == ["0", "1", "2"]


@pytest.mark.parametrize("form", ["joint", "merged", "tokens"])
def test_where_every_block_attends_in_windows_the_reason_is_given(narrow: Make, form: str) -> None:
    sets = (f"parts.stfp.joint.form={form}", "parts.stfp.joint.gate=none")
    with pytest.raises(AVCoreError, match=rf"form={form} needs blocks that attend to their whole grid.*form=latents"):
        swin(narrow, *sets, visual="narrow_windowed")


def test_latents_need_no_block_that_sees_its_whole_grid(narrow: Make) -> None:
    model = swin(narrow, "parts.stfp.joint.form=latents", visual="narrow_windowed")
    assert list(model.parts["stfp.joint"].layers) == ["0", "1", "2"]


@pytest.mark.parametrize("visual", ["narrow_swin", "narrow_swinv2"])
@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("parts.stfp.temporal.form=tokens", "parts.stfp.joint.form=tokens", "parts.stfp.spatial.normed=false"),
        (
            *("parts.stfp.temporal.own_pass=false", "parts.stfp.temporal.gate=none"),
            *("parts.stfp.joint.form=merged", "parts.stfp.joint.gate=none"),
        ),
    ],
    ids=["default", "tokens", "merged"],
)
def test_every_trained_tensor_learns(narrow: Make, visual: str, sets: tuple[str, ...]) -> None:
    model = swin(narrow, *sets, visual=visual).train()
    batch, before = make_batch(model), digest(model.towers)
    batch.targets["labels"] = torch.randint(0, 29, (2, 3))
    model.loss(model(batch), batch).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert digest(model.towers) == before


@pytest.mark.parametrize("index", [WINDOWED, WHOLE])
def test_a_pair_of_blocks_compiles_to_one_graph(narrow: Make, index: int) -> None:
    model = swin(narrow)
    x = tokens_for(model, index)
    expected = model.steps[index](dict(x), {})[0]
    found = capture(model.steps[index], x).output[0]
    for stream in x:
        assert_close(found[stream], expected[stream], rtol=0, atol=1e-12)
