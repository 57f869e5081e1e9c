"""Counts of the papers, what each part and head computes, and that they mix."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import avcore_avar
import avcore_ave
import avcore_avvp
import avcore_clap
import avcore_clip
import avcore_coop
import avcore_copl
import avcore_fewshot
import avcore_timm
from avcore import compat
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore.tasks import Progress
from avcore.testing.toys import make_batch
from avcore_clip.settings import TextSettings
from avcore_coop.sentences import read
from avcore_timm.settings import ViTSettings

compat.install()

TEXT_CFG = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
VISION = {
    "model": "vit_base_patch16_clip_quickgelu_224",
    "arguments": {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 4},
    "shared": 12,
}
CLASSES = ["dog", "playing_violin", "rain, wind"]


class Small:
    """A small CLIP."""

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        config = {"embed_dim": 12, "text_cfg": TEXT_CFG}
        return [
            BackboneSpec(
                name="small", build="avcore_timm.vit:build", config=ViTSettings, presets={"small_vit": VISION}
            ),
            BackboneSpec(
                name="small-text",
                build="avcore_clip.text:build",
                config=TextSettings,
                presets={"small_text": {"config": config}},
                streams=("text",),
            ),
        ]


PLUGINS = [avcore_avar, avcore_ave, avcore_avvp, avcore_clap, avcore_clip, avcore_coop, avcore_copl, avcore_fewshot]
REGISTRY = Registry.from_modules(
    {module.__name__.replace("_", "-"): module for module in (*PLUGINS, avcore_timm)} | {"small": Small()}
)


def make(
    head: str = "coop.words",
    *sets: str,
    prompts: str = "none",
    visual: str = "small_vit",
    text: str = "small_text",
    meta: bool = False,
    streams: str = "visual",
    task: str = "fewshot",
    **given: Any,
) -> AVModel:
    random = [] if meta else ["visual.weights=random", "text.weights=random"]
    resolved = resolve_config(
        REGISTRY,
        task=task,
        prompts=prompts,
        fusions="none",
        visual=visual,
        text=text,
        streams=streams,
        options={"head.name": head},
        sets=(f"task_options.classes={CLASSES}", *random, *sets),
        need_data=False,
        **given,
    )
    torch.manual_seed(0)
    return assemble(resolved.config, REGISTRY, meta=meta).eval()


def logits(model: AVModel) -> Tensor:
    torch.manual_seed(1)
    found: Tensor = model(make_batch(model))["logits"].mean(1)
    return found


def trained(model: AVModel) -> int:
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def moved(model: AVModel) -> AVModel:
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(torch.randn_like(one) * 0.3)
    return model


# --------------------------------------------------------------------------------------------------------------------
# Counts


@pytest.mark.parametrize(
    ("head", "prompts", "sets", "count"),
    [
        ("coop.words", "none", (), 0),
        ("coop.words", "coop", ("parts.coop.streams=text",), 2_048),
        ("coop.words", "coop", ("parts.coop.streams=text", "parts.coop.tokens=16"), 8_192),
        ("coop.conditional", "none", (), 35_360),
        ("coop.adapter", "none", (), 131_072),
        ("coop.words", "maple", ("parts.maple.streams=visual",), 3_555_072),
    ],
    ids=["zero-shot", "coop", "coop-16", "cocoop", "clip-adapter", "maple"],
)
def test_counts_of_the_papers(head: str, prompts: str, sets: tuple[str, ...], count: int) -> None:
    """On CLIP ViT-B: the figures of the papers and of MaPLe's comparison (3.55 M; CoOp 2,048, CoCoOp 35,360)."""
    visual, text = "vit_base_patch32_clip_quickgelu_224.openai", "ViT-B-32-quickgelu.openai"
    assert trained(make(head, *sets, prompts=prompts, visual=visual, text=text, meta=True)) == count


# --------------------------------------------------------------------------------------------------------------------
# What they compute


def test_zero_shot_is_clips() -> None:
    model = make()
    batch = make_batch(model)
    with torch.no_grad():
        features = model.features(batch)
        text: Any = model.encoders["text"]
        from avcore_clip.tokenizer import tokenize

        ids = tokenize(["a photo of a dog", "a photo of a playing violin", "a photo of a rain, wind"], length=16)
        words = F.normalize(text.project(text(ids).pooled), dim=-1)
        seen = F.normalize(features.project("visual"), dim=-1)
        torch.testing.assert_close(model(batch)["logits"], 100 * seen @ words.T)
    assert model(batch)["logits"].std() > 0.1


