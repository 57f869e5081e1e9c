"""STG-CMA: the published counts, the equations, single branches, every setting."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import avcore_ave
import avcore_stgcma
import avcore_timm
from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import Resolved, resolve_config
from avcore.config.recipes import recipes_of
from avcore.errors import AVCoreError
from avcore.injection import PairLayout
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.specs import StageLayout, StreamLayout
from avcore.states import parameter_groups
from avcore.tasks import Batch
from avcore.testing.graphs import capture, tokens_for
from avcore_stgcma.bottleneck import Bottleneck
from avcore_stgcma.fusion import ExchangeLayer
from avcore_stgcma.prompts import BottlenecksLayer, TemporalLayer
from avcore_stgcma.settings import BottleneckSettings, TemporalSettings

Make = Callable[..., AVModel]

# ------------------------------------------------------------------------------------------------- counts and recipes


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.from_modules({"avcore-timm": avcore_timm, "avcore-stgcma": avcore_stgcma, "avcore-ave": avcore_ave})


def resolve(registry: Registry, recipe: str | None, **options: Any) -> Resolved:
    return resolve_config(registry, method="stgcma", task="ave", recipe=recipe, need_data=False, **options)


REMAINDER = {"large": 1_063_965 + 20_480 + 2_048, "base": 801_821 + 15_360 + 1_536}
DEPTH_WIDTH = {"large": (24, 1024), "base": (12, 768)}


@pytest.mark.parametrize(
    ("recipe", "size", "hidden", "millions"),
    [
        ("large-32", "large", 32, "10.676"),
        (None, "large", 64, "20.118"),
        ("large-8", "large", 128, "39.001"),
        ("base-32", "base", 24, "3.530"),
        ("base-16", "base", 48, "6.186"),
        ("base-8", "base", 96, "11.498"),
    ],
)
def test_trainable_parameters_to_the_digit(
    registry: Registry, recipe: str | None, size: str, hidden: int, millions: str
) -> None:
    resolved = resolve(registry, recipe)
    report = count_parameters(assemble(resolved.config, registry, meta=True))
    depth, width = DEPTH_WIDTH[size]
    bottlenecks = 6 * depth * (2 * width * hidden + hidden + width)
    assert report.trainable == bottlenecks + REMAINDER[size] + 2 * depth
    assert f"{report.trainable / 1e6:.3f}" == millions
    assert report.parts["stgcma.temporal"].trainable == bottlenecks // 3
    assert report.parts["stgcma.exchange"].trainable == bottlenecks // 3 * 2 + 2 * depth
    assert report.parts["segment_embedding"].trainable == 2 * 10 * width
    assert report.parts["stgcma.base"].trainable == 2 * width
    assert resolved.recipe is not None
    for row in resolved.recipe.published:
        if row["metric"] == "trainable_M":
            assert round(report.trainable / 1e6, 1) == row["value"]


@pytest.mark.parametrize(
    ("recipe", "width", "ratios", "exact"),
    [
        ("swin-large", 192, (2, 4, 8, 16), 19_026_857),
        ("swin-large-tiny", 192, (8, 8, 16, 16), 11_740_697),
        ("swin-base", 128, (4, 4, 8, 8), 10_068_597),
        ("swin-base-tiny", 128, (8, 8, 16, 16), 5_599_957),
    ],
)
def test_trainable_parameters_on_swin_to_the_digit(
    registry: Registry, recipe: str, width: int, ratios: tuple[int, ...], exact: int
) -> None:
    """Four bottlenecks and two gates in a block; in every other one two bottlenecks and two tables of 19 distances."""
    resolved = resolve(registry, recipe)
    report = count_parameters(assemble(resolved.config, registry, meta=True))
    exchange = temporal = 0
    for stage, (depth, part) in enumerate(zip((2, 2, 18, 2), ratios, strict=True)):
        d, heads = width * 2**stage, width // 32 * 2**stage
        bottleneck = 2 * d * (d // part) + d // part + d
        exchange += depth * (4 * bottleneck + 2)
        temporal += depth // 2 * 2 * (bottleneck + 19 * heads)
    head = 2 * 8 * width * 512 + 512 + 512 * 29 + 29
    assert report.parts["stgcma.temporal"].trainable == temporal
    assert report.parts["stgcma.exchange"].trainable == exchange
    assert report.trainable == exchange + temporal + head == exact
    assert resolved.recipe is not None
    (millions,) = (row["value"] for row in resolved.recipe.published if row["metric"] == "trainable_M")
    assert round(exact / 1e6, 1 if recipe == "swin-large" else 2) == millions


def test_total_of_clip_base_tiny_to_the_digit(registry: Registry) -> None:
    model = assemble(resolve(registry, "base-32").config, registry, meta=True)
    report = count_parameters(model)
    of_sound = sum(buffer.numel() for buffer in model.towers["audio"].buffers(recurse=False))
    assert of_sound == 256 * 768 + 49 * 768
    # The final norm is there twice: frozen, and as the copy that trains.
    assert report.total + of_sound - 2 * 768 == 89_562_101
    assert report.frozen == 85_799_424


def test_a_single_branch_without_bottlenecks_is_the_published_baseline(registry: Registry) -> None:
    config = resolve(registry, None, streams="audio", prompts="segment_embedding+stgcma.base", fusions="none").config
    report = count_parameters(assemble(config, registry, meta=True))
    other_stream = 10 * 1024  # the reference keeps the segment embedding of the stream that does not run
    assert report.trainable + other_stream == 31_773 + 20_480 + 2_048


def test_recipes_are_the_published_settings(registry: Registry) -> None:
    found = [one for one in recipes_of(registry.methods["stgcma"]) if one[0] in ("ave", "ave-weak")]
    swins = {f"swin-{size}{tiny}" for size in ("large", "base") for tiny in ("", "-tiny")}
    clips = {f"{size}-{part}" for size in ("large", "base") for part in (8, 16, 32)} - {"large-16"} | {None}
    assert set(found) == {("ave-weak", None)} | {("ave", variant) for variant in swins | clips}
    for variant in swins | clips:
        config = resolve(registry, variant).config
        on_swin = variant in swins
        of_clip = () if on_swin else ("segment_embedding", "stgcma.base")
        assert config.prompts == (*of_clip, "stgcma.temporal")
        assert config.fusions == ("stgcma.exchange",)
        optim, train, head = config.optim, config.train, config.head.settings
        assert (optim.optimizer, optim.betas, optim.weight_decay) == ("adam", (0.95, 0.999), 5e-7)
        lr = 1e-4 if "swin-base" in (variant or "") else 5e-5
        assert (optim.lr, optim.head_lr, optim.min_lr) == (lr, lr / 10, 2e-6)
        assert (optim.schedule, optim.warmup_epochs, train.epochs, train.batch_size) == ("cosine", 2, 20, 1)
        assert (train.average, train.average_epochs) == ("epochs", (8, 20))
        assert config.audio.settings.patch == "one_channel"
        assert on_swin or config.audio.settings.position == "crop"
        assert config.visual.settings.image_mean == (0.485, 0.456, 0.406)
        assert (head.dropout, head.first, head.loss) == (0.5, "audio", "cross_entropy")
        augment = train.augment
        listed = [*["RandomApply"] * 4, "RandomResizedCrop", "RandomHorizontalFlip", "RandomErasing"]
        assert ([one["name"] for one in augment.visual], augment.audio) == (listed, ())
        assert (augment.mix.p, augment.mix.alpha) == (0.5, 10.0)
        operation = {"name": "RandAugment", "num_ops": 1, "magnitude": 7, "num_magnitude_bins": 11}
        assert all(one == {"name": "RandomApply", "p": 0.5, "transforms": [operation]} for one in augment.visual[:4])
        assert (augment.visual[4]["scale"], augment.visual[6]["p"]) == ([0.08, 1], 0.25)
        if on_swin:
            temporal = config.parts["stgcma.temporal"]
            assert (temporal.every, temporal.position_bias) == (2, True)
            assert temporal.ratio == config.parts["stgcma.exchange"].ratio
            continue
        size, _, part = (variant or "large-16").partition("-")
        assert size in str(config.visual.backbone)
        assert config.parts["stgcma.temporal"].ratio == config.parts["stgcma.exchange"].ratio == 1 / int(part)


# ------------------------------------------------------------------------------------------------------ the equations


def layouts(width: int = 8, tokens: int = 4, depth: int = 3) -> StreamLayout:
    stage = StageLayout(width=width, heads=2, depth=depth, grid=(1, tokens - 1), prefix=1)
    return StreamLayout(stages=(stage,), segments=2, taps=(0,), paired=frozenset(range(depth)))


def noisy(layer: torch.nn.Module) -> None:
    """Leave the zeros of the initialisation."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn_like(parameter) * 0.5


