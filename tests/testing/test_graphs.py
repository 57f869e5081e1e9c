"""A pair of blocks compiles to one graph, and a site without a part has no node in it."""

import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avcore_timm
from avcore.injection import BlockView, Edit, Edits, Fusion, FusionLayer, PairLayout, PairView, Prompt, PromptLayer
from avcore.model import AVModel
from avcore.specs import BlockLayout
from avcore.testing.graphs import Captured, capture, tokens_for
from avcore.testing.toys import make_model

SETS = ("audio.frames=48", "audio.mel_bins=32")
LAST = 5  # of test_vit's six blocks


def make(prompt: type[PromptLayer] | type[Prompt] | None = None, fusion: type[Fusion] | None = None) -> AVModel:
    torch.manual_seed(0)
    return make_model(
        avcore_timm,
        "test_vit",
        prompts={"mine": prompt} if prompt else None,
        fusions={"ours": fusion} if fusion else None,
        sets=SETS,
        on_meta_first=False,
    )


def captured(model: AVModel, index: int = LAST) -> Captured:
    return capture(model.steps[index], tokens_for(model, index))


class Made(PromptLayer):
    """Owns two rows of the block's width."""

    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width))


class Adds(Made):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=x_MND * self.rows[0])


class Rows(Made):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(rows=self.rows, row_bias=0.5)


class Carries(Made):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(carry=self.rows if at.carried is None else at.carried + self.rows)


class Prefix(Made):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(kv=(self.rows, self.rows), offer={"mean": x_MND.mean(1)})


class Before(Made):
    def before_attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=x_MND * self.rows[0])


class OverTime(Made):
    def before_mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=at.from_time(at.attend(at.over_time(x_MND), kv=(self.rows, self.rows))))


class AttentionOutput(Made):
    def attention_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        return out_MND * self.rows[0]


class Mlp(Made):
    def mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=x_MND * self.rows[0])


class MlpOutput(Made):
    def mlp_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        return out_MND * self.rows[0]


class Projection(Made):
    def projection(self, name: str, x: Tensor) -> Tensor | None:
        return x * self.rows[0] if name == "proj" else None


class Reads(Made):
    def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor]:
        return {"seen": x_MND @ self.rows.T}


SITES = (Adds, Rows, Carries, Prefix, Before, OverTime, AttentionOutput, Mlp, MlpOutput, Projection, Reads)


class Joint(FusionLayer):
    def __init__(self, pair: PairLayout) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(pair.visual.width))

    def before_mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        out = at.visual.attend(torch.cat([visual_MND, audio_MND], dim=1)) * self.scale
        visual, audio = out.split([visual_MND.shape[1], audio_MND.shape[1]], dim=1)
        return Edits(visual=Edit(add=visual), audio=Edit(add=audio))

    def mlp_output(
        self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
    ) -> tuple[Tensor, Tensor]:
        return out_visual + out_audio.mean(1, keepdim=True), out_audio * self.scale


class Late(Fusion):
    def layer(self, pair: PairLayout) -> FusionLayer | None:
        return Joint(pair) if pair.from_end == 1 else None


@pytest.fixture(scope="module")
def bare() -> Captured:
    """The last pair of a model without any part."""
    return captured(make())


def assert_equal(model: AVModel, found: Captured, index: int = LAST) -> None:
    streams, carried, offers = model.steps[index](tokens_for(model, index), {})
    for key, value in [*streams.items(), *carried.items()]:
        torch.testing.assert_close({**found.output[0], **found.output[1]}[key], value)
    assert [told[:2] for told in found.output[2]] == [told[:2] for told in offers]
    for (*_, mine), (*_, expected) in zip(found.output[2], offers, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("layer", SITES, ids=lambda layer: layer.__name__)
def test_a_layer_at_any_site_compiles_to_one_graph_and_where_it_is_not_there_is_no_node_for_it(
    layer: type[PromptLayer], bare: Captured
) -> None:
    class InTheLast(Prompt):
        def layer(self, block: BlockLayout) -> PromptLayer | None:
            return layer(None, block) if block.from_end == 1 else None

    model = make(InTheLast)
    found = captured(model, LAST)
    assert found.nodes > bare.nodes
    assert_equal(model, found)
    assert captured(model, LAST - 1).nodes == bare.nodes


def test_a_fusion_compiles_and_costs_nothing_elsewhere(bare: Captured) -> None:
    model = make(fusion=Late)
    found = captured(model)
    assert found.nodes > bare.nodes
    assert_equal(model, found)
    assert captured(model, 0).nodes == bare.nodes


def test_carried_rows_come_in_and_go_out_of_a_graph() -> None:
    model = make(Carries)
    sent = captured(model, 0).output[1]
    found = capture(model.steps[1], tokens_for(model, 1), sent)
    expected = model.steps[1](tokens_for(model, 1), sent)
    torch.testing.assert_close(found.output[1][("mine", "audio")], expected[1][("mine", "audio")])


def test_gradients_pass_through_a_compiled_step() -> None:
    model = make(Rows)
    rows = model.parts["mine.visual"].layers[str(LAST)].rows
    captured(model).output[0]["visual"].square().sum().backward()
    compiled, rows.grad = rows.grad, None
    model.steps[LAST](tokens_for(model, LAST), {})[0]["visual"].square().sum().backward()
    torch.testing.assert_close(compiled, rows.grad)


def test_a_step_that_breaks_the_graph_is_an_error() -> None:
    class Breaks(Made):
        def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
            if float(x_MND.sum()) > 0:
                return Edit(rows=self.rows)
            return Edit(rows=self.rows * 2)

    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        captured(make(Breaks))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler for inductor")
def test_the_default_backend_computes_the_same() -> None:
    model = make(Rows)
    torch._dynamo.reset()
    made = torch.compile(model.steps[LAST], fullgraph=True)(tokens_for(model, LAST), {})[0]
    expected = model.steps[LAST](tokens_for(model, LAST), {})[0]
    for stream in ("visual", "audio"):
        torch.testing.assert_close(made[stream], expected[stream], rtol=1e-4, atol=1e-5)