def test_coop_starts_at_its_words_and_trains() -> None:
    sets = ("parts.coop.streams=text",)
    model = make("coop.words", *sets, prompts="coop")
    torch.testing.assert_close(logits(model), logits(make()))
    batch = make_batch(model)
    batch.targets = {"label": torch.tensor([0, 2])}
    out = model(batch)
    model.loss(out, batch, Progress()).backward()
    (vectors,) = (one for one in model.parameters() if one.requires_grad)
    assert (vectors.grad.abs().sum(1) > 0).all()  # type: ignore[union-attr]
    assert not torch.equal(logits(moved(model)), logits(make()))


def test_the_adapter_is_a_share_of_its_bottleneck() -> None:
    assert torch.equal(logits(make("coop.adapter", "head.ratio=0.0")), logits(make()))
    model = moved(make("coop.adapter", "head.words=true"))
    head: Any = model.head
    features = model.features(make_batch(model))
    x = features.project("visual")
    expected = 0.2 * F.relu(F.relu(x @ head.adapters["visual"].down.weight.T) @ head.adapters["visual"].up.weight.T)
    torch.testing.assert_close(head.adapters["visual"](x), expected + 0.8 * x)
    seen, words = (F.normalize(one, dim=-1) for one in (expected + 0.8 * x, head.words.vectors(features, "visual")))
    words = F.normalize(head.word_adapters["visual"](words), dim=-1)
    torch.testing.assert_close(head(features)["logits"], 100 * seen @ words.T)


def test_cocoop_shifts_the_context_by_each_segment() -> None:
    model = make("coop.conditional")
    head: Any = model.head
    with torch.no_grad():
        head.shift["visual"][2].weight.zero_()
        head.shift["visual"][2].bias.zero_()
    torch.testing.assert_close(logits(model), logits(make()))
    head = moved(model).head
    features = model.features(make_batch(model))
    seen = F.normalize(features.project("visual"), dim=-1)
    found = head.conditional(features, "visual", seen)
    assert found.shape == (2, model.segments, 3, 12)
    # As CoOp with the context of that segment.
    context = head.vectors_nW["visual"] + head.shift["visual"](seen[1, -1])
    coop = make("coop.words", "parts.coop.streams=text", prompts="coop")
    with torch.no_grad():
        next(one for one in coop.parameters() if one.requires_grad).copy_(context)
    text: Any = coop.encoders["text"]
    expected = F.normalize(text.project(text(head.words.ids(features, "visual")).pooled), dim=-1)
    torch.testing.assert_close(found[1, -1], expected)
    torch.testing.assert_close(head(features)["logits"][1, -1], 100 * seen[1, -1] @ expected.T)


def test_maple_writes_prompts_into_both_towers() -> None:
    model = moved(make("coop.words", "parts.maple.words_width=16", "parts.maple.depth=2", prompts="maple"))
    layers: Any = [model.instances[0].module.layers[str(index)] for index in range(3)]
    assert [layer.words is None for layer in layers] == [False, False, True]
    head: Any = model.head
    features = model.features(make_batch(model))
    text: Any = features.encoders["text"]
    ids = head.words.ids(features, "visual")
    x = text.tower.embed(ids)
    x[:, 1:3] += layers[0].words
    for index in range(3):
        if index == 1:
            x[:, 1:3] = layers[1].words
        x = text.tower.block(index)(x)
    expected = text.project(text.tower.pool(text.tower.norm(x), ids))
    torch.testing.assert_close(head.vectors(features, "visual"), F.normalize(expected, dim=-1))
    # Pictures: rows beside the tokens, replaced in the second block, carried through the third.
    tower, front = model.towers["visual"], model.front_ends(make_batch(model))["visual"]
    y = tower.enter(tower.embed(front))
    tokens = y.shape[1]
    for index in range(3):
        if index < 2:
            rows = layers[index].map(layers[index].words).expand(len(y), -1, -1)
            y = torch.cat([y[:, :tokens], rows], dim=1)
        y = tower.block(index)(y)
    torch.testing.assert_close(features.stream("visual").tokens, tower.norm(y[:, :tokens]))


def test_maple_starts_around_its_words() -> None:
    near, far = (
        make("coop.words", "parts.maple.words_width=16", f"parts.maple.std={std}", prompts="maple")
        for std in (0.02, 0.5)
    )
    first, second = (model.instances[0].module.layers["0"].words for model in (near, far))
    torch.testing.assert_close(first / 0.02, second / 0.5)
    assert 0.01 < first.std() < 0.04


