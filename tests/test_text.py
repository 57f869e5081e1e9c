"""The stream of sentences: a head calls it, prompts stand on it, and it is frozen like the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.injection import Edit, Prompt, PromptLayer
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.runs.summary import describe_config
from avcore.specs import STREAMS, TEXT, HeadSpec, PromptSpec, StreamLayout
from avcore.states import trainable_state
from avcore.tasks import Batch, Features, Head, Progress, Task
from avcore.testing.backbones import ToyBackbones, ToyBlock
from avcore.testing.texts import ToyTexts, ToyTextTower, tokenize
from avcore.testing.toys import ToyPlugin, at_hand, make_batch

CLASSES = ["X X dog", "X X cello", "X X rain and wind"]


class ClassesInWords(Head):
    """Logits of a segment: its dot products with the names of the classes."""

    keep = True

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        assert layouts["text"].shared is not None
        self.map = nn.Linear(layouts["visual"].width, layouts["text"].shared)
        self.register_buffer("ids", tokenize(CLASSES), persistent=False)

    def forward(self, features: Features) -> dict[str, Tensor]:
        text = features.encoders["text"]
        names_CD = text.project(text(self.ids, keep=self.keep).pooled)  # type: ignore[arg-type]
        seen_BTD = self.map(features.stream("visual").pooled)
        return {"logits": seen_BTD @ names_CD.to(seen_BTD.dtype).T}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"square": output["logits"].square().mean()}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"classes": output["logits"].argmax(-1)}


@dataclass(frozen=True, kw_only=True)
class MayReadConfig:
    read: bool = False

    def encoders(self) -> tuple[str, ...]:
        return ("text",) if self.read else ()


class MayRead(ClassesInWords):
    def __init__(self, config: MayReadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        assert ("text" in layouts) == config.read
        if config.read:
            super().__init__(config, layouts, task)
        else:
            Head.__init__(self, config, layouts, task)
            self.map = nn.Linear(layouts["visual"].width, len(CLASSES))
        self.read = config.read

    def forward(self, features: Features) -> dict[str, Tensor]:
        return super().forward(features) if self.read else {"logits": self.map(features.stream("visual").pooled)}


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    length: int = 2


class Context(Prompt):
    """CoOp (arXiv:2109.01134): learnt vectors in place of the placeholders that begin every sentence."""

    def __init__(self, config: ContextConfig, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.vectors = nn.Parameter(torch.randn(config.length, stream.width) * 0.02)

    def after_embedding(self, x_MND: Tensor, at: Any) -> Tensor:
        return F.pad(self.vectors, (0, 0, 1, x_MND.shape[1] - 1 - len(self.vectors)))


class DeepRow(PromptLayer):
    """A fresh row at each block, a key for all tokens. Knows no stream."""

    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(1, block.width))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.row)


class Carried(Prompt):
    """MaPLe's side of the text: rows that enter at the first block and flow on."""

    def layer(self, block: Any) -> PromptLayer:
        return CarriedLayer(block)


class CarriedLayer(PromptLayer):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width)) if block.index == 0 else None

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(carry=at.carried if self.rows is None else self.rows)


class Norm(Prompt):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return dict.fromkeys((*STREAMS, TEXT), ("norm",))


class Regularised(Norm):
    def losses(self, features: Features) -> dict[str, Tensor]:
        return {"size": features.sums["regularised.text.size"]}


class PairsOnly(Prompt):
    def layer(self, block: Any) -> PromptLayer | None:
        return DeepRow(None, block) if block.paired else None


class Plugin:
    @hookimpl
    def avcore_heads(self) -> list[HeadSpec]:
        words = at_hand(HeadSpec, name="words", thing=ClassesInWords, encoders=("text",))
        may = at_hand(HeadSpec, name="may", thing=MayRead, config=MayReadConfig, encoders=MayReadConfig.encoders)
        return [words, may]

    @hookimpl
    def avcore_prompts(self) -> list[PromptSpec]:
        return [
            at_hand(PromptSpec, name="coop", thing=Context, config=ContextConfig),
            at_hand(PromptSpec, name="deep", thing=DeepRow),
            at_hand(PromptSpec, name="carried", thing=Carried),
            at_hand(PromptSpec, name="pairs", thing=PairsOnly),
            at_hand(PromptSpec, name="norm", thing=Norm),
            at_hand(PromptSpec, name="regularised", thing=Regularised),
        ]


REGISTRY = Registry.from_modules(
    {"backbones": ToyBackbones(), "texts": ToyTexts(), "toys": ToyPlugin(), "words": Plugin()}
)


