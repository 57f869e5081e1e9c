"""Blocks with norms behind their sums, against torch's own layer: tokens, rows, carried rows and what parts add."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore.backbones import digest
from avcore.injection import Edit, Edits, FusionLayer, PromptLayer
from avcore.model import AVModel
from avcore.testing import ToyBackbones, make_batch, make_model
from avcore.testing.graphs import tokens_for


class Rows(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(3, block.width))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.rows)


class Carries(Rows):
    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(carry=self.rows if at.carried is None else self.rows + at.carried)


class Adds(PromptLayer):
    """Beside attention and MLP, and to the increment of the attention."""

    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.beside = nn.Parameter(torch.randn(2, block.width))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(add=self.beside[0])

    def attention_output(self, out_MND: Tensor, x_MND: Tensor, at: Any) -> Tensor:
        return out_MND * 2

    def mlp(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(add=self.beside[1])


class Mixes(FusionLayer):
    def __init__(self, config: Any, pair: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(pair.visual.width))

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: Any) -> Edits:
        return Edits(visual=Edit(add=audio_MND.mean(1, keepdim=True) * self.scale))


def make(*sets: str, **parts: Any) -> AVModel:
    return make_model(ToyBackbones(), "toy_post_norm", sets=sets, on_meta_first=False, **parts).double()


def torchs(block: Any) -> nn.TransformerEncoderLayer:
    """The layer that the block is."""
    inner = block.inner
    made = nn.TransformerEncoderLayer(
        inner.norm1.normalized_shape[0],
        inner.heads,
        inner.fc1.out_features,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=False,
        dtype=torch.float64,
    )
    made.self_attn.load_state_dict(
        {
            "in_proj_weight": inner.qkv.weight,
            "in_proj_bias": inner.qkv.bias,
            "out_proj.weight": inner.proj.weight,
            "out_proj.bias": inner.proj.bias,
        }
    )
    for own, other in ("linear1", "fc1"), ("linear2", "fc2"), ("norm1", "norm1"), ("norm2", "norm2"):
        getattr(made, own).load_state_dict(getattr(inner, other).state_dict())
    # Training mode keeps torch from its fused path.
    return made.train()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("atomic", ["false", "true"])
def test_alone_it_is_torchs_layer(atomic: str) -> None:
    model = make(f"plan.atomic_audio={atomic}")
    x = tokens_for(model, 1)
    found = model.steps[1](x, {})[0]
    for stream, tokens in x.items():
        block = model.steps[1].blocks[stream]
        close(found[stream], torchs(block)(tokens))
        close(block(tokens), found[stream])


@pytest.mark.parametrize("atomic", ["false", "true"])
@pytest.mark.parametrize("part", [Rows, Carries])
def test_rows_are_tokens_of_torchs_layer(part: type[Rows], atomic: str) -> None:
    model = make(f"plan.atomic_audio={atomic}", prompts={"mine": part})
    x = tokens_for(model, 0)
    found, carried, _ = model.steps[0](x, {})
    for stream, tokens in x.items():
        layer: Any = model.parts[f"mine.{stream}"].layers["0"]
        whole = torchs(model.steps[0].blocks[stream])(torch.cat([tokens, layer.rows.expand(len(tokens), -1, -1)], 1))
        close(found[stream], whole[:, : tokens.shape[1]])
        if part is Carries:
            close(carried["mine", stream], whole[:, tokens.shape[1] :])


def test_what_parts_add_passes_the_norm_behind_the_sum() -> None:
    model = make("plan.atomic_audio=true", prompts={"mine": Adds})
    x = tokens_for(model, 2)
    found = model.steps[2](x, {})[0]
    for stream, tokens in x.items():
        block: Any = model.steps[2].blocks[stream]
        layer: Any = model.parts[f"mine.{stream}"].layers["2"]
        attended = tokens + 2 * block.attention(tokens)[0]
        if stream == "visual":
            y = block.inner.norm1(attended + layer.beside[0])
            expected = block.inner.norm2(y + block.mlp(y) + layer.beside[1])
        else:
            # Atomic: attention and MLP run back to back, what parts add comes behind both.
            y = block.inner.norm1(attended)
            expected = block.inner.norm2(y + block.mlp(y)) + layer.beside[0] + layer.beside[1]
        close(found[stream], expected)


def test_parts_of_every_kind_train_on_it() -> None:
    prompts: dict[str, Any] = {"rows": Rows, "carries": Carries, "adds": Adds}
    model = make_model(ToyBackbones(), "toy_post_norm", prompts=prompts, fusions={"mixes": Mixes}).train()
    batch = make_batch(model)
    before = digest(model.towers)
    model.loss(model(batch), batch).backward()
    assert all(parameter.grad is not None for part in model.parts.values() for parameter in part.parameters())
    assert digest(model.towers) == before
    plain = make()
    batch = make_batch(plain)
    assert torch.equal(plain.features(batch).stream("audio").tokens, plain.plain("audio", batch).tokens)
