"""Whole models on Swin Transformers: parts at their sites, both streams on one trunk, compiled steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore.backbones import digest
from avcore.injection import BlockView, Edit, Prompt, PromptLayer
from avcore.model import AVModel
from avcore.specs import STREAMS, BlockLayout, StreamLayout
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_batch

Make = Callable[..., AVModel]
DEPTH = 8


class Rows(PromptLayer):
    """Fresh rows in every block."""

    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(3, block.width))

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(rows=self.rows)


class OverTime(Rows):
    """A pass of the frozen attention over time, and one in its own windows."""

    def before_attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        over_time = at.attend(at.over_time(x_MND), rows=self.rows, row_bias=7.0)
        return Edit(add=at.from_time(over_time) + at.attend(x_MND, windowed=True))


class Carry(PromptLayer):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(carry=at.part.rows if at.carried is None else at.lift(at.carried))


class Shallow(Prompt):
    """Rows of the first width, carried through all stages (VPT-shallow)."""

    def __init__(self, config: Any, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.rows = nn.Parameter(torch.randn(2, stream.stages[0].width))

    def layer(self, block: BlockLayout) -> PromptLayer:
        return Carry()


def test_without_parts_the_forward_is_the_plain_backbone(family: str, swin_model: Make) -> None:
    model = swin_model(family)
    data = make_batch(model)
    features = model.features(data)
    for stream in STREAMS:
        found, plain = features.stream(stream), model.plain(stream, data)
        assert torch.equal(found.tokens, plain.tokens)
        assert [one.shape for one in found.maps] == [(4, 16 * 2**s, 16 // 2**s, 16 // 2**s) for s in range(4)]
        assert all(torch.equal(one, other) for one, other in zip(found.maps, plain.maps, strict=True))
    assert model.towers["visual"].trunk is model.towers["audio"].trunk


@pytest.mark.parametrize("prompt", [Rows, OverTime, Shallow])
def test_parts_train_and_the_backbone_stays(family: str, swin_model: Make, prompt: Any) -> None:
    model = swin_model(family, prompts={"mine": prompt}).train()
    own = [parameter for part in model.parts.values() for parameter in part.parameters()]
    assert len(own) == (2 if prompt is Shallow else 2 * DEPTH)
    optimiser = torch.optim.SGD(own, lr=1.0)
    data = make_batch(model)
    model.loss(model(data), data).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in own)
    optimiser.step()
    assert digest(model.towers) == model.backbone_digest
    assert not any(module.training for tower in model.towers.values() for module in tower.modules())


def test_a_trunk_stored_in_bfloat16_recomputes_its_tables(family: str, swin_model: Make) -> None:
    model = swin_model(family, prompts={"mine": Rows})
    data = make_batch(model)
    exact = model(data)["logits"]
    model.towers.to(torch.bfloat16)
    trunk = model.towers["visual"].trunk
    for block in trunk.blocks:
        assert block.tables.bias.dtype == torch.bfloat16
        assert torch.equal(block.tables.bias, block.make_tables().bias)
    with torch.autocast("cpu", torch.bfloat16):
        stored = model(data)
        model.loss(stored, data).backward()
    torch.testing.assert_close(stored["logits"], exact, rtol=0, atol=0.1)


def test_random_weights_have_tables_of_their_own_with_the_masks_in_place(family: str, swin_model: Make) -> None:
    models = (swin_model(family, sets=(f"frozen={frozen}",)) for frozen in ("pretrained", "random"))
    first, second = (model.towers["visual"].trunk for model in models)
    for block, shuffled in zip(first.blocks, second.blocks, strict=True):
        assert torch.equal(shuffled.tables.bias, shuffled.make_tables().bias)
        assert not torch.equal(shuffled.tables.bias, block.tables.bias)
        assert torch.equal(shuffled.tables.bias < -50, block.tables.bias < -50)


@pytest.mark.parametrize("prompt", [Rows, OverTime, Shallow])
@pytest.mark.parametrize("index", [0, 1, 4])
def test_a_pair_compiles_with_equal_results(family: str, swin_model: Make, prompt: Any, index: int) -> None:
    model = swin_model(family, prompts={"mine": prompt})
    x = tokens_for(model, index)
    carried = {}
    if prompt is Shallow and index:
        before = model.towers["visual"].layout.blocks[index - 1].width
        carried = {("mine", stream): torch.randn(4, 2, before) for stream in STREAMS}
    found = capture(model.steps[index], x, carried).output
    expected = model.steps[index](dict(x), dict(carried))
    for stream in STREAMS:
        torch.testing.assert_close(found[0][stream], expected[0][stream])
    assert found[1].keys() == expected[1].keys()


def test_equal_blocks_share_a_graph(family: str, swin_model: Make) -> None:
    model = swin_model(family, prompts={"mine": Rows}, streams="visual")
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    seen = []
    for index in (0, 1, 4, 5, 6):
        torch.compile(model.steps[index], fullgraph=True, dynamic=False, backend=keep)(tokens_for(model, index), {})
        seen.append(len(graphs))
    # Windows, shifted windows, then three blocks of one window each.
    assert seen == [1, 2, 3, 3, 3]