def make(*sets: str, prompts: str = "none", text: str | None = "toy_text", head: str = "words") -> AVModel:
    resolved = resolve_config(
        REGISTRY,
        task="toy",
        prompts=prompts,
        fusions="none",
        visual="toy_plain",
        text=text,
        options={"data.dataset": "toy-data", "head.name": head},
        sets=sets,
        need_data=False,
    )
    return assemble(resolved.config, REGISTRY).eval()


def test_a_setting_of_the_head_says_whether_it_reads() -> None:
    assert not make(text=None, head="may").encoders
    assert "text" in make("head.read=true", head="may").encoders
    with pytest.raises(AVCoreError, match=r"Head 'may' reads sentences: give --text NAME"):
        make("head.read=true", head="may", text=None)
    with pytest.raises(AVCoreError, match=r"head 'may' reads no sentences.*with which it does: .* show may"):
        make(head="may")


def test_a_head_calls_the_frozen_stream() -> None:
    model = make()
    tower = model.towers["text"]
    ids = tokenize(CLASSES)
    with torch.no_grad():
        x = tower.enter(tower.embed(ids))
        for index in range(tower.layout.depth):
            block = tower.block(index)
            x = x + block.attention(x)[0]
            x = x + block.mlp(x)
        expected = tower.project(tower.pool(tower.norm(x), ids))
    out = model(make_batch(model))
    seen = model.head.map(out.features.stream("visual").pooled)
    assert torch.equal(out["logits"], seen @ expected.T)
    assert not expected.requires_grad


def test_it_is_frozen_counted_and_digested_and_not_saved() -> None:
    model = make(prompts="deep")
    bare = make(head="toy.linear", text=None)
    texts = sum(parameter.numel() for parameter in model.towers["text"].parameters())
    counted = count_parameters(model).parts["text"]
    assert (counted.parameters, counted.trainable) == (texts, 0)
    assert "text" not in count_parameters(bare).parts
    assert not any(parameter.requires_grad for parameter in model.towers.parameters())
    assert digest(model.towers) == model.backbone_digest != bare.backbone_digest
    with torch.no_grad():
        next(model.towers["text"].parameters()).add_(1.0)
    assert digest(model.towers) != model.backbone_digest
    assert not any("text" in name for name in trainable_state(model))
    model.train()
    assert not model.towers["text"].training
    model.towers.to(torch.bfloat16)
    assert next(model.towers["text"].parameters()).dtype == torch.bfloat16


def test_names_of_classes_are_encoded_on_shapes_alone() -> None:
    """As runs do before they start, to see which parameters no loss depends on."""
    text = make().encoders["text"].to("meta")  # type: ignore[union-attr]
    seen = text(tokenize(CLASSES).to("meta"), keep=True).pooled  # type: ignore[operator]
    assert seen.is_meta
    assert seen.shape == (len(CLASSES), 16)


def test_a_part_that_does_nothing_where_it_was_put_is_told() -> None:
    idle = "Part 'pairs' does nothing on text: it takes none of the blocks and trains nothing."
    model = make("parts.pairs.streams=text", "parts.coop.streams=text", prompts="pairs+coop")
    assert [notice for notice in model.notices if "does nothing" in notice] == [idle]
    assert not [notice for notice in make(prompts="pairs+coop").notices if "does nothing" in notice]


def test_a_prompt_trains_the_last_norm_of_sentences() -> None:
    model = make("parts.norm.streams=text", prompts="norm")
    assert [name for name in trainable_state(model) if name.startswith("norm.")] == [
        "norm.text.backbone.text.norm.weight",
        "norm.text.backbone.text.norm.bias",
    ]
    assert not [notice for notice in model.notices if "does nothing" in notice]


def test_a_loss_that_looks_for_sentences_among_the_features_is_told_where_they_are() -> None:
    with pytest.raises(AVCoreError, match=r"part 'regularised' on text, of which features hold nothing \(parts"):
        make("parts.regularised.streams=text", prompts="regularised")


def test_a_run_says_what_reads_its_sentences() -> None:
    resolved = resolve_config(
        REGISTRY,
        task="toy",
        prompts="none",
        visual="toy_plain",
        text="toy_text",
        options={"data.dataset": "toy-data", "head.name": "words"},
        need_data=False,
    )
    assert "; text toy_text; " in describe_config(resolved.config)


