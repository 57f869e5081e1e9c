"""The forward of whole models: plain equality, symmetry of the streams, the graph, what is saved."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avcore_timm
from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import RunConfig, resolve_config
from avcore.errors import AVCoreError
from avcore.injection import BlockView, Edit, Edits, Fusion, FusionLayer, PairLayout, PairView, Prompt, PromptLayer
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BlockLayout, StreamLayout
from avcore.states import load_trainable_state, parameter_groups, trainable_state
from avcore.tasks import Batch, Features
from avcore.testing.toys import ToyPlugin

WIDTH = 64  # of timm's test_vit


class RowLayer(PromptLayer):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width))

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(rows=self.rows)


class LateRows(Prompt):
    def layer(self, block: BlockLayout) -> PromptLayer | None:
        return RowLayer(None, block) if block.from_end <= 2 else None


class Shift(Prompt):
    def __init__(self, config: Any, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.shift = nn.Parameter(torch.randn(stream.stages[0].width))

    def after_embedding(self, x_MND: Tensor, at: Any) -> Tensor:
        return self.shift


class Reader(PromptLayer):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.map = nn.Linear(block.width, 2)

    def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor]:
        return {"side": self.map(x_MND.mean(1))}


class Unreached(RowLayer):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__(config, block)
        self.idle = nn.Parameter(torch.zeros(1))


class MeetLayer(FusionLayer):
    def __init__(self, pair: PairLayout) -> None:
        super().__init__()
        self.visual = nn.Parameter(torch.randn(pair.visual.width))
        self.audio = nn.Parameter(torch.randn(pair.audio.width))

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        return Edits(
            visual=Edit(add=audio_MND.mean(1, keepdim=True) * self.visual),
            audio=Edit(add=visual_MND.mean(1, keepdim=True) * self.audio),
        )


class Meet(Fusion):
    def layer(self, pair: PairLayout) -> FusionLayer | None:
        return MeetLayer(pair)

    def losses(self, features: Features) -> dict[str, Tensor]:
        return {"near": (features.stream("visual").pooled - features.stream("audio").pooled).square().mean()}


class Mean(Fusion):
    def finish(self, features: Features) -> Features:
        return features


PROMPTS = {"rows": RowLayer, "late": LateRows, "shift": Shift, "reader": Reader, "unreached": Unreached}


@pytest.fixture(scope="module")
def registry() -> Registry:
    plugin = ToyPlugin(prompts=PROMPTS, fusions={"meet": Meet})
    return Registry.from_modules({"avcore-timm": avcore_timm, "toy": plugin})


def resolve(registry: Registry, **options: Any) -> RunConfig:
    resolved = resolve_config(
        registry,
        **{"task": "toy", "prompts": "none", "fusions": "none", "visual": "test_vit", "need_data": False, **options},
    )
    return resolved.config


def make(registry: Registry, prompts: str = "none", fusions: str = "none", **options: Any) -> AVModel:
    sets = ("data.dataset=toy-data", "visual.weights=random", "audio.frames=48", "audio.mel_bins=32")
    return assemble(resolve(registry, prompts=prompts, fusions=fusions, sets=sets, **options), registry).eval()


def batch(model: AVModel, clips: int = 2) -> Batch:
    torch.manual_seed(1)
    return Batch(
        frames=torch.randint(0, 256, (clips, 2, 3, 160, 160), dtype=torch.uint8),
        waveform=torch.randint(-9999, 9999, (clips, 32000), dtype=torch.int16),
        targets={},
        names=[str(index) for index in range(clips)],
        samples=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )


def test_without_parts_the_forward_is_the_plain_backbone_bit_for_bit(registry: Registry) -> None:
    model = make(registry)
    data = batch(model)
    features = model.features(data)
    for stream in ("visual", "audio"):
        plain = model.plain(stream, data)
        assert torch.equal(features.stream(stream).tokens, plain.tokens)
        assert torch.equal(features.stream(stream).pooled, plain.pooled)
        for tapped, expected in zip(features.stream(stream).maps, plain.maps, strict=True):
            assert torch.equal(tapped, expected)
    assert features.stream("visual").pooled.shape == (2, 2, WIDTH)
    assert [tuple(x.shape) for x in features.stream("audio").maps] == [(4, WIDTH, 3, 2)] * 4


def test_exchanging_streams_and_parameters_exchanges_the_outputs(registry: Registry) -> None:
    model = make(registry, "rows+shift", "meet")
    data = batch(model)
    images = model.front_ends(data)
    # Equal embeddings: both towers take tokens as they are.
    tokens = {"visual": torch.randn(4, 9, WIDTH), "audio": torch.randn(4, 5, WIDTH)}

    def outputs(given: Mapping[str, Tensor]) -> Features:
        for stream, tower in model.towers.items():
            tower.embed = lambda image, stream=stream: given[stream]  # type: ignore[method-assign]
            tower.map = lambda x, stage: x  # type: ignore[method-assign]
        return model.features(data)

    assert set(images) == {"visual", "audio"}
    before = outputs(tokens)
    parts = model.parts
    exchanged = {**trainable_state(model)}
    for key, value in list(exchanged.items()):
        other = key.replace("visual", "#").replace("audio", "visual").replace("#", "audio")
        exchanged[other] = value.clone()
    load_trainable_state(model, exchanged)
    after = outputs({"visual": tokens["audio"], "audio": tokens["visual"]})
    assert torch.equal(before.stream("visual").tokens, after.stream("audio").tokens)
    assert torch.equal(before.stream("audio").tokens, after.stream("visual").tokens)
    assert len(parts) == 5


def test_the_batch_order_does_not_matter(registry: Registry) -> None:
    model = make(registry, "rows", "meet")
    data = batch(model)
    flipped = Batch(
        frames=data.frames.flip(0),
        waveform=data.waveform.flip(0),
        targets={},
        names=data.names,
        samples=data.samples.flip(0),
        valid=data.valid,
    )  # type: ignore[union-attr]
    torch.testing.assert_close(model(flipped)["logits"].flip(0), model(data)["logits"], rtol=1e-4, atol=1e-5)


def test_one_stream_runs_alone(registry: Registry) -> None:
    model = make(registry, "rows", streams="audio")
    assert model.image is None
    data = batch(model)
    data.frames = None
    assert model(data)["logits"].shape == (2, 2, 3)
    with pytest.raises(AVCoreError, match="needs both streams"):
        make(registry, "rows", "meet", streams="audio")


def test_a_prompt_may_be_put_into_one_stream(registry: Registry) -> None:
    config = resolve(registry, prompts="rows", sets=("data.dataset=toy-data", "parts.rows.streams=audio"))
    assert list(assemble(config, registry, meta=True).parts) == ["rows.audio"]


def test_gradients_exist_only_above_the_first_trainable_part(registry: Registry) -> None:
    model = make(registry, "late")
    seen = []
    for index, step in enumerate(model.steps):
        block = step.blocks["visual"]
        original = block.mlp
        block.mlp = lambda x, project=None, original=original, index=index: (  # type: ignore[method-assign]
            seen.append((index, x.requires_grad)),
            original(x, project=project),
        )[1]
    model.loss(model(batch(model)), batch(model)).backward()
    assert {index for index, grad in seen if grad} == {4, 5}  # by either stream: they share the trunk
    assert all(parameter.grad is not None for _, parameter in parameter_groups(model)["parts"])
    assert all(parameter.grad is None for parameter in model.towers.parameters())


def test_the_backbones_have_no_graph_where_every_part_only_reads(registry: Registry) -> None:
    model = make(registry, "reader")
    features = model.features(batch(model))
    assert not features.stream("visual").tokens.requires_grad
    assert len(features.offers["reader.visual.side"]) == 6
    assert all(offer.requires_grad for offer in features.offers["reader.visual.side"])


def test_parameters_without_a_gradient_are_refused_by_name(registry: Registry) -> None:
    with pytest.raises(
        AVCoreError, match=r"12 trainable parameters would get no gradient: unreached\.visual\.layers\.0\.idle"
    ):
        make(registry, "unreached")


def test_what_is_saved_is_what_trains(registry: Registry) -> None:
    model = make(registry, "rows+shift", "meet")
    names = list(trainable_state(model))
    groups = parameter_groups(model)
    assert names == [name for group in groups.values() for name, _ in group]
    assert "rows.visual.layers.0.rows" in names
    assert "meet.layers.5.audio" in names
    assert {name for name, _ in groups["head"]} == {"head.map.weight", "head.map.bias"}
    state = {name: torch.randn_like(tensor) for name, tensor in trainable_state(model).items()}
    other = make(registry, "rows+shift", "meet")
    load_trainable_state(other, state)
    assert all(torch.equal(trainable_state(other)[name], state[name]) for name in names)


def test_a_state_that_does_not_fit_is_refused_by_key(registry: Registry) -> None:
    model = make(registry, "rows")
    state = dict(trainable_state(model))
    state["rows.visual.layers.0.row"] = state.pop("rows.visual.layers.0.rows")
    state["head.map.bias"] = torch.zeros(7)
    with pytest.raises(
        AVCoreError, match=r"missing rows\.visual\.layers\.0\.rows; unexpected rows\.visual\.layers\.0\.row; head"
    ):
        load_trainable_state(model, state)


def test_frozen_weights_keep_digest_and_mode_through_training(registry: Registry) -> None:
    model = make(registry, "rows", "meet").train()
    before = digest(model.towers)
    assert not any(module.training for tower in model.towers.values() for module in tower.modules())
    optimiser = torch.optim.Adam([p for group in parameter_groups(model).values() for _, p in group], lr=0.1)
    model.loss(model(batch(model)), batch(model)).backward()
    optimiser.step()
    assert digest(model.towers) == before == model.backbone_digest


def test_losses_of_head_and_parts_are_named_and_summed(registry: Registry) -> None:
    model = make(registry, "rows", "meet")
    data = batch(model)
    out = model(data)
    terms = model.losses(out, data)
    assert set(terms) == {"square", "meet.near"}
    torch.testing.assert_close(model.loss(out, data), terms["square"] + terms["meet.near"])
    assert model.predict(out)["classes"].shape == (2, 2)


def test_equal_seeds_make_equal_models(registry: Registry) -> None:
    first, second = make(registry, "rows"), make(registry, "rows")
    other = make(registry, "rows", options={"seed": 1})
    key = "rows.audio.layers.3.rows"
    assert torch.equal(trainable_state(first)[key], trainable_state(second)[key])
    assert not torch.equal(trainable_state(first)[key], trainable_state(other)[key])


def test_streams_share_a_trunk_or_have_their_own(registry: Registry) -> None:
    shared = make(registry)
    config = resolve(registry, audio="vit_tiny_patch16_224", sets=("data.dataset=toy-data",))
    separate = assemble(config, registry, meta=True)
    assert shared.towers["visual"].trunk is shared.towers["audio"].trunk  # type: ignore[union-attr]
    assert separate.towers["audio"].layout.width == 192
    assert [entry.paired for entry in separate.plan].count(True) == 6
    assert len(separate.plan) == 12


def test_bf16_storage_leaves_what_trains_alone(registry: Registry) -> None:
    model = make(registry, "rows", "meet")
    model.towers.to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.towers.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for group in parameter_groups(model).values() for _, parameter in group} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(batch(model))
    out = model(batch(model))  # the model knows its precision by itself
    assert all(torch.equal(out[name], value) for name, value in expected.values.items())
    model.loss(out, batch(model)).backward()
    assert torch.isfinite(model.features(batch(model)).stream("visual").pooled).all()
    assert model.plain("audio", batch(model)).pooled.dtype == torch.bfloat16
    assert all(parameter.grad is not None for _, parameter in parameter_groups(model)["parts"])