SIDE = SimpleNamespace(windows=lambda x_MND: x_MND, unwindows=lambda x_MND: x_MND)
# What the exchange asks of its surroundings: where blocks have no windows, nothing.
UNWINDOWED = SimpleNamespace(visual=SIDE, audio=SIDE)


def exchange() -> ExchangeLayer:
    visual, audio = layouts(), layouts(tokens=6)
    layer = ExchangeLayer(
        BottleneckSettings(ratio=0.5), PairLayout(visual=visual.blocks[1], audio=audio.blocks[1], index=1, pairs=3)
    )
    noisy(layer)
    return layer


def test_each_stream_has_the_ratio_of_its_own_stage() -> None:
    stages = tuple(StageLayout(width=width, heads=2, depth=1, grid=(2, 2)) for width in (8, 16))
    first, second = StreamLayout(stages=stages, segments=2, taps=(0, 1), paired=frozenset((0, 1))).blocks
    layer = ExchangeLayer(
        BottleneckSettings(ratio=(0.5, 0.25)), PairLayout(visual=second, audio=first, index=0, pairs=1)
    )
    for visual, audio in ((layer.spatial_visual, layer.spatial_audio), (layer.mlp_visual, layer.mlp_audio)):
        assert (visual.down.in_features, visual.down.out_features) == (16, 4)
        assert (audio.down.in_features, audio.down.out_features) == (8, 4)


