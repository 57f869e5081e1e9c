"""What docs/concepts.md says of number formats is what sites, heads and losses find."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore import Edit, Features, Prompt, PromptLayer
from avcore.config import OptimConfig
from avcore.engine.optim import Rates
from avcore.engine.step import TrainStep
from avcore.model import AVModel
from avcore.states import parameter_groups
from avcore.testing import ToyBackbones, make_batch, make_model

PAGE = Path(__file__).parents[2] / "docs" / "concepts.md"
Seen = dict[str, tuple[bool, torch.dtype]]
SEEN: Seen = {}


def note(place: str, x: Tensor) -> None:
    if not x.is_meta:
        found = SEEN.setdefault(place, (torch.is_autocast_enabled("cpu"), x.dtype))
        assert found == (torch.is_autocast_enabled("cpu"), x.dtype), place


class Layer(PromptLayer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def before_attention(self, x_MND: Tensor, at: Any) -> Edit:
        note("sites", x_MND)
        return Edit()

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        note("sites", x_MND)
        return Edit(add=self.map(x_MND))

    def attention_output(self, out_MND: Tensor, x_MND: Tensor, at: Any) -> Tensor:
        note("sites", out_MND)
        return out_MND

    def projection(self, name: str, x: Tensor) -> None:
        note("sites", x)

    def mlp(self, x_MND: Tensor, at: Any) -> Edit:
        note("sites", x_MND)
        return Edit()

    def read(self, x_MND: Tensor, at: Any) -> dict[str, Tensor]:
        note("sites", x_MND)
        return {}


class Watching(Prompt):
    def layer(self, block: Any) -> Layer:
        return Layer(block.width)

    def after_embedding(self, x_MND: Tensor, at: Any) -> Tensor:
        note("sites", x_MND)
        return x_MND

    def finish(self, features: Features) -> Features:
        note("`finish`", features.streams["visual"].tokens)
        return features

    def losses(self, features: Features) -> dict[str, Tensor]:
        tokens = features.streams["visual"].tokens
        note("`losses` of parts", tokens)
        return {"size": tokens.float().square().mean()}


def watched(model: AVModel, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = type(model.head)

    def watch(name: str, tensor: Callable[..., Tensor]) -> None:
        inner = getattr(kind, name)

        def run(self: Any, *given: Any) -> Any:
            note(f"`Head.{name}`", tensor(*given))
            return inner(self, *given)

        monkeypatch.setattr(kind, name, run)

    watch("forward", lambda features: features.streams["visual"].pooled)
    watch("loss", lambda output, *_: output["logits"])
    watch("predict", lambda output, _: output["logits"])


def documented(precision: str) -> Seen:
    """Place -> autocast, type; of the table on the page."""
    table = PAGE.read_text().partition("## Number formats")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (on|off) \| (\w+) \|", table, re.MULTILINE)
    assert len(rows) >= 6
    if precision == "fp32":
        return {place: (False, torch.float32) for place, _, _ in rows}
    return {place: (state == "on", getattr(torch, kind)) for place, state, kind in rows}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_page_says_what_is_found(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(ToyBackbones(), "toy_plain", prompts={"watching": Watching})
    if precision == "bf16":
        model.towers.to(torch.bfloat16)
    SEEN.clear()
    watched(model, monkeypatch)
    batch = make_batch(model)
    names, parameters = zip(*(one for group in parameter_groups(model).values() for one in group), strict=True)
    optimizer = torch.optim.SGD([{"params": list(parameters), "names": list(names), "kind": "parts"}], lr=0.1)
    rates = Rates(optimizer, OptimConfig(), steps_per_epoch=1, epochs=1)
    TrainStep(model, optimizer, rates)([batch], step=0, epoch=0)
    with torch.no_grad():
        model.predict(model(batch))
    assert documented(precision) == SEEN
