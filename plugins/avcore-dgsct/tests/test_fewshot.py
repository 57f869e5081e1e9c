"""The few-shot head and context by formulas written out by hand, and their recipes on tiny towers."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from installed import installed
from torch import Tensor

import avcore
import avcore_avar
import avcore_ave
import avcore_avvp
import avcore_dgsct
import avcore_fewshot
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.runs.inherit import start_at
from avcore.states import trainable_state
from avcore.tasks import Batch, Progress
from avcore.testing.backbones import ToyBackbones
from avcore.testing.texts import ToyTexts
from avcore.testing.toys import make_batch
from avcore_dgsct.fewshot import balanced, contrastive
from avcore_fewshot.learnt import Adapter

REGISTRY = Registry.from_modules(
    {
        "backbones": ToyBackbones(),
        "texts": ToyTexts(),
        "avcore-ave": avcore_ave,
        "avcore-avar": avcore_avar,
        "avcore-avvp": avcore_avvp,
        "avcore-fewshot": avcore_fewshot,
        "avcore-dgsct": avcore_dgsct,
    }
)
TASKS = ("fewshot", "fewshot-ave")
SMALL = (
    "task_options.classes=[dog, cello]",
    "data.segments=2",
    "data.clip_seconds=2",
    "text.length=10",
)


@pytest.fixture(autouse=True)
def only() -> Iterator[None]:
    with installed(REGISTRY):
        yield


def made(*sets: str, task: str = "fewshot-ave", **given: Any) -> AVModel:
    named = {"visual": "toy_shared", "audio": "toy_shared", "text": "toy_text", "text_audio": "toy_text", **given}
    return avcore.create_model("dgsct", task=task, set=[*SMALL, *sets], **named)


def truth(task: str) -> dict[str, Tensor]:
    if task == "fewshot-ave":
        return {"labels": torch.tensor([[0, 2], [1, 1]])}
    return {"label": torch.tensor([0, 1])}


def batch_of(model: AVModel, task: str) -> Batch:
    batch = make_batch(model, 2)
    batch.targets = truth(task)
    return batch


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum(-1, keepdim=True).sqrt()


@pytest.mark.parametrize("task", TASKS)
def test_a_published_recipe_learns(task: str) -> None:
    model = made(task=task).train()
    assert [*model.parts] == ["dgsct.context.text", "dgsct"]
    assert model.config.optim.clip_norm == 0.5
    assert model.config.parts["dgsct"].placement == "serial"
    batch = batch_of(model, task)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.Adam(trained, 3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model.loss(model(batch), batch)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(one.grad is not None for one in trained)


def test_scores_behind_the_adapters() -> None:
    model = made("head.visual_scale=10", "head.audio_scale=7", "parts.dgsct.temporal_gate=false").eval()
    head: Any = model.head
    with torch.no_grad():
        features, out = model.features(make_batch(model, 2)), model(make_batch(model, 2))

        def adapted(adapter: Adapter, x: Tensor) -> Tensor:
            return 0.2 * (adapter.up.weight @ (adapter.down.weight @ x.mT).relu()).relu().mT + 0.8 * x

        words = unit(adapted(head.text_adapter, head.words.vectors(features, "visual")))
        seen = adapted(head.visual_adapter, unit(features.project("visual")))
        visual = 10 * unit(seen) @ words.mT
        audio = 7 * unit(features.project("audio")) @ head.words.vectors(features, "audio").mT
        torch.testing.assert_close(out["visual"], visual)
        torch.testing.assert_close(out["logits"], 2 * visual + 2 * audio)
        torch.testing.assert_close(out["visual_clip"], unit(features.project("visual").mean(1)))
        sound = features.project("audio") @ head.audio_map.weight.T + head.audio_map.bias
        torch.testing.assert_close(out["audio_clip"], unit(sound.mean(1)))
    assert head.visual_adapter.down.weight.shape == (3, 12)  # 12 / 4


def test_contrastive_terms_by_hand() -> None:
    audio, visual = unit(torch.tensor([[1.0, 0.0], [1.0, 1.0]])), unit(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
    cosines = 5 * audio @ visual.mT
    to_visual, to_audio = contrastive(audio, visual, torch.tensor([True, True]), 5)
    rows = [math.log(sum(math.exp(value) for value in row)) - float(row[place]) for place, row in enumerate(cosines)]
    columns = [
        math.log(sum(math.exp(value) for value in row)) - float(row[place]) for place, row in enumerate(cosines.mT)
    ]
    assert float(to_visual) == pytest.approx(sum(rows) / 2)
    assert float(to_audio) == pytest.approx(sum(columns) / 2)
    alone = contrastive(audio, visual, torch.tensor([True, False]), 5)
    assert [float(one) for one in alone] == [0, 0]
    assert [float(one) for one in contrastive(audio, visual, torch.tensor([False, False]), 5)] == [0, 0]


def test_weights_change_after_ten_epochs() -> None:
    model = made().eval()
    batch = batch_of(model, "fewshot-ave")
    with torch.no_grad():
        out = model(batch)
        entropy = model.head.cross_entropy(out.values, batch)
        pair = contrastive(out["audio_clip"], out["visual_clip"], batch.valid, 100)
        for epoch, weight in ((0, 500), (9, 500), (10, 5), (199, 5)):
            terms = model.head.loss(out.values, batch, Progress(epoch=epoch, epochs=200))
            torch.testing.assert_close(terms["class"], weight * entropy)
            torch.testing.assert_close(terms["audio_to_visual"], 2 * pair[0])
            torch.testing.assert_close(terms["visual_to_audio"], 1.5 * pair[1])


def test_clips_weigh_each_term_by_itself() -> None:
    terms = [torch.tensor(value, requires_grad=True) for value in (1.0, 2.0, 3.0)]
    found = balanced(terms, 4)
    assert [float(one.detach()) for one in found] == pytest.approx(
        [(value / 10 + 1 / 4) * value for value in (1.0, 2.0, 3.0)]
    )
    found[1].backward()
    # Of x (x / (10 - 2 + x) + 1 / 4) at x = 2.
    assert float(terms[1].grad) == pytest.approx(2 * 2 / 10 - (2 / 10) ** 2 + 1 / 4)  # type: ignore[arg-type]
    model = made(task="fewshot").eval()
    assert model.config.head.settings.balance == "losses"


def test_the_context_stands_on_the_words_before_the_class() -> None:
    model = made().eval()
    context, plain = model.parts["dgsct.context.text"], made(prompts="none").eval()
    assert context.vectors.shape == (4, 16)
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 63, 0, 0, 0]])
    with torch.no_grad():
        assert torch.equal(model.encoders["text"](ids).pooled, plain.encoders["text"](ids).pooled)
        context.vectors.add_(1.0)
        shifted = torch.nn.functional.pad(context.vectors, (0, 0, 1, 5))
        torch.testing.assert_close(context.after_embedding(torch.zeros(1, 10, 16), None), shifted)
        assert not torch.equal(model.encoders["text"](ids).pooled, plain.encoders["text"](ids).pooled)


def test_few_shot_starts_at_what_was_trained_before(tmp_path: Path) -> None:
    """On other classes, by the names of tensors."""
    before = made("task_options.classes=[rain, siren, owl]", recipe="pretrain")
    assert (before.config.head.settings.join, before.config.head.settings.balance) == ("weighted", "losses")
    with torch.no_grad():
        for one in trainable_state(before).values():
            one.copy_(torch.rand(one.shape) if one.is_floating_point() else one)
    avcore.save_adapter(before, tmp_path / "adapter")
    for task in TASKS:
        model = made(task=task)
        lines = start_at(model, tmp_path / "adapter")
        assert not [line for line in lines if line.startswith(("without a place here", "starts anew"))]
        after = trainable_state(model)
        assert all(torch.equal(after[key], one) for key, one in trainable_state(before).items())


@pytest.mark.parametrize(
    ("sets", "given", "says"),
    [
        ((), {"streams": "visual", "fusions": "none", "text_audio": None}, "needs both streams"),
        (("parts.dgsct.context.tokens=20",), {}, "20 vectors for 10 tokens of text"),
        (("head.ratio=2",), {}, "ratio must be from 0 to 1"),
        ((), {"visual": "toy_plain"}, "The backbone for pictures shares no space"),
    ],
)
def test_what_cannot_be_is_refused(sets: tuple[str, ...], given: dict[str, Any], says: str) -> None:
    with pytest.raises(AVCoreError, match=says):
        made(*sets, **given)