def test_gradients_reach_everything() -> None:
    for head, prompts, sets in (
        ("coop.words", "maple", ("parts.maple.words_width=16",)),
        ("coop.conditional", "none", ()),
        ("coop.adapter", "coop", ("parts.coop.streams=text", "head.words=true")),
    ):
        model = moved(make(head, *sets, prompts=prompts))
        logits(model).square().sum().backward()
        lacking = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
        assert not lacking


# --------------------------------------------------------------------------------------------------------------------
# Sound, and other parts


OF_SOUND = ("audio.weights=random", "text_audio.weights=random", "text_audio.tokenizer=words")


def both(head: str = "coop.words", *sets: str, prompts: str = "none") -> AVModel:
    """Pictures with CLIP's words, sound with CLAP's."""
    given = {"audio": "test_clap", "streams": "both", "text_audio": "test_clap_text", "prompts": prompts}
    return make(head, *OF_SOUND, *sets, **given)  # type: ignore[arg-type]


def test_pictures_and_sound_each_have_their_words() -> None:
    model = both("coop.words", "head.join=sum")
    assert trained(model) == 0
    head: Any = model.head
    assert head.words.sentences["audio"][1] == "The sounds of playing violin"
    features = model.features(make_batch(model))
    expected = torch.zeros(2, model.segments, 3)
    for stream, name in (("visual", "text"), ("audio", "text_audio")):
        text: Any = features.encoders[name]
        words = F.normalize(text.project(text(head.words.ids(features, stream)).pooled), dim=-1)
        expected = expected + 200 * F.normalize(features.project(stream), dim=-1) @ words.T
    torch.testing.assert_close(head(features)["logits"], expected)


def test_sentences_that_a_head_reads_are_those_of_the_encoder() -> None:
    """CLAP hides what fills a sentence up."""
    model = both()
    features = model.features(make_batch(model))
    for stream, name in (("visual", "text"), ("audio", "text_audio")):
        text: Any = features.encoders[name]
        head: Any = model.head
        ids = head.words.ids(features, stream)
        none = torch.zeros(1, text.tower.layout.width)
        torch.testing.assert_close(read(text.tower, ids, none), text.project(text(ids).pooled))


@pytest.mark.parametrize(
    ("head", "sets", "prompts"),
    [
        ("coop.words", ("parts.coop.streams=text_audio",), "coop"),
        ("coop.conditional", (), "none"),
        ("coop.adapter", ("head.words=true",), "none"),
        ("coop.words", ("parts.maple.words_width=16",), "maple"),
    ],
)
def test_all_four_learn_with_sound(head: str, sets: tuple[str, ...], prompts: str) -> None:
    """MaPLe stands on both streams, and writes into the sentences of each."""
    model = moved(both(head, *sets, prompts=prompts))
    assert trained(model) > 0
    logits(model).square().sum().backward()
    assert not [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]


@pytest.mark.parametrize("head", ["coop.words", "coop.adapter", "coop.conditional"])
def test_events_are_served_too(head: str) -> None:
    model = make(head, task="fewshot-ave")
    batch = make_batch(model)
    batch.targets = {"labels": torch.zeros(2, model.segments, dtype=torch.int64)}
    assert model.loss(model(batch), batch, Progress()) > 0
    assert model.predict(model(batch))["labels"].shape == (2, model.segments)


def test_they_mix_with_parts_of_others() -> None:
    sets = ("parts.coop.streams=text", "parts.copl.rows.streams=visual", "parts.maple.streams=visual")
    model = moved(make("coop.adapter", *sets[:2], prompts="coop+copl.rows"))
    logits(model).square().sum().backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)
    maple = make("coop.words", *sets[1:], "parts.maple.words_width=16", prompts="maple+copl.rows")
    assert logits(maple).shape == (2, 3)


@pytest.mark.parametrize(
    ("sets", "prompts", "message"),
    [
        (("visual.projection=false",), "none", r"The backbone for pictures shares no space with sentences"),
        ((), "maple", r"prompts of words are 512 wide, .* set parts\.maple\.words_width=16"),
        (("parts.coop.streams=text", "parts.coop.tokens=16"), "coop", r"16 vectors for 16 tokens of text"),
    ],
)
def test_what_does_not_fit_is_refused(sets: tuple[str, ...], prompts: str, message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        logits(make("coop.words", *sets, prompts=prompts))