def by_hand(bottleneck: Bottleneck, other: Bottleneck, gate: Tensor, own_ND: Tensor, other_KD: Tensor) -> Tensor:
    """One direction of the exchange, token by token."""
    gelu = torch.nn.GELU()
    h = [gelu(bottleneck.down.weight @ token + bottleneck.down.bias) for token in own_ND]
    h_other = [gelu(other.down.weight @ token + other.down.bias) for token in other_KD]
    made = []
    for token, vector in zip(own_ND, h, strict=True):
        weights = torch.stack([vector @ each for each in h_other]).exp()
        read = sum(weight * each for weight, each in zip(weights / weights.sum(), h_other, strict=True))
        made.append(token + bottleneck.up.weight @ (vector + gate * read) + bottleneck.up.bias)
    return torch.stack(made)


def test_exchange_is_the_equation_at_both_sites_from_the_old_hidden_vectors() -> None:
    layer = exchange()
    visual, audio = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    for site, bottleneck_v, bottleneck_a in (
        (layer.attention_output, layer.spatial_visual, layer.spatial_audio),
        (layer.mlp_output, layer.mlp_visual, layer.mlp_audio),
    ):
        out_v, out_a = site(visual, audio, torch.zeros(0), torch.zeros(0), UNWINDOWED)  # type: ignore[arg-type]
        for index in range(2):
            expected_v = by_hand(bottleneck_v, bottleneck_a, layer.gate_visual, visual[index], audio[index])
            expected_a = by_hand(bottleneck_a, bottleneck_v, layer.gate_audio, audio[index], visual[index])
            torch.testing.assert_close(out_v[index], expected_v)
            torch.testing.assert_close(out_a[index], expected_a)


def test_swapped_streams_and_weights_swap_the_outputs() -> None:
    layer, swapped = exchange(), exchange()
    state = layer.state_dict()
    swap = {"visual": "audio", "audio": "visual"}
    for key in state:
        kind, stream = key.split(".")[0].split("_")
        swapped.state_dict()[key].copy_(state[key.replace(f"{kind}_{stream}", f"{kind}_{swap[stream]}")])
    visual, audio = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    ahead = layer._adapt(layer.mlp_visual, layer.mlp_audio, visual, audio)
    back = swapped._adapt(swapped.mlp_visual, swapped.mlp_audio, audio, visual)
    torch.testing.assert_close(ahead, back[::-1])


def test_without_gates_the_exchange_is_the_bottlenecks_of_one_stream() -> None:
    layer, alone = exchange(), BottlenecksLayer(BottleneckSettings(ratio=0.5), layouts().blocks[0])
    layer.gate_visual.data.zero_()
    alone.spatial_bottleneck.load_state_dict(layer.spatial_visual.state_dict())
    alone.mlp_bottleneck.load_state_dict(layer.mlp_visual.state_dict())
    visual, audio, nothing = torch.randn(2, 4, 8), torch.randn(2, 6, 8), torch.zeros(0)
    for site in ("attention_output", "mlp_output"):
        both = getattr(layer, site)(visual, audio, nothing, nothing, UNWINDOWED)
        torch.testing.assert_close(both[0], getattr(alone, site)(visual, nothing, None))


