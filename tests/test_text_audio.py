"""Two encoders of sentences in one run: one for what is compared with pictures, one for what is compared with sound."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from avcore.assemble import assemble
from avcore.config import RunConfig, resolve_config
from avcore.config.schema import run_schema
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.injection import Prompt
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.runs.offers import offers_of
from avcore.runs.summary import describe_config
from avcore.specs import TEXTS, HeadSpec, PromptSpec, StreamLayout
from avcore.tasks import Batch, Features, Head, Progress, Task
from avcore.testing.backbones import ToyBackbones
from avcore.testing.texts import ToyTexts, tokenize
from avcore.testing.toys import ToyPlugin, at_hand, make_batch


class BothWords(Head):
    """Logits of a segment: the sums of its pooled vectors times what each encoder says of two words."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.named = [name for name in TEXTS if name in layouts]
        self.register_buffer("ids", tokenize(["X X dog", "X X cello"]), persistent=False)

    def forward(self, features: Features) -> dict[str, Tensor]:
        pooled_BT1 = features.stream("visual").pooled.mean(-1, keepdim=True)
        found = {}
        for name in self.named:
            encoder = features.encoders[name]
            found[name] = pooled_BT1 * encoder.project(encoder(self.ids).pooled).sum(-1)  # type: ignore[arg-type]
        return found

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return {name: logits.square().mean() for name, logits in output.items()}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"classes": output["text"].argmax(-1)}


class Shift(Prompt):
    def __init__(self, config: Any, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self.vector = torch.nn.Parameter(torch.randn(stream.width))

    def after_embedding(self, x_MND: Tensor, at: Any) -> Tensor:
        return self.vector


class Plugin:
    @hookimpl
    def avcore_heads(self) -> list[HeadSpec]:
        one = at_hand(HeadSpec, name="one", thing=BothWords, encoders=("text",))
        words = {"text_audio": {"backbone": "toy_text"}}
        return [
            one,
            at_hand(HeadSpec, name="both", thing=BothWords, encoders=TEXTS),
            at_hand(HeadSpec, name="brings", thing=BothWords, encoders=TEXTS, defaults=words),
        ]

    @hookimpl
    def avcore_prompts(self) -> list[PromptSpec]:
        return [at_hand(PromptSpec, name="shift", thing=Shift)]


REGISTRY = Registry.from_modules(
    {"backbones": ToyBackbones(), "texts": ToyTexts(), "toys": ToyPlugin(), "words": Plugin()}
)


def configured(
    *sets: str, text: str | None = "toy_text", other: str | None = "toy_text", head: str = "both", prompts: str = "none"
) -> RunConfig:
    return resolve_config(
        REGISTRY,
        task="toy",
        prompts=prompts,
        fusions="none",
        visual="toy_plain",
        text=text,
        text_audio=other,
        options={"data.dataset": "toy-data", "head.name": head},
        sets=sets,
        need_data=False,
    ).config


def made(*sets: str, **given: Any) -> AVModel:
    return assemble(configured(*sets, **given), REGISTRY).eval()


def test_without_sound_there_are_no_sentences_for_it() -> None:
    assert configured(other=None, head="brings").text_audio.backbone == "toy_text"
    assert configured("streams=visual", other=None, head="brings").text_audio.backbone is None
    with pytest.raises(AVCoreError, match=r"--text-audio toy_text: no sound runs .* \(--set streams=visual\)"):
        configured("streams=visual")


def test_a_head_calls_two_encoders_each_with_settings_of_its_own() -> None:
    model = made("text_audio.length=6")
    assert list(model.encoders) == ["text", "text_audio"]
    assert [model.towers[name].geometry.length for name in TEXTS] == [8, 6]
    assert model.streams["text_audio"].layout.name == "text_audio"
    out = model(make_batch(model))
    assert not torch.equal(out["text"], out["text_audio"])
    counted = count_parameters(model).parts
    assert counted["text"].parameters == counted["text_audio"].parameters > 0
    assert "; text toy_text; text_audio toy_text" in describe_config(model.config)
    assert [*offers_of(model.config, REGISTRY)["backbones"]] == ["toy_plain", "toy_text"]
    assert "length" in run_schema(model.config, REGISTRY)["properties"]["text_audio"]["properties"]


def test_the_second_is_not_needed() -> None:
    model = made(other=None)
    assert list(model.encoders) == ["text"]
    assert "text_audio" not in model(make_batch(model)).values


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(AVCoreError, match=r"Head 'both' reads sentences: give --text NAME"):
        configured(text=None)
    with pytest.raises(AVCoreError, match=r"--text-audio toy_text: head 'one' reads no sentences for sound"):
        configured(head="one")
    with pytest.raises(AVCoreError, match=r"--text-audio toy_plain|serves the visual"):
        made(other="toy_plain")
    with pytest.raises(AVCoreError, match=r"streams=text_audio: the head of this run calls no encoder of sentences"):
        made("parts.shift.streams=text_audio", other=None, prompts="shift")


@pytest.mark.parametrize("stream", TEXTS)
def test_a_prompt_stands_on_one_of_them(stream: str) -> None:
    model, plain = made(f"parts.shift.streams={stream}", prompts="shift"), made()
    assert list(model.parts) == [f"shift.{stream}"]
    out, before = model(make_batch(model)), plain(make_batch(plain))
    model.loss(out, make_batch(model)).backward()
    assert model.parts[f"shift.{stream}"].vector.grad is not None
    for name in TEXTS:
        assert torch.equal(out[name], before[name]) == (name != stream)
