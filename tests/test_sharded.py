"""Blocks are called: hooks on each fire, with parts and without, and FSDP2 shards by them."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import avcore_timm
from avcore.backbones import Block
from avcore.injection import Edit, Edits, Fusion, FusionLayer, PromptLayer
from avcore.model import AVModel
from avcore.specs import STREAMS
from avcore.testing import ToyBackbones, make_batch, make_model

Make = Callable[..., AVModel]


class Everywhere(PromptLayer):
    """Acts at a map, beside the attention, and by the frozen attention itself, over time."""

    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width) * 0.1)
        self.map = nn.Linear(block.width, block.width)

    def before_attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(add=at.from_time(at.attend(at.over_time(x_MND), rows=self.rows)))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.rows, carry=self.rows if at.carried is None else at.lift(at.carried))

    def projection(self, name: str, x: Tensor) -> Tensor | None:
        increment: Tensor | None = self.map(x) if name == "proj" else None
        return increment


class Within(FusionLayer):
    """Both streams meet within their attention."""

    def __init__(self, config: Any, pair: Any) -> None:
        super().__init__()
        self.to_audio = nn.Linear(pair.visual.width, pair.audio.width)
        self.to_visual = nn.Linear(pair.audio.width, pair.visual.width)

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: Any) -> Edits:
        return Edits(visual=Edit(add=self.to_visual(audio_MND.mean(1, keepdim=True))))

    def projection(self, name: str, visual: Tensor, audio: Tensor, at: Any) -> tuple[Tensor | None, Tensor | None]:
        if name != "proj":
            return None, None
        seen = visual.flatten(1, -2).mean(1)
        return None, self.to_audio(seen).reshape(len(seen), *[1] * (audio.dim() - 2), -1)


class Norms(Fusion):
    """Trains the norms within the blocks of both streams."""

    def backbone_parts(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(STREAMS, ("*norm*",))


PARTS: dict[str, dict[str, Any]] = {
    "no parts": {},
    "a prompt": {"prompts": {"every": Everywhere}},
    "a prompt and a fusion": {"prompts": {"every": Everywhere}, "fusions": {"within": Within}},
    "trained norms": {"fusions": {"norms": Norms}},
}


@pytest.fixture
def process_group() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("backbone", ["toy_plain", "toy_windowed"])
def test_sharded_by_blocks_it_gives_the_same(process_group: None, backbone: str, parts: str) -> None:
    model = make_model(ToyBackbones(), backbone, on_meta_first=False, **PARTS[parts]).train()
    sharded = copy.deepcopy(model)
    for block in blocks(sharded):
        fully_shard(block)
    fully_shard(sharded)
    frozen = next(block for block in blocks(sharded)).inner.qkv.weight  # type: ignore[operator, union-attr]
    assert isinstance(frozen, torch.distributed.tensor.DTensor)
    batch = make_batch(model)
    outs = []
    for one in (model, sharded):
        out = one(batch)
        one.loss(out, batch).backward()
        outs.append(out)
    for name, tensor in outs[0].values.items():
        assert torch.equal(tensor, outs[1].values[name])
    for stream in ("visual", "audio"):
        assert torch.equal(outs[0].features.stream(stream).tokens, outs[1].features.stream(stream).tokens)
    pairs = zip(model.named_parameters(), sharded.named_parameters(), strict=True)
    trained = [(name, own.grad, other.grad) for (name, own), (_, other) in pairs if own.requires_grad]
    assert trained
    for name, own, other in trained:
        assert own is not None, name
        assert isinstance(other, torch.distributed.tensor.DTensor), name
        assert torch.equal(own, other.full_tensor()), name


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(
    ("visual", "audio"),
    [("test_vit", None), ("test_swin", None), ("test_swinv2", None), ("test_swin", "test_htsat")],
    ids=str,
)
def test_hooks_on_every_block_fire(visual: str, audio: str | None, parts: str) -> None:
    sets = (f"audio.backbone={audio}", "audio.weights=random") if audio else ()
    model = make_model(avcore_timm, visual, sets=sets, on_meta_first=False, **PARTS[parts])
    calls: Counter[Block] = Counter()
    for block in blocks(model):
        # Of a block in which trained norms stand, the hooks of the frozen one fire.
        block.register_forward_hook(lambda module, given, out, block=block: calls.update([block]))
    batch = make_batch(model)
    model(batch)
    # A shared block is called once by its pair, however many streams run through it.
    assert calls == Counter(blocks(model))
    calls.clear()
    model.plain("visual", batch)
    assert calls == Counter(block for block in blocks(model.clips["visual"]))


@pytest.mark.parametrize("backbone", ["toy_plain", "toy_windowed"])
def test_weights_stand_once_below_their_block(backbone: str) -> None:
    model = make_model(ToyBackbones(), backbone, on_meta_first=False)
    tower = model.clips["visual"].tower
    for index in range(tower.layout.depth):
        assert tower.block(index) is tower.block(index) is model.clips["audio"].tower.block(index)
        assert tower.block(index) is model.steps[index].blocks["visual"]
    assert len(blocks(model)) == tower.layout.depth
    weights = [id(tensor) for tensor in tower.weights().values()]
    assert len(weights) == len(set(weights))


def test_a_deep_copy_calls_its_own_layers() -> None:
    model = make_model(ToyBackbones(), "toy_plain", on_meta_first=False, **PARTS["a prompt and a fusion"])
    batch = make_batch(model)
    before = model.features(batch).stream("audio").tokens
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin.features(batch).stream("audio").tokens, before)
    loss = twin.loss(twin(batch), batch)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in twin.parameters() if parameter.requires_grad)