def test_temporal_bottleneck_reads_the_frozen_attention_over_the_segments(make: Make) -> None:
    model = make()
    layer = model.get_submodule("part_modules.stgcma/temporal/audio.layers.1")
    assert isinstance(layer, TemporalLayer)
    noisy(layer)
    step = model.steps[1]
    (place,) = [one for one in step.at_site["before_attention"] if one.streams == ("audio",)]
    x = tokens_for(model, 1, clips=2)
    found = layer.before_attention(x["audio"], step._view(place, x, {})).add  # type: ignore[arg-type]
    assert found is not None
    frozen = model.towers["audio"].block(1)  # type: ignore[operator]
    by_clip = x["audio"].unflatten(0, (2, 2))
    for clip in range(2):
        for position in (0, 3):
            sequence_1TD = by_clip[clip, :, position][None]
            expected = layer.bottleneck(frozen.attention(sequence_1TD)[0])[0]
            torch.testing.assert_close(found.unflatten(0, (2, 2))[clip, :, position], expected)


def test_a_trained_bias_of_distances_in_time_is_added_to_the_logits(make: Make) -> None:
    model = make("parts.stgcma.temporal.position_bias=true", prompts="stgcma.temporal", fusions="none")
    layer = model.get_submodule("part_modules.stgcma/temporal/audio.layers.1")
    assert isinstance(layer, TemporalLayer)
    assert isinstance(layer.position_bias, torch.nn.Parameter)
    assert layer.position_bias.shape == (3, 4)
    assert 0 < layer.position_bias.std() < 0.04
    noisy(layer)
    x = tokens_for(model, 1, clips=2)
    step = model.steps[1]
    (place,) = [one for one in step.at_site["before_attention"] if one.streams == ("audio",)]
    found = layer.before_attention(x["audio"], step._view(place, x, {})).add  # type: ignore[arg-type]
    assert found is not None
    inner: Any = model.towers["audio"].block(1).inner  # type: ignore[operator]
    by_clip = x["audio"].unflatten(0, (2, 2))
    for clip in range(2):
        for position in (0, 3):
            q, k, v = (
                part.unflatten(-1, (4, -1))
                for part in inner.attn.qkv(inner.norm1(by_clip[clip, :, position])).chunk(3, -1)
            )
            heads = []
            for head in range(4):
                logits = q[:, head] @ k[:, head].T / 12**0.5
                for query in range(2):
                    for key in range(2):
                        logits[query, key] += layer.position_bias[1 + query - key, head]
                heads.append(logits.softmax(-1) @ v[:, head])
            expected = layer.bottleneck(inner.attn.proj(torch.cat(heads, -1)))
            torch.testing.assert_close(found.unflatten(0, (2, 2))[clip, :, position], expected)
    found.sum().backward()
    assert layer.position_bias.grad is not None
    assert (layer.position_bias.grad != 0).all()


def test_temporal_bottlenecks_stand_in_every_second_block(make: Make) -> None:
    model = make("parts.stgcma.temporal.every=2")
    assert list(model.get_submodule("part_modules.stgcma/temporal/audio").layers) == ["0", "2"]  # type: ignore[arg-type]
    assert model(batch_for(model))["logits"].shape == (2, 2, 29)


def test_drop_path_rises_over_the_depth_and_lives_in_training_alone() -> None:
    blocks = layouts(depth=5).blocks
    made = [TemporalLayer(TemporalSettings(ratio=0.5, drop_path=0.4), block) for block in blocks]
    assert [round(1 - layer.keep.item(), 6) for layer in made] == [0, 0.1, 0.2, 0.3, 0.4]
    torch.manual_seed(0)
    ones = torch.ones(6, 4000, 8)
    last = made[-1]
    assert last.eval()._drop_path(ones) is ones
    dropped = last.train()._drop_path(ones)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1 / 0.6]))
    # A token position is dropped in all segments at once.
    assert torch.equal(dropped, dropped[:1, :, :1].expand_as(dropped))
    assert abs((dropped[0, :, 0] == 0).float().mean() - 0.4) < 0.03
    assert torch.equal(made[0].train()._drop_path(ones), ones)
    alone = TemporalLayer(TemporalSettings(ratio=0.5), layouts(depth=1).blocks[0])
    assert alone.keep == 1


# ---------------------------------------------------------------------------------------------------- the whole model


