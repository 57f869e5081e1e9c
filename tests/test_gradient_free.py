"""Gradients exist only above the first trainable part; where every part only reads, the backbones have no graph."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import avcore_timm
from avcore.injection import BlockView, Edit, Edits, Fusion, FusionLayer, PairLayout, PairView, Prompt, PromptLayer
from avcore.model import AVModel
from avcore.specs import STREAMS, BlockLayout, StreamLayout
from avcore.states import parameter_groups
from avcore.tasks import Features
from avcore.testing.toys import make_batch, make_model

SETS = ("audio.frames=48", "audio.mel_bins=32")
DEPTH = 6  # of test_vit


class RowLayer(PromptLayer):
    def __init__(self, block: BlockLayout) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width))

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(rows=self.rows)


class RowsInTheLast(Prompt):
    def layer(self, block: BlockLayout) -> PromptLayer | None:
        return RowLayer(block) if block.from_end == 1 else None


class MeetLayer(FusionLayer):
    def __init__(self, pair: PairLayout) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(pair.audio.width))

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        return Edits(visual=Edit(add=audio_MND.mean(1, keepdim=True) * self.scale))


class MeetInThird(Fusion):
    def layer(self, pair: PairLayout) -> FusionLayer | None:
        return MeetLayer(pair) if pair.index == 3 else None


class SideLayer(PromptLayer):
    def __init__(self, block: BlockLayout) -> None:
        super().__init__()
        self.map = nn.Linear(block.width, 4)

    def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor]:
        return {"side": self.map(x_MND).relu().mean(1)}


class SideNetwork(Prompt):
    """Reads every second block; what it read becomes a loss."""

    def __init__(self, config: Any, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.join = nn.Linear(4, stream.width)

    def layer(self, block: BlockLayout) -> PromptLayer | None:
        return SideLayer(block) if block.index % 2 else None

    def losses(self, features: Features) -> dict[str, Tensor]:
        read = [tensor for name, found in features.offers.items() if name.startswith("side.") for tensor in found]
        return {"size": self.join(torch.stack(read).mean(0)).square().mean()}


class ReadsBoth(Fusion):
    def layer(self, pair: PairLayout) -> FusionLayer | None:
        return PairReader(pair)


class PairReader(FusionLayer):
    def __init__(self, pair: PairLayout) -> None:
        super().__init__()
        self.map = nn.Linear(pair.visual.width + pair.audio.width, 4)

    def read(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Mapping[str, Tensor]:
        return {"pair": self.map(torch.cat([visual_MND.mean(1), audio_MND.mean(1)], -1))}


class Watched:
    """Counts what autograd keeps while the frozen blocks run, and notes what they are given."""

    def __init__(self, model: AVModel) -> None:
        self.model = model
        self.kept: dict[tuple[int, str], int] = {}
        self.tokens: dict[tuple[int, str], Tensor] = {}
        self._inside: tuple[int, str] | None = None
        for index, step in enumerate(model.steps):
            for block in dict.fromkeys(step.blocks.values()):
                self._watch(block, [(index, stream) for stream, own in step.blocks.items() if own is block])

    def _watch(self, block: Any, keys: list[tuple[int, str]]) -> None:
        for name in ("attention", "mlp"):
            original = getattr(block, name)
            # The streams that share a block take turns.
            turns = itertools.cycle(keys)

            def call(x: Tensor, *args: Any, original: Any = original, turns: Any = turns, **kwargs: Any) -> Any:
                key = next(turns)
                self.tokens.setdefault(key, x)
                self._inside = key
                try:
                    return original(x, *args, **kwargs)
                finally:
                    self._inside = None

            setattr(block, name, call)

    def run(self) -> Any:
        def pack(tensor: Tensor) -> Tensor:
            if self._inside is not None:
                self.kept[self._inside] = self.kept.get(self._inside, 0) + 1
            return tensor

        data = make_batch(self.model)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = self.model(data)
        self.model.loss(out, data).backward(retain_graph=True)
        return out


def make(**parts: Any) -> AVModel:
    prompts = {name: part for name, part in parts.items() if issubclass(part, Prompt)}
    fusions = {name: part for name, part in parts.items() if issubclass(part, Fusion)}
    return make_model(avcore_timm, "test_vit", prompts=prompts, fusions=fusions, sets=SETS).train()


def assert_reached(model: AVModel) -> None:
    assert all(parameter.grad is not None for group in parameter_groups(model).values() for _, parameter in group)
    assert all(parameter.grad is None for parameter in model.towers.parameters())


def test_below_a_part_in_the_last_block_nothing_is_kept() -> None:
    watched = Watched(make(rows=RowsInTheLast))
    watched.run()
    assert set(watched.kept) == {(DEPTH - 1, stream) for stream in STREAMS}
    assert len(watched.tokens) == 2 * DEPTH
    for tokens in watched.tokens.values():
        assert not tokens.requires_grad
        assert tokens.grad_fn is None
    assert_reached(watched.model)


def test_a_stream_that_no_part_acts_on_has_no_graph() -> None:
    watched = Watched(make(meet=MeetInThird))
    out = watched.run()
    # The increment is added after the third block's attention: its MLP is the first that keeps something.
    assert set(watched.kept) == {(index, "visual") for index in (3, 4, 5)}
    assert out.features.stream("audio").tokens.grad_fn is None
    assert out.features.stream("visual").tokens.requires_grad
    assert_reached(watched.model)


def test_where_every_part_only_reads_the_backbones_keep_nothing() -> None:
    watched = Watched(make(side=SideNetwork, both=ReadsBoth))
    out = watched.run()
    assert watched.kept == {}
    for stream in STREAMS:
        assert out.features.stream(stream).tokens.grad_fn is None
        assert out.features.stream(stream).pooled.grad_fn is None
    assert len(out.features.offers["both.pair"]) == DEPTH
    assert all(tensor.requires_grad for found in out.features.offers.values() for tensor in found)


def test_a_reading_part_above_an_acting_one_adds_nothing_to_its_graph() -> None:
    alone, both = Watched(make(meet=MeetInThird)), Watched(make(side=SideNetwork, meet=MeetInThird))
    alone.run()
    out = both.run()
    assert both.kept == alone.kept
    (scale,) = (p for name, p in parameter_groups(both.model)["parts"] if name.endswith("scale"))
    losses = both.model.losses(out, make_batch(both.model))
    assert losses["side.visual.size"].requires_grad
    assert torch.autograd.grad(losses["side.visual.size"], scale, allow_unused=True) == (None,)
