"""A fusion within the blocks: both streams stand before the same frozen map at the same time."""

import math
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.errors import AVCoreError
from avcore.injection import Edit, FusionLayer, PairLayout, PromptLayer
from avcore.testing.backbones import ToyBackbones
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_batch, make_model

MAPS = ("qkv", "proj", "fc1", "fc2")


class ReadsTheOther(FusionLayer):
    """Each stream adds a map of what the other one's attention mixed, before its own output map."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.to_visual = nn.Linear(pair.audio.width, pair.visual.width)
        self.to_audio = nn.Linear(pair.visual.width, pair.audio.width)

    def projection(self, name: str, visual: Tensor, audio: Tensor, at: Any) -> tuple[Tensor | None, Tensor | None]:
        if name != "proj":
            return None, None
        return self.to_visual(audio), self.to_audio(visual)


class Watches(FusionLayer):
    SEEN: ClassVar[list[tuple[str, tuple[int, ...], tuple[int, ...]]]] = []

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def projection(self, name: str, visual: Tensor, audio: Tensor, at: Any) -> tuple[Tensor | None, Tensor | None]:
        Watches.SEEN.append((name, tuple(visual.shape), tuple(audio.shape)))
        assert at.T == 2
        return (visual.mean() * self.scale).expand(1, 1, 1) if name == "fc1" else None, None


class RowsAndCarry(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(3, block.width))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.rows, carry=self.rows[:2] if at.carried is None else at.lift(at.carried))


class LoRA(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.map = nn.Linear(block.width, block.width)

    def projection(self, name: str, x: Tensor) -> Tensor | None:
        return self.map(x) if name == "proj" else None


def halves(block: Any, x: Tensor) -> Tensor:
    """What a plain toy's attention mixes, before its output map."""
    inner = block.inner
    q, k, v = (part.unflatten(-1, (inner.heads, -1)).transpose(1, 2) for part in inner.qkv(inner.norm1(x)).chunk(3, -1))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_each_stream_reads_what_the_others_attention_mixed() -> None:
    model = make_model(ToyBackbones(), "toy_plain", fusions={"cola": ReadsTheOther}).double()
    step, x = model.steps[1], tokens_for(model, 1)
    layer: Any = model.parts["cola"].layers["1"]
    mixed = {stream: halves(step.blocks[stream], x[stream]) for stream in x}
    wanted = {}
    for stream, other, across in (("visual", "audio", layer.to_visual), ("audio", "visual", layer.to_audio)):
        block: Any = step.blocks[stream]
        y = x[stream] + block.inner.proj(mixed[stream]) + across(mixed[other])
        wanted[stream] = y + block.mlp(y)
    found = step(dict(x), {})[0]
    for stream in x:
        torch.testing.assert_close(found[stream], wanted[stream], rtol=0, atol=1e-12)


class ReadsTheTokens(FusionLayer):
    """Each stream adds to its maps what the other one's tokens were before the norm of the sub-layer."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def projection(self, name: str, visual: Tensor, audio: Tensor, at: Any) -> tuple[Tensor | None, Tensor | None]:
        if name not in ("proj", "fc2"):
            return None, None
        heard = at.audio.tokens.mean((1, 2)).view(-1, *[1] * (visual.dim() - 1))
        return self.scale * heard.expand(*visual.shape[:-1], 1), None


def test_at_a_map_stand_the_tokens_that_the_sub_layer_began_with() -> None:
    model = make_model(ToyBackbones(), "toy_plain", fusions={"reads": ReadsTheTokens}).double()
    step, x = model.steps[1], tokens_for(model, 1)
    visual, audio = step.blocks["visual"], step.blocks["audio"]
    heard = x["audio"] + audio.attention(x["audio"])[0]
    expected = x["visual"] + visual.attention(x["visual"])[0] + x["audio"].mean((1, 2), keepdim=True)
    expected = expected + visual.mlp(expected) + heard.mean((1, 2), keepdim=True)
    torch.testing.assert_close(step(dict(x), {})[0]["visual"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prompts", [{}, {"rows": RowsAndCarry}, {"lora": LoRA, "rows": RowsAndCarry}], ids=str)
@pytest.mark.parametrize("backbone", ["toy_plain", "toy_windowed"])
def test_nothing_added_changes_nothing(backbone: str, prompts: dict[str, Any]) -> None:
    bare = make_model(ToyBackbones(), backbone, prompts=prompts)
    watched = make_model(ToyBackbones(), backbone, prompts=prompts, fusions={"watch": Watches})
    Watches.SEEN.clear()
    batch = make_batch(bare)
    before, after = bare.features(batch), watched.features(batch)
    for stream in ("visual", "audio"):
        assert torch.equal(before.stream(stream).tokens, after.stream(stream).tokens)
    depth = watched.streams["visual"].layout.depth
    assert [name for name, _, _ in Watches.SEEN] == list(MAPS) * depth
    blocks = watched.streams["visual"].layout.blocks
    for (name, visual, audio), index in zip(Watches.SEEN, range(4 * depth), strict=True):
        block = blocks[index // 4]
        assert visual[0] == audio[0] == 4
        # Carried rows and prompt rows are invisible.
        assert math.prod(visual[1:-1]) == math.prod(audio[1:-1]) == block.tokens, (name, visual, audio)


def test_gradients_reach_it_and_it_compiles() -> None:
    model = make_model(ToyBackbones(), "toy_plain", fusions={"cola": ReadsTheOther})
    batch = make_batch(model)
    features = model.train().features(batch)
    sum(features.stream(stream).pooled.square().mean() for stream in ("visual", "audio")).backward()
    assert all(parameter.grad is not None for parameter in model.parts["cola"].parameters())
    x = tokens_for(model, 0)
    expected, found = model.steps[0](dict(x), {})[0], capture(model.steps[0], x).output[0]
    for stream in x:
        torch.testing.assert_close(found[stream], expected[stream])


def test_atomic_audio_is_refused() -> None:
    with pytest.raises(AVCoreError, match=r"'cola' acts within both MLPs at once.*plan\.atomic_audio"):
        make_model(ToyBackbones(), "toy_plain", fusions={"cola": ReadsTheOther}, sets=["plan.atomic_audio=true"])