def batch_for(model: AVModel, clips: int = 2) -> Batch:
    torch.manual_seed(1)
    size = 64
    return Batch(
        frames=torch.randint(0, 256, (clips, 2, 3, size, size), dtype=torch.uint8),
        waveform=torch.randint(-9999, 9999, (clips, 32000), dtype=torch.int16),
        targets={"labels": torch.randint(0, 29, (clips, 2))},
        names=[str(index) for index in range(clips)],
        samples=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )


def test_at_step_0_every_stream_is_its_frozen_backbone_bit_for_bit(make: Make) -> None:
    model = make()
    batch = batch_for(model)
    plain = {stream: model.plain(stream, batch) for stream in ("visual", "audio")}
    for mode in (False, True):
        features = model.train(mode).features(batch)
        for stream, alone in plain.items():
            assert torch.equal(features.stream(stream).tokens, alone.tokens)
            assert torch.equal(features.stream(stream).pooled, alone.pooled)


def test_every_parameter_trains_and_nothing_frozen_does(make: Make) -> None:
    model = make().train()
    for _, parameter in parameter_groups(model)["parts"]:
        parameter.data += torch.randn_like(parameter) * 0.1
    batch = batch_for(model)
    before = digest(model.towers)
    model.loss(model(batch), batch).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert digest(model.towers) == before
    assert all(parameter.grad is None for parameter in model.towers.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_a_pair_of_blocks_compiles_to_one_graph_with_equal_results(make: Make, training: bool) -> None:
    # Random draws of drop path would differ between the two runs.
    model = make("parts.stgcma.temporal.drop_path=0" if training else "seed=0").train(training)
    for _, parameter in parameter_groups(model)["parts"]:
        parameter.data += torch.randn_like(parameter) * 0.1
    x = tokens_for(model, 1)
    with torch.no_grad():
        expected, _, _ = model.steps[1](dict(x), {})
        compiled = capture(model.steps[1], x)
    for stream in ("visual", "audio"):
        torch.testing.assert_close(compiled.output[0][stream], expected[stream])


def test_blocks_that_differ_in_their_drop_path_alone_make_the_same_graph(make: Make) -> None:
    model = make("parts.stgcma.temporal.drop_path=0.3").train()
    graphs = {capture(step, tokens_for(model, index)).graph.code for index, step in enumerate(model.steps)}
    assert len(graphs) == 1


@pytest.mark.parametrize("stream", ["visual", "audio"])
def test_one_branch_runs_with_the_bottlenecks_alone(make: Make, stream: str) -> None:
    model = make(streams=stream, prompts="stgcma+stgcma.bottlenecks", fusions="none")
    assert list(model.towers) == [stream]
    assert set(model.parts) == {
        f"{part}.{stream}" for part in ("segment_embedding", "stgcma.base", "stgcma.temporal", "stgcma.bottlenecks")
    }
    assert model(batch_for(model))["logits"].shape == (2, 2, 29)


def test_one_branch_has_nobody_to_exchange_with(make: Make) -> None:
    with pytest.raises(AVCoreError, match=r"'stgcma\.exchange' needs both streams.*--fusion none"):
        make(streams="visual")


def test_exchange_of_unequal_widths_has_a_map_in_each_direction_at_every_pair(registry: Registry) -> None:
    config = resolve(registry, None, visual="vit_base_patch16_224", audio="vit_small_patch16_224").config
    align = assemble(config, registry, meta=True).parts["align"]
    assert sum(parameter.numel() for parameter in align.parameters()) == 12 * (2 * 768 * 384 + 768 + 384)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("temporal.ratio=0", r"parts\.stgcma\.temporal\.ratio must be above 0 and at most 1"),
        ("exchange.ratio=[0.5,0]", r"parts\.stgcma\.exchange\.ratio must be above 0 and at most 1"),
        ("exchange.ratio=[]", r"parts\.stgcma\.exchange\.ratio must be one number, or one for each stage"),
        ("temporal.ratio=[0.5,0.5]", r"ratio=\[0\.5, 0\.5\], 2 numbers for a backbone of 1 stages: give one for each"),
        ("temporal.every=0", r"parts\.stgcma\.temporal\.every must be 1 or more"),
        ("exchange.ratio=1.5", r"parts\.stgcma\.exchange\.ratio must be above 0 and at most 1"),
        ("temporal.drop_path=1", r"parts\.stgcma\.temporal\.drop_path must be from 0 to below 1"),
        ("exchange.ratio=0.01", "A bottleneck of ratio=0.01 has no hidden unit at width 48"),
    ],
)
def test_settings_out_of_range_are_named(make: Make, setting: str, message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        make(f"parts.stgcma.{setting}")