def test_names_of_classes_are_encoded_once_while_nothing_on_the_way_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    model = make()
    walk = model.encoders["text"].walk  # type: ignore[union-attr]
    walk.register_forward_hook(lambda *_: calls.append(1))
    batch = make_batch(model)
    first = model(batch)["logits"]
    assert torch.equal(model(batch)["logits"], first)
    assert len(calls) == 1
    model.head.ids[0, 1] = 7  # type: ignore[index, operator]
    assert not torch.equal(model(batch)["logits"], first)
    assert len(calls) == 2
    model.double()
    assert model(batch)["logits"].dtype == torch.float64
    assert len(calls) == 3
    trained = make("parts.coop.streams=text", prompts="coop")
    trained.encoders["text"].walk.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    for _ in range(2):
        trained(batch)
    assert len(calls) == 5


@pytest.mark.parametrize("prompt", ["coop", "deep", "carried"])
def test_prompts_on_text_learn_and_change_what_the_head_sees(prompt: str) -> None:
    model = make(f"parts.{prompt}.streams=text", prompts=prompt)
    batch = make_batch(model)
    assert list(model.parts) == [f"{prompt}.text"]
    assert not torch.equal(model(batch)["logits"], make()(batch)["logits"])
    model.train()
    model.loss(model(batch), batch).backward()
    for name, parameter in model.part_modules.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert digest(model.towers) == model.backbone_digest
    assert set(trainable_state(model)) == {
        *(f"{prompt}.text.{name}" for name, _ in model.parts[f"{prompt}.text"].named_parameters()),
        "head.map.weight",
        "head.map.bias",
    }


def test_a_learnt_context_stands_at_the_placeholders() -> None:
    model, plain = make("parts.coop.streams=text", prompts="coop"), make()
    vectors = model.parts["coop.text"].vectors
    tower = plain.towers["text"]
    ids = tokenize(CLASSES)
    with torch.no_grad():
        embedded = tower.embed(ids)
        embedded[:, 1:3] += vectors
        walk = plain.encoders["text"].walk  # type: ignore[union-attr]
        monkey = walk["text"].tower
        original, monkey.embed = monkey.embed, lambda _: embedded
        expected = plain.encoders["text"](ids).pooled
        monkey.embed = original
        assert torch.equal(model.encoders["text"](ids).pooled, expected)


def test_a_prompt_made_for_pictures_runs_on_text_unchanged() -> None:
    both = make(prompts="deep")
    text = make("parts.deep.streams=text", prompts="deep")
    assert sorted(both.parts) == ["deep.audio", "deep.visual"]
    assert len(text.parts["deep.text"].layers) == text.towers["text"].layout.depth


def test_what_is_refused() -> None:
    with pytest.raises(AVCoreError, match=r"Head 'words' reads sentences: give --text NAME\. Available: toy_text"):
        make(text=None)
    with pytest.raises(AVCoreError, match=r"--text toy_text: head 'toy\.linear' reads no sentences"):
        make(head="toy.linear")
    with pytest.raises(AVCoreError, match="serves the visual and audio stream only"):
        make(text="toy_plain")
    with pytest.raises(AVCoreError, match=r"parts\.deep\.streams=text: the head of this run calls no encoder"):
        make("parts.deep.streams=text", prompts="deep", head="toy.linear", text=None)


def test_the_configuration_comes_back_from_its_tree() -> None:
    resolved = resolve_config(
        REGISTRY,
        task="toy",
        prompts="deep",
        visual="toy_plain",
        text="toy_text",
        options={"data.dataset": "toy-data", "head.name": "words"},
        sets=("parts.deep.streams=text", "text.length=6"),
        need_data=False,
    )
    assert resolved.tree()["text"] == {"backbone": "toy_text", "weights": "random", "length": 6}
    again = resolve_config(REGISTRY, file=resolved.tree(), need_data=False)
    assert again.config == resolved.config


def test_blocks_are_told_what_fills_a_sentence_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders that see both ways, as BERT's, hide it; the others are called as they always were."""
    given: list[dict[str, Any]] = []
    plain = ToyBlock.attention

    def look(self: ToyBlock, x_MND: Tensor, **more: Any) -> Any:
        given.append(more)
        return plain(self, x_MND, **{key: value for key, value in more.items() if key != "bias_HNN"})

    monkeypatch.setattr(ToyBlock, "attention", look)
    ids = tokenize(CLASSES)
    text: Any = make().encoders["text"]
    text(ids)
    assert not any("bias_HNN" in one for one in given)
    given.clear()
    monkeypatch.setattr(
        ToyTextTower, "key_bias", lambda self, ids_KL: torch.where(ids_KL == 0, -torch.inf, 0.0)[:, None, None]
    )
    text(ids)
    assert len(given) == text.layout.depth
    for one in given:
        assert torch.equal(one["bias_HNN"][:, 0, 0] == -torch.inf, ids == 0)
